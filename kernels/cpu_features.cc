#include "kernels/cpu_features.h"

#include <omp.h>

#include <algorithm>

namespace msadb::kernels {

bool CpuHasAvx2() {
#if MSADB_KERNELS_AVX2
  static const bool has = [] {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("f16c");
  }();
  return has;
#else
  return false;
#endif
}

int CpuThreads(int requested) {
  constexpr int kThreadsMax = 256;
  // omp_get_num_procs counts the processors of this process's affinity mask.
  return std::clamp(requested > 0 ? requested : omp_get_num_procs(), 1, kThreadsMax);
}

}  // namespace msadb::kernels
