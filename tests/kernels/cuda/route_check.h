// One search of the routing kernels (kernels/route_topk.h, kernels/route_topk_exact.h) on random
// keys, every step of it compared with plain loops on the host. For tests and benches.
#ifndef MSADB_TESTS_KERNELS_CUDA_ROUTE_CHECK_H_
#define MSADB_TESTS_KERNELS_CUDA_ROUTE_CHECK_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/route_topk.h"

namespace msadb::kernels {

struct RouteCase {
  enum class Mask { kNone, kHalf, kNothingAllowed };
  struct Segment {
    size_t documents = 1;
    uint32_t chunks_max = 1;  // of a document; each has at least one
    Mask mask = Mask::kNone;
    // Of each so many documents the keys of the first 64 are eight times as long: the best ones lie
    // together. 0: of none.
    size_t strong_period = 0;
  };
  RouteKeyType key_type = RouteKeyType::kFloat16;
  int dim = 64;
  std::vector<int> tokens = {1};  // of each question; more than kRouteColumns for one question only
  int top_k = 1;
  std::vector<Segment> segments;
  uint32_t rows_capacity = 4096;  // of the second step
  uint32_t seed = 1;
};

// A case of any shape. Small ones suit an emulated GPU or a sanitizer.
RouteCase RandomRouteCase(uint32_t seed, bool small);

// The layout of `tokens[q]` tokens of each question in one pass, and in (*column_token)[column] the
// token, over all questions, of each column, -1 for an unused one.
RouteColumns LayOutColumns(const std::vector<int>& tokens, std::vector<int>* column_token);

// What differed, "" for nothing. Ends the process when a CUDA call fails.
std::string CheckRouting(const RouteCase& route);

}  // namespace msadb::kernels

#endif  // MSADB_TESTS_KERNELS_CUDA_ROUTE_CHECK_H_
