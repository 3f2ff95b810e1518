# msadb_room(NAME storage SOURCES a.cc b.cc USES base PUBLIC_LIBS x PRIVATE_LIBS y)
#   One static library msadb_<NAME> per room. USES names the rooms that this one may include.
function(msadb_room)
  cmake_parse_arguments(R "" "NAME" "SOURCES;USES;PUBLIC_LIBS;PRIVATE_LIBS" ${ARGN})
  set(target msadb_${R_NAME})
  add_library(${target} STATIC ${R_SOURCES})
  # Rooms include each other as "storage/store.h" and the public headers as "msadb/status.h".
  target_include_directories(${target} PUBLIC
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>
    $<INSTALL_INTERFACE:include>)
  foreach(room ${R_USES})
    target_link_libraries(${target} PUBLIC msadb_${room})
  endforeach()
  target_link_libraries(${target} PUBLIC ${R_PUBLIC_LIBS} PRIVATE ${R_PRIVATE_LIBS})
  target_link_libraries(${target} PRIVATE $<BUILD_INTERFACE:msadb_options>)
endfunction()

# msadb_test(NAME storage_store_test SOURCES store_test.cc USES storage [LIBS ...] [LABELS ...])
#   One GoogleTest binary, registered with ctest under its name.
function(msadb_test)
  cmake_parse_arguments(T "" "NAME;TIMEOUT" "SOURCES;USES;LIBS;LABELS;ARGS" ${ARGN})
  if(NOT T_TIMEOUT)
    set(T_TIMEOUT 300)
  endif()
  find_package(GTest REQUIRED)
  add_executable(${T_NAME} ${T_SOURCES})
  foreach(room ${T_USES})
    target_link_libraries(${T_NAME} PRIVATE msadb_${room})
  endforeach()
  target_link_libraries(${T_NAME} PRIVATE ${T_LIBS} GTest::gtest GTest::gtest_main GTest::gmock
    msadb_options)
  target_compile_definitions(${T_NAME} PRIVATE
    MSADB_TEST_DATA="${PROJECT_SOURCE_DIR}/tests/data" MSADB_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  add_test(NAME ${T_NAME} COMMAND ${T_NAME} ${T_ARGS})
  set_tests_properties(${T_NAME} PROPERTIES TIMEOUT ${T_TIMEOUT} LABELS "${T_LABELS}")
  if("thread" IN_LIST MSADB_SANITIZE)
    set_property(TEST ${T_NAME} PROPERTY ENVIRONMENT OMP_THREAD_LIMIT=1
      "TSAN_OPTIONS=suppressions=${PROJECT_SOURCE_DIR}/tests/tsan.supp ignore_noninstrumented_modules=1")
  endif()
endfunction()
