# What `cmake --install` puts in place: the public headers, one static library a room, the msadb
# program, the default model when the repository has one, and the package files that make
#   find_package(msadb)  +  target_link_libraries(app PRIVATE msadb::msadb)
# work in another project. Include it after all rooms are defined.
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

set(msadb_rooms)
foreach(room base kernels model index storage db)
  if(TARGET msadb_${room})
    list(APPEND msadb_rooms msadb_${room})
  endif()
endforeach()

add_library(msadb INTERFACE)
add_library(msadb::msadb ALIAS msadb)
target_link_libraries(msadb INTERFACE msadb_db)
target_compile_features(msadb INTERFACE cxx_std_20)

# The rooms are static, so whatever they link privately has to be found again by the package's user.
# Each imported target has a line here that finds it; one without a line stops the configuration
# instead of giving a package that does not work elsewhere.
set(find_faiss "find_dependency(faiss CONFIG)")
set(find_nlohmann_json::nlohmann_json "find_dependency(nlohmann_json)")
set(find_OpenMP::OpenMP_CXX "find_dependency(OpenMP COMPONENTS CXX)")
set(find_OpenSSL::Crypto "find_dependency(OpenSSL)")
set(find_PkgConfig::PCRE2 "msadb_find_module(PCRE2 libpcre2-8)")
set(find_PkgConfig::UTF8PROC "msadb_find_module(UTF8PROC libutf8proc)")
set(find_PkgConfig::XXHASH "msadb_find_module(XXHASH libxxhash)")
set(find_roaring::roaring "find_dependency(roaring)")
set(find_Threads::Threads "find_dependency(Threads)")
foreach(library cudart cudart_static cublas cublasLt)
  set(find_CUDA::${library} "find_dependency(CUDAToolkit)")
endforeach()

set(MSADB_FIND_DEPENDENCIES)
foreach(room ${msadb_rooms})
  get_target_property(libraries ${room} LINK_LIBRARIES)
  foreach(library ${libraries})
    if(DEFINED find_${library})
      list(APPEND MSADB_FIND_DEPENDENCIES "${find_${library}}")
    elseif(library MATCHES "::" AND NOT library MATCHES "^\\$<")
      message(FATAL_ERROR "cmake/MsadbInstall.cmake does not know how ${library}, which ${room} "
        "links, is found by users of the installed package; add a line there")
    endif()
  endforeach()
endforeach()
list(REMOVE_DUPLICATES MSADB_FIND_DEPENDENCIES)
list(JOIN MSADB_FIND_DEPENDENCIES "\n" MSADB_FIND_DEPENDENCIES)

set(msadb_package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/msadb)
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/msadbConfig.cmake.in
  ${PROJECT_BINARY_DIR}/msadbConfig.cmake INSTALL_DESTINATION ${msadb_package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/msadbConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/msadbConfig.cmake ${PROJECT_BINARY_DIR}/msadbConfigVersion.cmake
  DESTINATION ${msadb_package_dir})
install(TARGETS msadb ${msadb_rooms} EXPORT msadbTargets)
install(EXPORT msadbTargets NAMESPACE msadb:: DESTINATION ${msadb_package_dir})
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/msadb DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
if(TARGET msadb_cli)
  install(TARGETS msadb_cli)
endif()
if(EXISTS ${PROJECT_SOURCE_DIR}/models/default/config.json)
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/models/default
    DESTINATION ${CMAKE_INSTALL_DATADIR}/msadb/models)
endif()
