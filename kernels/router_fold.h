// Folds a query token's H routing heads into one vector of the key's width (spec section 3, "the
// inner-product form"): with g(h) = h / (H / G),
//
//   cosine:      out[t, g, :] = (1/H)        sum over h in group g of q[t, h, :] / |q[t, h, :]|
//   scaled_dot:  out[t, g, :] = (1/H) D^-1/2 sum over h in group g of q[t, h, :]
//
// so that dot(out[t], routing_key[c]) is the mean over heads of the paper's score. Done for the few
// tokens of a question: the plain loops are the CPU version.
#ifndef MSADB_KERNELS_ROUTER_FOLD_H_
#define MSADB_KERNELS_ROUTER_FOLD_H_

#include <cstddef>

namespace msadb::kernels {

struct RouterFoldParams {
  const float* q = nullptr;  // [tokens, heads, head_dim]
  size_t q_stride = 0;       // floats between tokens
  float* out = nullptr;      // [tokens, kv_heads, head_dim]; no overlap with q
  size_t tokens = 0;
  size_t heads = 0;  // a multiple of kv_heads
  size_t kv_heads = 0;
  size_t head_dim = 0;
  bool cosine = true;
};

void RouterFoldRef(const RouterFoldParams& p);

}  // namespace msadb::kernels

#endif  // MSADB_KERNELS_ROUTER_FOLD_H_
