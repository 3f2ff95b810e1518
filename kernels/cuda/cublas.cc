#include "kernels/cuda/cublas.h"

#include <dlfcn.h>

#include <string>

namespace msadb::kernels::cuda {
namespace {

template <typename Function>
bool Find(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  return *function != nullptr;
}

// The library stays loaded to the end of the process.
struct Loaded {
  CublasLibrary library;
  std::string error;

  Loaded() {
    const std::string name = "libcublas.so." + std::to_string(CUDART_VERSION / 1000);
    void* handle = nullptr;
    for (const std::string& path : {name, "/usr/local/cuda/lib64/" + name}) {
      handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
      if (handle != nullptr) break;
      if (error.empty()) error = dlerror();
    }
    if (handle == nullptr) return;
    error.clear();
    if (!Find(handle, "cublasCreate_v2", &library.create) ||
        !Find(handle, "cublasDestroy_v2", &library.destroy) ||
        !Find(handle, "cublasSetStream_v2", &library.set_stream) ||
        !Find(handle, "cublasSetWorkspace_v2", &library.set_workspace) ||
        !Find(handle, "cublasGemmEx", &library.gemm)) {
      error = name + " lacks a function";
    }
  }
};

}  // namespace

Result<const CublasLibrary*> CublasLibrary::Get() {
  static const Loaded loaded;
  if (loaded.error.empty()) return &loaded.library;
  return Status::Unavailable("the GPU cannot be used without cuBLAS (" + loaded.error +
                             "); install the CUDA Toolkit's libcublas or use device \"cpu\"");
}

}  // namespace msadb::kernels::cuda
