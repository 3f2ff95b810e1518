// What this processor can do, asked once at run time.
#ifndef MSADB_KERNELS_CPU_FEATURES_H_
#define MSADB_KERNELS_CPU_FEATURES_H_

namespace msadb::kernels {

// True when this build holds the AVX2 kernels and the processor has AVX2, FMA and F16C.
bool CpuHasAvx2();

// Threads to use for `requested` (0: one per core this process may use); at least 1.
int CpuThreads(int requested);

}  // namespace msadb::kernels

#endif  // MSADB_KERNELS_CPU_FEATURES_H_
