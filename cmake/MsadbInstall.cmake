# What `cmake --install` puts in place: the public headers, one static library a room, the msadb
# program, the default model when the repository has one, and the package files that make
#   find_package(msadb)                      +  target_link_libraries(app PRIVATE msadb::msadb)
#   find_package(msadb COMPONENTS client)    +  target_link_libraries(app PRIVATE msadb::client)
# work in another project. `cmake --install build --component client` installs what the second needs
# and nothing else. Include it after all rooms are defined.
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

# The rooms of the client, which the embedded library needs too as far as base and values go.
set(msadb_client_rooms)
foreach(room base values wire client)
  if(TARGET msadb_${room})
    list(APPEND msadb_client_rooms msadb_${room})
  endif()
endforeach()
set(msadb_embedded_rooms)
foreach(room kernels model index storage db)
  if(TARGET msadb_${room})
    list(APPEND msadb_embedded_rooms msadb_${room})
  endif()
endforeach()

add_library(msadb INTERFACE)
add_library(msadb::msadb ALIAS msadb)
target_link_libraries(msadb INTERFACE msadb_db)
target_compile_features(msadb INTERFACE cxx_std_20)
if(TARGET msadb_client)
  add_library(msadb_client_package INTERFACE)
  add_library(msadb::client ALIAS msadb_client_package)
  set_target_properties(msadb_client_package PROPERTIES EXPORT_NAME client)
  target_link_libraries(msadb_client_package INTERFACE msadb_client)
  target_compile_features(msadb_client_package INTERFACE cxx_std_20)
  list(APPEND msadb_client_rooms msadb_client_package)
endif()

# The rooms are static, so whatever they link privately has to be found again by the package's user.
# Each imported target has a line here that finds it; one without a line stops the configuration
# instead of giving a package that does not work elsewhere.
set(find_faiss "find_dependency(faiss CONFIG)")
set(find_nlohmann_json::nlohmann_json "find_dependency(nlohmann_json)")
set(find_OpenMP::OpenMP_CXX "find_dependency(OpenMP COMPONENTS CXX)")
set(find_OpenSSL::Crypto "find_dependency(OpenSSL)")
set(find_OpenSSL::SSL "find_dependency(OpenSSL)")
set(find_PkgConfig::PCRE2 "msadb_find_module(PCRE2 libpcre2-8)")
set(find_PkgConfig::UTF8PROC "msadb_find_module(UTF8PROC libutf8proc)")
set(find_PkgConfig::XXHASH "msadb_find_module(XXHASH libxxhash)")
set(find_roaring::roaring "find_dependency(roaring)")
set(find_Threads::Threads "find_dependency(Threads)")
foreach(library cudart cudart_static cublas cublasLt)
  set(find_CUDA::${library} "find_dependency(CUDAToolkit)")
endforeach()

# The lines for the libraries that `rooms` link, as one text.
function(msadb_find_lines out)
  set(lines)
  foreach(room ${ARGN})
    get_target_property(libraries ${room} LINK_LIBRARIES)
    foreach(library ${libraries})
      if(DEFINED find_${library})
        list(APPEND lines "${find_${library}}")
      elseif(library MATCHES "::" AND NOT library MATCHES "^\\$<")
        message(FATAL_ERROR "cmake/MsadbInstall.cmake does not know how ${library}, which ${room} "
          "links, is found by users of the installed package; add a line there")
      endif()
    endforeach()
  endforeach()
  list(REMOVE_DUPLICATES lines)
  list(JOIN lines "\n  " lines)
  set(${out} "${lines}" PARENT_SCOPE)
endfunction()
msadb_find_lines(MSADB_FIND_CLIENT_DEPENDENCIES ${msadb_client_rooms})
msadb_find_lines(MSADB_FIND_EMBEDDED_DEPENDENCIES ${msadb_embedded_rooms})

set(msadb_package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/msadb)
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/msadbConfig.cmake.in
  ${PROJECT_BINARY_DIR}/msadbConfig.cmake INSTALL_DESTINATION ${msadb_package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/msadbConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/msadbConfig.cmake ${PROJECT_BINARY_DIR}/msadbConfigVersion.cmake
  DESTINATION ${msadb_package_dir} COMPONENT client)
install(TARGETS ${msadb_client_rooms} EXPORT msadbClientTargets COMPONENT client)
install(EXPORT msadbClientTargets NAMESPACE msadb:: DESTINATION ${msadb_package_dir}
  COMPONENT client)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/msadb DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
  COMPONENT client)
install(TARGETS msadb ${msadb_embedded_rooms} EXPORT msadbTargets COMPONENT embedded)
install(EXPORT msadbTargets NAMESPACE msadb:: DESTINATION ${msadb_package_dir}
  COMPONENT embedded)
if(TARGET msadb_cli)
  install(TARGETS msadb_cli)
endif()
if(EXISTS ${PROJECT_SOURCE_DIR}/models/default/config.json)
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/models/default
    DESTINATION ${CMAKE_INSTALL_DATADIR}/msadb/models)
endif()
