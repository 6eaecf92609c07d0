# The simulated device (tests/device_sim): kernels and CUDA host code compiled by the host compiler and run against an
# emulator, a checker and a runtime of our own. Test code only: never installed, and linked into nothing but tests.
#
#   binade_simulated_kernels(<target> checked|fast <file.cu>...)   an object library
#   binade_simulated_plugin(<name> checked|fast KERNELS <file.cu>... HOST <file.cpp>... [INCLUDES <folder>...])
#                                                                  lib<name>.so, for BINADE_CUDA_PLUGIN
# checked: every memory access of a kernel is judged; fast: as quick as it gets, bounds by guard pages only.

set(BINADE_DEVICE_SIM OFF)
find_package(CUDAToolkit QUIET)
if(NOT CUDAToolkit_FOUND)
  message(STATUS "binade: no CUDA headers, the tests on the simulated device are left out")
elseif(NOT CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64" OR NOT CMAKE_SYSTEM_NAME STREQUAL "Linux")
  message(STATUS "binade: the simulated device needs Linux on x86-64, its tests are left out")
elseif(BINADE_SANITIZE)
  message(STATUS "binade: the simulated device is not built under sanitizers, it needs their hooks")
else()
  set(BINADE_DEVICE_SIM ON)
endif()
if(NOT BINADE_DEVICE_SIM)
  return()
endif()

set(binade_device_sim_dir ${PROJECT_SOURCE_DIR}/tests/device_sim)

# Settings of everything that belongs to the simulated device.
function(binade_simulated_code target)
  target_include_directories(${target} SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
  target_include_directories(${target} PRIVATE $<TARGET_PROPERTY:binade,INCLUDE_DIRECTORIES>)
  if(BINADE_NCCL_INCLUDE)
    target_include_directories(${target} SYSTEM PRIVATE ${BINADE_NCCL_INCLUDE})
  endif()
endfunction()

# Puts the simulator into a program or plugin. -Bsymbolic: its runtime answers, whatever else the program has loaded.
function(binade_link_simulator target)
  target_sources(${target} PRIVATE $<TARGET_OBJECTS:binade_device_simulator>)
  target_link_options(${target} PRIVATE -Wl,--wrap=dlopen -Wl,-Bsymbolic)
  set_target_properties(${target} PROPERTIES ENABLE_EXPORTS ON)
  target_link_libraries(${target} PRIVATE binade Threads::Threads ${CMAKE_DL_LIBS})
endfunction()

file(GLOB simulator_sources CONFIGURE_DEPENDS ${binade_device_sim_dir}/*.cpp)
set(simulated_cudnn ${binade_device_sim_dir}/cudnn_plans.cpp)  # belongs to the backend's plugins only
list(REMOVE_ITEM simulator_sources ${simulated_cudnn})
if(NOT BINADE_NCCL_INCLUDE)
  list(FILTER simulator_sources EXCLUDE REGEX "/nccl_")
endif()
add_library(binade_device_simulator OBJECT EXCLUDE_FROM_ALL ${simulator_sources})
binade_own_code(binade_device_simulator)
binade_simulated_code(binade_device_simulator)

# A .cu is compiled through a file of one line, so that CMake's own idea of .cu files does not matter. Contraction is
# off and -g1 gives the reports their lines.
function(binade_simulated_kernels target flavour)
  set(stubs "")
  foreach(kernel IN LISTS ARGN)
    get_filename_component(kernel ${kernel} ABSOLUTE)
    get_filename_component(stem ${kernel} NAME_WE)
    set(stub ${CMAKE_CURRENT_BINARY_DIR}/${target}/${stem}.cpp)
    file(CONFIGURE OUTPUT ${stub} CONTENT "#include \"${kernel}\"\n" @ONLY)
    list(APPEND stubs ${stub})
  endforeach()
  add_library(${target} OBJECT EXCLUDE_FROM_ALL ${stubs})
  binade_simulated_code(${target})
  target_compile_options(${target} PRIVATE -include ${binade_device_sim_dir}/simt.h -g1 -gdwarf-4 -ffp-contract=off
    -Wall -Wextra -Wno-unknown-pragmas $<$<BOOL:${BINADE_WERROR}>:-Werror>)
  if(flavour STREQUAL "checked")
    target_compile_options(${target} PRIVATE -O1 -fsanitize=thread,alignment)
  endif()
endfunction()

function(binade_simulated_plugin name flavour)
  cmake_parse_arguments(arg "" "" "KERNELS;HOST;INCLUDES" ${ARGN})
  binade_simulated_kernels(${name}_kernels ${flavour} ${arg_KERNELS})
  add_library(${name} MODULE EXCLUDE_FROM_ALL ${arg_HOST} $<TARGET_OBJECTS:${name}_kernels>)
  binade_own_code(${name})
  binade_simulated_code(${name})
  binade_link_simulator(${name})
  target_link_libraries(${name} PRIVATE nlohmann_json::nlohmann_json)
  target_include_directories(${name} PRIVATE ${arg_INCLUDES})
  target_include_directories(${name}_kernels PRIVATE ${arg_INCLUDES})
  set_target_properties(${name} PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/device_sim)
endfunction()

# ---- the CUDA backend as plugins for the simulated device

file(GLOB cuda_kernel_files CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/cuda/kernels/*.cu)
file(GLOB cuda_host_files CONFIGURE_DEPENDS
  ${PROJECT_SOURCE_DIR}/cuda/runtime/*.cpp ${PROJECT_SOURCE_DIR}/cuda/libs/*.cpp)
list(FILTER cuda_host_files EXCLUDE REGEX "cudnn_frontend_graphs|cudnn_plans_absent")
binade_choose_communicator(cuda_host_files)
list(APPEND cuda_host_files ${simulated_cudnn})
if(cuda_kernel_files AND cuda_host_files)
  set(provide_simulated ${generated}/provide_simulated_kernels.cpp)
  binade_generate_provide_kernels(${provide_simulated} cuda ${cuda_kernel_files} ${cuda_host_files})
  foreach(flavour checked fast)
    binade_simulated_plugin(binade_cuda_sim_${flavour} ${flavour}
      KERNELS ${cuda_kernel_files} HOST ${cuda_host_files} ${provide_simulated})
    target_compile_definitions(binade_cuda_sim_${flavour} PRIVATE BINADE_CUDA_ARCHITECTURES="80")
    set_target_properties(binade_cuda_sim_${flavour} PROPERTIES EXCLUDE_FROM_ALL OFF)
  endforeach()
  foreach(target binade_cuda_sim_fast binade_cuda_sim_fast_kernels)
    target_compile_options(${target} PRIVATE $<$<CONFIG:Release>:-O1>)  # it runs as long as it compiles
    binade_counted(${target})
  endforeach()

  # Runs the tests of a program that match `filter` on the simulated device; more arguments are environment variables.
  function(binade_test_on_simulated_device name flavour program filter)
    add_test(NAME device_sim_${name}
      COMMAND test_${program} --gtest_filter=${filter}
        --gtest_output=json:${PROJECT_BINARY_DIR}/results/device_sim_${name}.json
      WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
    set_tests_properties(device_sim_${name} PROPERTIES LABELS device_sim TIMEOUT 600 ENVIRONMENT
      "${test_environment};BINADE_CUDA_PLUGIN=$<TARGET_FILE:binade_cuda_sim_${flavour}>;BINADE_TEST_DEVICE=cuda;BINADE_SIM_LEAKS=0;${ARGN}")
  endfunction()
  set(quick BINADE_SIM_PROTECT=0)  # the host's accesses to device memory are not watched: the checked runs do that
  binade_test_on_simulated_device(ops fast op_suite "Samples*" ${quick})
  binade_test_on_simulated_device(cuda fast cuda "*" ${quick})
  foreach(program optim amp lowp)
    binade_test_on_simulated_device(${program} fast ${program} "*" ${quick})
  endforeach()
  if(TARGET test_examples)
    binade_test_on_simulated_device(examples fast examples "*OnTheDevice*" ${quick})
  endif()
  binade_test_on_simulated_device(sync fast cuda "CudaSync.*" ${quick} BINADE_CUDA_SYNC=1 BINADE_NVTX=1)
  # What a profiler would be told, where the toolkit has NVTX.
  find_path(BINADE_NVTX_INCLUDE nvtx3/nvToolsExt.h HINTS ${CUDAToolkit_INCLUDE_DIRS} NO_DEFAULT_PATH)
  if(BINADE_NVTX_INCLUDE)
    add_library(test_nvtx_injection MODULE ${tests_dir}/cuda/plugins/nvtx_injection.cpp)
    binade_own_code(test_nvtx_injection)
    target_include_directories(test_nvtx_injection SYSTEM PRIVATE ${BINADE_NVTX_INCLUDE})
    add_dependencies(test_cuda test_nvtx_injection)
    binade_test_on_simulated_device(nvtx fast cuda "CudaNvtx.*" ${quick} BINADE_NVTX=1
      NVTX_INJECTION64_PATH=$<TARGET_FILE:test_nvtx_injection>)
  endif()
  # Ranks of an MPI job with a simulated device each, and jobs that the tests start themselves.
  if(TARGET binade_mpi AND BINADE_NCCL_INCLUDE)
    function(binade_ranks_on_simulated_devices name flavour ranks filter)
      binade_distributed_test(${name} 2 ${MPIEXEC_EXECUTABLE} -n ${ranks} $<TARGET_FILE:test_distributed> --gtest_filter=${filter})
      binade_on_simulated_devices(${name} ${flavour} ${ARGN})
    endfunction()
    function(binade_on_simulated_devices name flavour)
      set_tests_properties(${name} PROPERTIES LABELS "distributed;device_sim" ENVIRONMENT
        "${distributed_environment};BINADE_CUDA_PLUGIN=$<TARGET_FILE:binade_cuda_sim_${flavour}>;BINADE_TEST_DEVICE=cuda;BINADE_SIM_LEAKS=0;BINADE_SIM_DEVICES=4;${ARGN}")
    endfunction()
    foreach(ranks 2 4)
      binade_ranks_on_simulated_devices(device_sim_distributed_${ranks} fast ${ranks} "-Launched*:DeviceJobs*" ${quick})
    endforeach()
    binade_ranks_on_simulated_devices(device_sim_distributed_library_sums fast 4
      "Collectives.*Reduc*/f32:Collectives.*Reduc*/bf16:CollectiveRules.Infinities*" ${quick} BINADE_TEST_LIBRARY_SUMS=1)
    binade_ranks_on_simulated_devices(device_sim_distributed_checked checked 2
      "Collectives.*/f32:Collectives.*/bf16:DeviceStep*:Buckets*:DataParallel.Deter*" BINADE_SIM_ORDER=reverse)
    binade_distributed_test(device_sim_distributed_launched 2 test_distributed --gtest_filter=DeviceJobs*)
    binade_on_simulated_devices(device_sim_distributed_launched fast ${quick})
  endif()
  # Where a step's time goes, by the device's events.
  add_test(NAME device_sim_bench COMMAND ${Python3_EXECUTABLE} ${tests_dir}/bench/check_bench_train.py $<TARGET_FILE:bench_train>)
  set_tests_properties(device_sim_bench PROPERTIES LABELS device_sim TIMEOUT 600 ENVIRONMENT
    "${test_environment};BINADE_CUDA_PLUGIN=$<TARGET_FILE:binade_cuda_sim_fast>;BINADE_TEST_DEVICE=cuda;BINADE_SIM_LEAKS=0;${quick}")
  # The first run on a GPU, rehearsed: every step of the script, shortened.
  if(TARGET test_examples)
    add_test(NAME gpu_acceptance_rehearsal WORKING_DIRECTORY ${PROJECT_SOURCE_DIR}
      COMMAND scripts/gpu_acceptance.sh --rehearse --built ${PROJECT_BINARY_DIR} --out ${PROJECT_BINARY_DIR}/acceptance)
    set_tests_properties(gpu_acceptance_rehearsal PROPERTIES LABELS "device_sim;acceptance" TIMEOUT 600
      SKIP_RETURN_CODE 77)
  endif()
  # A GPU without FP8 emulates its products.
  binade_test_on_simulated_device(before_fp8 fast cuda "*.Fp8Products*:*/fp8_current" ${quick} BINADE_SIM_CAPABILITY=80)
  # Every access judged, threads in another order; the host's only where there are few allocations.
  binade_test_on_simulated_device(ops_checked checked op_suite
    "Samples/OpSuite.*_f32:Samples/OpSuite.*_bf16_strided" ${quick} BINADE_SIM_ORDER=reverse)
  binade_test_on_simulated_device(kernels_checked checked cuda "*Kernels.*:*CudaTraining.*fp16:*GptLayer.Moves*"
    ${quick} BINADE_SIM_ORDER=shuffled)
  binade_test_on_simulated_device(device_checked checked cuda "CudaDevice.*:CopyStream.*")
endif()

# ---- the simulator's own tests

file(GLOB self_tests CONFIGURE_DEPENDS ${binade_device_sim_dir}/self_test/*.cpp)
if(NOT BINADE_NCCL_INCLUDE)
  list(FILTER self_tests EXCLUDE REGEX "/test_nccl")
endif()
set(right_kernels ${binade_device_sim_dir}/self_test/right_kernels.cu)
set(planted_kernels ${binade_device_sim_dir}/self_test/planted_kernels.cu)
foreach(flavour checked fast)
  binade_simulated_kernels(device_sim_${flavour}_kernels ${flavour} ${right_kernels} ${planted_kernels})
  add_executable(test_device_sim_${flavour} ${self_tests} $<TARGET_OBJECTS:device_sim_${flavour}_kernels>)
  binade_test_code(test_device_sim_${flavour})
  binade_simulated_code(test_device_sim_${flavour})
  binade_link_simulator(test_device_sim_${flavour})
  target_compile_definitions(test_device_sim_${flavour} PRIVATE
    BINADE_SIM_CHECKED=$<STREQUAL:${flavour},checked>)
  target_link_libraries(test_device_sim_${flavour} PRIVATE GTest::gtest GTest::gtest_main)
  add_test(NAME device_sim_${flavour}
    COMMAND test_device_sim_${flavour} --gtest_output=json:${PROJECT_BINARY_DIR}/results/device_sim_${flavour}.json
    WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
  set_tests_properties(device_sim_${flavour} PROPERTIES LABELS device_sim TIMEOUT 600)
endforeach()
