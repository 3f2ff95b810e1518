// Chooses the next token from logits.
#ifndef MSADB_KERNELS_SAMPLE_H_
#define MSADB_KERNELS_SAMPLE_H_

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

namespace msadb::kernels {

// The index of the largest logit, the lowest of equals. -1 when a logit is NaN or +infinity, or
// when there is none: a model that produces those is broken.
int32_t ArgMax(const float* logits, size_t count);
int32_t ArgMaxRef(const float* logits, size_t count);
// Only where CpuHasAvx2(). A vocabulary of 150,000 in plain loops would take a thirtieth of a
// decoding step on a GPU.
int32_t ArgMaxAvx2(const float* logits, size_t count);

struct SampleParams {
  const float* logits = nullptr;  // [count]
  size_t count = 0;
  float temperature =
      0;            // 0 (or below): ArgMax. Else probabilities are softmax(logits / temperature)
  float top_p = 1;  // keep the fewest most probable tokens whose probabilities reach top_p;
                    // always at least one
};

// Draws with `random`; the same seed, logits and settings give the same token. -1 as ArgMax.
// `scratch` avoids an allocation per token. Throws std::bad_alloc.
int32_t Sample(const SampleParams& p, std::mt19937_64& random,
               std::vector<std::pair<float, int32_t>>* scratch);

}  // namespace msadb::kernels

#endif  // MSADB_KERNELS_SAMPLE_H_
