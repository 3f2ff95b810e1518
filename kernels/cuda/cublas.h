// cuBLAS, loaded when a GPU is first used: programs that never use one neither need nor load its
// 600 MB of libraries.
#ifndef MSADB_KERNELS_CUDA_CUBLAS_H_
#define MSADB_KERNELS_CUDA_CUBLAS_H_

#include <cublas_v2.h>
#include <cuda_runtime_api.h>

#include <cstddef>

#include "msadb/status.h"

namespace msadb::kernels::cuda {

// The functions used, by the names that cublas_v2.h gives them.
struct CublasLibrary {
  decltype(&cublasCreate_v2) create = nullptr;
  decltype(&cublasDestroy_v2) destroy = nullptr;
  decltype(&cublasSetStream_v2) set_stream = nullptr;
  decltype(&cublasSetWorkspace_v2) set_workspace = nullptr;
  // cublasGemmEx, which C++ overloads.
  cublasStatus_t (*gemm)(cublasHandle_t, cublasOperation_t, cublasOperation_t, int m, int n, int k,
                         const void* alpha, const void* a, cudaDataType a_type, int lda,
                         const void* b, cudaDataType b_type, int ldb, const void* beta, void* c,
                         cudaDataType c_type, int ldc, cublasComputeType_t,
                         cublasGemmAlgo_t) = nullptr;

  // Loads the library of this build's CUDA version once per process. Unavailable names what is
  // missing.
  static Result<const CublasLibrary*> Get();
};

}  // namespace msadb::kernels::cuda

#endif  // MSADB_KERNELS_CUDA_CUBLAS_H_
