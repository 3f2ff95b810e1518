#include "index/device_faiss.h"

#include <cublas_v2.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <faiss/gpu/GpuDistance.h>
#include <faiss/gpu/StandardGpuResources.h>

#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "index/device_context.h"

namespace msadb::index::internal {

constexpr size_t kTempBytes = size_t{1} << 30;

// cuBLAS, loaded when FAISS is first used: programs must start where it is not installed. The
// functions that FAISS calls are defined at the end of this file.
struct Cublas {
  void* handle = nullptr;
  std::string error;

  Cublas() {
    const std::string name = "libcublas.so." + std::to_string(CUDART_VERSION / 1000);
    for (const std::string& path : {name, "/usr/local/cuda/lib64/" + name}) {
      handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
      if (handle != nullptr) return;
      if (error.empty()) error = dlerror();
    }
  }

  static const Cublas& Get() {
    static const Cublas library;
    return library;
  }
};

namespace {

faiss::gpu::StandardGpuResources& Resources(int device) {
  // Never destroyed: the driver may be gone before static objects are.
  static std::mutex* const mutex = new std::mutex;
  static auto* const all = new std::map<int, std::unique_ptr<faiss::gpu::StandardGpuResources>>;
  std::lock_guard lock(*mutex);
  auto& resources = (*all)[device];
  if (resources == nullptr) {
    size_t free = 0, total = 0;
    CheckCuda(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
    // FAISS ends the process when its own allocations fail, so there must be room for them.
    if (free < kTempBytes + (size_t{256} << 20)) {
      throw DeviceFailure(Status::ResourceExhausted(
          "FAISS needs 1.3 GB of free GPU memory for its working buffers; use Engine::kFused"));
    }
    auto made = std::make_unique<faiss::gpu::StandardGpuResources>();
    made->setTempMemory(kTempBytes);
    resources = std::move(made);
  }
  return *resources;
}

}  // namespace

Status CheckDeviceFaiss() {
  if (Cublas::Get().handle != nullptr) return Status::Ok();
  return Status::Unsupported("FAISS needs cuBLAS on a GPU (" + Cublas::Get().error +
                             "); install the CUDA Toolkit's libcublas, or use Engine::kFused");
}

void DeviceFaissSearch(int device, const void* keys, size_t n_rows, size_t dim, const void* queries,
                       size_t n_tokens, size_t n_listed, float* scores, int64_t* rows) {
  const DeviceScope scope(device);
  std::lock_guard lock(DeviceContext::Get(device).faiss_mutex());
  faiss::gpu::StandardGpuResources& resources = Resources(device);
  faiss::gpu::GpuDistanceParams params;
  params.metric = faiss::METRIC_INNER_PRODUCT;
  params.k = static_cast<int>(n_listed);
  params.dims = static_cast<int>(dim);
  params.vectors = keys;
  params.vectorType = faiss::gpu::DistanceDataType::F16;
  params.numVectors = static_cast<int>(n_rows);
  params.queries = queries;
  params.queryType = faiss::gpu::DistanceDataType::F16;
  params.numQueries = static_cast<int>(n_tokens);
  params.outDistances = scores;
  params.outIndices = rows;
  faiss::gpu::bfKnn(&resources, params);
  resources.syncDefaultStreamCurrentDevice();
}

// What FAISS links of cuBLAS, by the names of its header.
#define MSADB_CUBLAS_FORWARD(name, parameters, arguments)                                   \
  extern "C" cublasStatus_t name parameters {                                               \
    static const auto function =                                                            \
        reinterpret_cast<cublasStatus_t(*) parameters>(dlsym(Cublas::Get().handle, #name)); \
    return function == nullptr ? CUBLAS_STATUS_NOT_INITIALIZED : function arguments;        \
  }

}  // namespace msadb::index::internal

using msadb::index::internal::Cublas;

MSADB_CUBLAS_FORWARD(cublasCreate_v2, (cublasHandle_t * handle), (handle))
MSADB_CUBLAS_FORWARD(cublasDestroy_v2, (cublasHandle_t handle), (handle))
MSADB_CUBLAS_FORWARD(cublasSetStream_v2, (cublasHandle_t handle, cudaStream_t stream),
                     (handle, stream))
MSADB_CUBLAS_FORWARD(cublasSetMathMode, (cublasHandle_t handle, cublasMath_t mode), (handle, mode))
MSADB_CUBLAS_FORWARD(cublasSgemmEx,
                     (cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m,
                      int n, int k, const float* alpha, const void* a, cudaDataType type_a, int lda,
                      const void* b, cudaDataType type_b, int ldb, const float* beta, void* c,
                      cudaDataType type_c, int ldc),
                     (handle, op_a, op_b, m, n, k, alpha, a, type_a, lda, b, type_b, ldb, beta, c,
                      type_c, ldc))
MSADB_CUBLAS_FORWARD(cublasGemmEx,
                     (cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m,
                      int n, int k, const void* alpha, const void* a, cudaDataType type_a, int lda,
                      const void* b, cudaDataType type_b, int ldb, const void* beta, void* c,
                      cudaDataType type_c, int ldc, cublasComputeType_t compute,
                      cublasGemmAlgo_t algorithm),
                     (handle, op_a, op_b, m, n, k, alpha, a, type_a, lda, b, type_b, ldb, beta, c,
                      type_c, ldc, compute, algorithm))
