# Compiler settings shared by every room.
find_program(MSADB_CCACHE ccache)
if(MSADB_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${MSADB_CCACHE})
endif()

add_library(msadb_options INTERFACE)
target_compile_options(msadb_options INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Wno-unused-parameter -Wno-missing-field-initializers>)
# g++ 12 warns of overlapping copies inside std::string that cannot be (GCC bug 105651).
target_compile_options(msadb_options INTERFACE $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Wno-restrict>)
# One line of debug information per statement is enough for stack traces and keeps links fast.
target_compile_options(msadb_options INTERFACE
  $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<CONFIG:RelWithDebInfo>>:-g1>)
if(MSADB_SANITIZE)
  target_compile_options(msadb_options INTERFACE
    -fsanitize=${MSADB_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(msadb_options INTERFACE -fsanitize=${MSADB_SANITIZE})
endif()
