# One GoogleTest program per folder of tests/, one benchmark per file of tests/bench/, and three scripts.
find_package(GTest REQUIRED)
find_package(Python3 COMPONENTS Interpreter REQUIRED)

set(tests_dir ${PROJECT_SOURCE_DIR}/tests)
set(test_environment OMP_WAIT_POLICY=passive ASAN_OPTIONS=detect_stack_use_after_return=1:allocator_may_return_null=1
  UBSAN_OPTIONS=print_stacktrace=1)
file(MAKE_DIRECTORY ${PROJECT_BINARY_DIR}/results)

# Links what test code may use; the paths let a test find golden files and the example programs.
function(binade_test_code target)
  binade_own_code(${target})
  binade_light_code(${target})
  target_link_libraries(${target} PRIVATE
    binade nlohmann_json::nlohmann_json fmt::fmt ZLIB::ZLIB OpenMP::OpenMP_CXX Threads::Threads)
  target_compile_definitions(${target} PRIVATE
    BINADE_SOURCE_DIR="${PROJECT_SOURCE_DIR}" BINADE_BINARY_DIR="${PROJECT_BINARY_DIR}")
  set_target_properties(${target} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
endfunction()

file(GLOB test_files CONFIGURE_DEPENDS RELATIVE ${tests_dir} tests/*/*.cpp)
set(folders "")
foreach(file IN LISTS test_files)
  get_filename_component(folder ${file} DIRECTORY)
  list(APPEND folders ${folder})
endforeach()
list(REMOVE_DUPLICATES folders)
list(REMOVE_ITEM folders bench golden fuzz install device_sim core)
list(PREPEND folders core)  # the others use its precompiled headers

foreach(folder IN LISTS folders)
  if(folder MATCHES "^(examples|evidence)$" AND NOT BINADE_BUILD_EXAMPLES)
    continue()
  endif()
  file(GLOB files CONFIGURE_DEPENDS tests/${folder}/*.cpp)
  if(folder STREQUAL "op_suite")
    file(GLOB sample_files CONFIGURE_DEPENDS tests/op_suite/samples_*.cpp)
    binade_generate_op_samples(${generated}/op_samples.cpp ${sample_files})
    list(APPEND files ${generated}/op_samples.cpp)
  endif()
  add_executable(test_${folder} ${files})
  binade_test_code(test_${folder})
  target_link_libraries(test_${folder} PRIVATE GTest::gtest GTest::gtest_main OpenMP::OpenMP_CXX)
  if(folder STREQUAL "distributed")
    include(scripts/cmake/distributed_tests.cmake)
    continue()
  endif()
  if(folder STREQUAL "core")
    target_precompile_headers(test_core PRIVATE ${binade_common_headers} <gtest/gtest.h> ${PROJECT_SOURCE_DIR}/binade.h)
  elseif(NOT folder MATCHES "^(cuda|evidence)$")  # these have definitions of their own
    target_precompile_headers(test_${folder} REUSE_FROM test_core)
  endif()
  add_test(NAME ${folder}
    COMMAND test_${folder} --gtest_output=json:${PROJECT_BINARY_DIR}/results/${folder}.json
    WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
  set_tests_properties(${folder} PROPERTIES LABELS ${folder} TIMEOUT 1200 ENVIRONMENT "${test_environment}")
  if(folder STREQUAL "evidence")  # the built-in cases of precision_compare
    target_sources(test_evidence PRIVATE ${PROJECT_SOURCE_DIR}/examples/precision_compare/tasks.cpp)
    target_link_libraries(test_evidence PRIVATE examples_common)
  endif()
  if(folder MATCHES "^(train|examples|evidence)$")
    set_tests_properties(${folder} PROPERTIES PROCESSORS 2)
  endif()
  if(folder STREQUAL "cuda")
    target_sources(test_cuda PRIVATE ${PROJECT_SOURCE_DIR}/cuda/runtime/probe.cpp)
    set(abi_unusable "binade::device_backend_abi")
    set(abi_stale "binade::device_backend_abi - 1")
    foreach(plugin unusable stale)
      add_library(test_plugin_${plugin} MODULE ${tests_dir}/cuda/plugins/unusable.cpp)
      binade_own_code(test_plugin_${plugin})
      target_include_directories(test_plugin_${plugin} PRIVATE $<TARGET_PROPERTY:binade,INCLUDE_DIRECTORIES>)
      target_compile_definitions(test_plugin_${plugin} PRIVATE "BINADE_TEST_ABI=(${abi_${plugin}})")
      string(TOUPPER ${plugin} upper)
      target_compile_definitions(test_cuda PRIVATE BINADE_${upper}_PLUGIN="$<TARGET_FILE:test_plugin_${plugin}>")
      add_dependencies(test_cuda test_plugin_${plugin})
    endforeach()
  endif()
  if(folder STREQUAL "examples")
    add_dependencies(test_examples mlp gpt precision_compare)
  endif()
endforeach()

file(GLOB bench_files CONFIGURE_DEPENDS tests/bench/*.cpp)
foreach(file IN LISTS bench_files)
  get_filename_component(name ${file} NAME_WE)
  add_executable(${name} ${file})
  binade_test_code(${name})
  target_link_libraries(${name} PRIVATE DNNL::dnnl OpenMP::OpenMP_CXX)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bench)
  if(name MATCHES "^bench_micro")
    find_package(benchmark CONFIG REQUIRED)
    target_link_libraries(${name} PRIVATE benchmark::benchmark)
  else()
    find_package(CLI11 CONFIG REQUIRED)
    target_link_libraries(${name} PRIVATE CLI11::CLI11)
  endif()
endforeach()

# With the precompiled header, g++ 12 warns of an overflow in std::string's own code here.
set_source_files_properties(tests/train/golden_gpt.cpp PROPERTIES SKIP_PRECOMPILE_HEADERS ON)

include(scripts/cmake/device_sim.cmake)
include(scripts/cmake/cudnn_plans.cmake)

set(check ${Python3_EXECUTABLE} ${tests_dir}/structure/check_structure.py)
add_test(NAME structure_rules COMMAND ${check} ${PROJECT_SOURCE_DIR})
add_test(NAME structure_rules_can_fail COMMAND ${check} --self-test)
set_tests_properties(structure_rules structure_rules_can_fail PROPERTIES LABELS structure)

set(resources ${Python3_EXECUTABLE} ${PROJECT_SOURCE_DIR}/scripts/cuda_resources.py)
add_test(NAME cuda_resources_can_fail COMMAND ${resources} --self-test)
set_tests_properties(cuda_resources_can_fail PROPERTIES LABELS structure)
if(TARGET binade_cuda)  # no kernel spills registers, on no architecture
  string(REPLACE ";" "," architectures "${BINADE_CUDA_ARCHITECTURES}")
  add_test(NAME cuda_compile
    COMMAND ${resources} table ${PROJECT_BINARY_DIR}/CMakeFiles/binade_cuda.dir ${architectures})
  set_tests_properties(cuda_compile PROPERTIES LABELS cuda_compile)
endif()

# A stranger's program against the installed package; only a release build has the size and speed to judge.
if(CMAKE_BUILD_TYPE STREQUAL "Release" AND NOT BINADE_SANITIZE)
  add_test(NAME install COMMAND ${tests_dir}/install/run.sh ${PROJECT_BINARY_DIR} ${CMAKE_CXX_COMPILER})
  set_tests_properties(install PROPERTIES LABELS install TIMEOUT 900 PROCESSORS 2 SKIP_RETURN_CODE 77)
endif()
