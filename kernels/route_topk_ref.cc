#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/route_topk.h"

namespace msadb::kernels {
namespace {

float HalfToFloat(uint16_t h) {
  const int exponent = (h >> 10) & 31;
  const int mantissa = h & 1023;
  float value;
  if (exponent == 0) {
    value = std::ldexp(static_cast<float>(mantissa), -24);
  } else if (exponent == 31) {
    value = mantissa ? std::numeric_limits<float>::quiet_NaN()
                     : std::numeric_limits<float>::infinity();
  } else {
    value = std::ldexp(static_cast<float>(mantissa + 1024), exponent - 25);
  }
  return h & 0x8000 ? -value : value;
}

}  // namespace

void RouteTopKReference(const RouteParams& p) {
  const auto* keys = static_cast<const uint16_t*>(p.keys);
  const auto* query_bits = static_cast<const uint16_t*>(p.queries);
  std::vector<float> queries(static_cast<size_t>(kRouteColumns) * p.dim);
  for (size_t i = 0; i < queries.size(); ++i) queries[i] = HalfToFloat(query_bits[i]);
  std::vector<float> key(p.dim);
  for (int q = 0; q < p.columns.n_questions; ++q) {
    float* scores = p.chunk_scores + static_cast<size_t>(q) * p.n_chunks;
    for (size_t c = 0; c < p.n_chunks; ++c) {
      for (int i = 0; i < p.dim; ++i) key[i] = HalfToFloat(keys[c * p.dim + i]);
      float best = p.accumulate ? scores[c] : -std::numeric_limits<float>::infinity();
      for (int column = 0; column < kRouteColumns; ++column) {
        if (p.columns.block_question[column / 8] != q) continue;
        float dot = 0;
        for (int i = 0; i < p.dim; ++i) {
          dot += key[i] * queries[static_cast<size_t>(column) * p.dim + i];
        }
        best = std::max(best, dot);
      }
      scores[c] = best;
    }
    if (p.more_columns) continue;

    std::vector<RoutedOrdinal> documents;
    for (size_t d = 0; d < p.n_documents; ++d) {
      if (p.allowed != nullptr && !(p.allowed[d / 32] >> (d % 32) & 1)) continue;
      float best = -std::numeric_limits<float>::infinity();
      for (uint32_t c = p.document_begin[d]; c < p.document_begin[d + 1]; ++c) {
        best = std::max(best, scores[c]);
      }
      if (best > -std::numeric_limits<float>::infinity()) {
        documents.push_back({best, static_cast<uint32_t>(d)});
      }
    }
    std::sort(documents.begin(), documents.end(), [](const auto& a, const auto& b) {
      return a.score != b.score ? a.score > b.score : a.document < b.document;
    });
    for (int i = 0; i < p.top_k; ++i) {
      p.results[static_cast<size_t>(q) * p.top_k + i] =
          static_cast<size_t>(i) < documents.size()
              ? documents[i]
              : RoutedOrdinal{-std::numeric_limits<float>::infinity(), UINT32_MAX};
    }
  }
}

}  // namespace msadb::kernels
