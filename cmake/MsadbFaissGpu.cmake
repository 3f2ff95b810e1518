# FAISS on GPUs: the reference engine that the fused kernel is held against, and its rival in bench/.
# Sets MSADB_HAVE_FAISS_GPU, MSADB_FAISS_GPU_LIBRARIES and MSADB_FAISS_GPU_INCLUDE_DIRS, and the
# target msadb_faiss_gpu that whoever includes the headers depends on.
#
# A FAISS with GPU code that CMake finds is used as it is. Debian's has none; then the part needed is
# built from Debian's source package of the installed version, once per machine and architecture, in
# MSADB_FAISS_GPU_CACHE (build-faiss-gpu.sh; some 6 minutes on two cores). MSADB_FAISS_GPU says when:
#   AUTO  when it is in the cache already, or this machine has an NVIDIA driver
#   ON    always       OFF  never
# Without it everything works but Engine::kFaiss on GPUs.
set(MSADB_FAISS_GPU "AUTO" CACHE STRING "FAISS on GPUs: AUTO, ON or OFF")
set(msadb_cache_home "$ENV{XDG_CACHE_HOME}")
if(NOT msadb_cache_home)
  set(msadb_cache_home "$ENV{HOME}/.cache")
endif()
list(GET MSADB_CUDA_ARCHITECTURES 0 msadb_faiss_architecture)
string(REGEX REPLACE "[a-z]+$" "" msadb_faiss_architecture "${msadb_faiss_architecture}")
set(MSADB_FAISS_GPU_CACHE
  "${msadb_cache_home}/msadb/faiss-gpu-${faiss_VERSION}-sm_${msadb_faiss_architecture}"
  CACHE PATH "Where the GPU part of FAISS is built and kept")

set(MSADB_HAVE_FAISS_GPU OFF)
set(MSADB_FAISS_GPU_LIBRARIES)
set(MSADB_FAISS_GPU_INCLUDE_DIRS)
if(NOT MSADB_FAISS_GPU STREQUAL "OFF")
  get_target_property(msadb_faiss_includes faiss INTERFACE_INCLUDE_DIRECTORIES)
  find_path(MSADB_FAISS_GPU_HEADERS faiss/gpu/GpuDistance.h HINTS ${msadb_faiss_includes})
  mark_as_advanced(MSADB_FAISS_GPU_HEADERS)
  set(msadb_faiss_archive "${MSADB_FAISS_GPU_CACHE}/libfaiss_gpu.a")
  if(MSADB_FAISS_GPU_HEADERS)
    set(MSADB_HAVE_FAISS_GPU ON)
    add_custom_target(msadb_faiss_gpu)
  elseif(MSADB_FAISS_GPU STREQUAL "ON" OR EXISTS "${msadb_faiss_archive}"
         OR EXISTS /proc/driver/nvidia/version OR EXISTS /dev/nvidiactl)
    set(MSADB_HAVE_FAISS_GPU ON)
    add_custom_command(OUTPUT "${msadb_faiss_archive}"
      COMMAND ${PROJECT_SOURCE_DIR}/cmake/build-faiss-gpu.sh "${MSADB_FAISS_GPU_CACHE}"
        "${CMAKE_CUDA_COMPILER}" "${msadb_faiss_architecture}"
      COMMENT "Building FAISS for GPUs in ${MSADB_FAISS_GPU_CACHE} (once; some minutes)" VERBATIM)
    add_custom_target(msadb_faiss_gpu DEPENDS "${msadb_faiss_archive}")
    set(MSADB_FAISS_GPU_INCLUDE_DIRS "${MSADB_FAISS_GPU_CACHE}/include")
    # An installed msadb brings the archive along.
    include(GNUInstallDirs)
    install(FILES "${msadb_faiss_archive}" DESTINATION ${CMAKE_INSTALL_LIBDIR}
      RENAME libmsadb_faiss_gpu.a)
    set(MSADB_FAISS_GPU_LIBRARIES
      $<BUILD_INTERFACE:${msadb_faiss_archive}>
      $<INSTALL_INTERFACE:$<INSTALL_PREFIX>/${CMAKE_INSTALL_LIBDIR}/libmsadb_faiss_gpu.a>)
  endif()
endif()
message(STATUS "FAISS on GPUs: ${MSADB_HAVE_FAISS_GPU}")
