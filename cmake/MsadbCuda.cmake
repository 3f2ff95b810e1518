# CUDA, when MSADB_CUDA wants it and a compiler is there. Sets MSADB_HAVE_CUDA.
#
# The runtime is linked statically, so that programs start on machines without a driver; cuBLAS is
# loaded when a GPU is first used (kernels/cuda/cublas.h), so that users without one need no 600 MB
# of libraries.
set(MSADB_CUDA_ARCHITECTURES "90a" CACHE STRING
  "GPU architectures to compile for, as nvcc names them without sm_: 90a (Hopper), 100a, ...")
set(MSADB_HAVE_CUDA OFF)
if(NOT MSADB_CUDA STREQUAL "OFF")
  if(NOT CMAKE_CUDA_COMPILER)
    find_program(MSADB_NVCC nvcc HINTS /usr/local/cuda/bin ENV CUDA_PATH PATH_SUFFIXES bin)
    if(MSADB_NVCC)
      set(CMAKE_CUDA_COMPILER ${MSADB_NVCC} CACHE FILEPATH "CUDA compiler")
    endif()
  endif()
  if(CMAKE_CUDA_COMPILER)
    set(CMAKE_CUDA_ARCHITECTURES OFF)
    if(MSADB_CCACHE AND NOT CMAKE_CUDA_COMPILER_LAUNCHER)
      set(CMAKE_CUDA_COMPILER_LAUNCHER ${MSADB_CCACHE})
    endif()
    enable_language(CUDA)
    # CMake 3.25 does not know that nvcc 12 and later take C++20.
    if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
      set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
      set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
    endif()
    set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
    find_package(CUDAToolkit REQUIRED)
    set(MSADB_HAVE_CUDA ON)
    # Bulk copies and wgmma need the architecture's own target ("90a"), which -arch=sm_90a does not
    # name everywhere.
    foreach(architecture ${MSADB_CUDA_ARCHITECTURES})
      add_compile_options(
        "$<$<COMPILE_LANGUAGE:CUDA>:-gencode=arch=compute_${architecture},code=sm_${architecture}>")
    endforeach()
    add_compile_options($<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr>
      $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall>)
  elseif(MSADB_CUDA STREQUAL "ON")
    message(FATAL_ERROR "MSADB_CUDA=ON, but there is no nvcc; install the CUDA Toolkit or set "
      "MSADB_CUDA to AUTO or OFF")
  endif()
endif()
message(STATUS "CUDA: ${MSADB_HAVE_CUDA}")
