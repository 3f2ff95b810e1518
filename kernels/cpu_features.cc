#include "kernels/cpu_features.h"

#include <omp.h>

#include <algorithm>

#if MSADB_KERNELS_AVX2
#include <cpuid.h>
#endif

namespace msadb::kernels {
namespace {

#if MSADB_KERNELS_AVX2
// Clang 14's __builtin_cpu_supports does not know "f16c".
bool HasHalfFloats() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}
#endif

}  // namespace

bool CpuHasAvx2() {
#if MSADB_KERNELS_AVX2
  static const bool has = [] {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           HasHalfFloats();
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
