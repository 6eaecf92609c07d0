# What scripts/cuda_coverage.py builds: the CUDA backend for the simulated device, cuDNN's plans and the probe once more,
# with counters in every line of cuda/. Included after the target "tests", which does not build this.
if(NOT BINADE_DEVICE_SIM OR NOT TARGET test_cudnn_plans)
  return()
endif()

function(binade_counted target)
  target_compile_options(${target} PRIVATE -O0 --coverage -fprofile-update=atomic)
endfunction()

binade_simulated_plugin(binade_cuda_sim_coverage fast
  KERNELS ${cuda_kernel_files} HOST ${cuda_host_files} ${provide_simulated})
target_compile_definitions(binade_cuda_sim_coverage PRIVATE BINADE_CUDA_ARCHITECTURES="80")
binade_counted(binade_cuda_sim_coverage)
binade_counted(binade_cuda_sim_coverage_kernels)
target_link_options(binade_cuda_sim_coverage PRIVATE --coverage)

function(binade_counted_test name)
  add_executable(test_${name}_coverage EXCLUDE_FROM_ALL ${ARGN})
  target_compile_definitions(test_${name}_coverage PRIVATE $<TARGET_PROPERTY:test_${name},COMPILE_DEFINITIONS>)
  target_include_directories(test_${name}_coverage SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
  target_link_libraries(test_${name}_coverage PRIVATE GTest::gtest GTest::gtest_main ${CMAKE_DL_LIBS})
  binade_test_code(test_${name}_coverage)
  binade_counted(test_${name}_coverage)
  target_link_options(test_${name}_coverage PRIVATE --coverage)
endfunction()
binade_counted_test(cudnn_plans ${plan_tests})
binade_add_cudnn_plans(test_cudnn_plans_coverage)
target_link_options(test_cudnn_plans_coverage PRIVATE -Wl,--no-as-needed)
target_link_libraries(test_cudnn_plans_coverage PRIVATE binade_stand_in_libcuda CUDA::cudart_static)
binade_counted_test(cuda ${tests_dir}/cuda/probe.cpp ${PROJECT_SOURCE_DIR}/cuda/runtime/probe.cpp)

add_custom_target(cuda_coverage DEPENDS binade_cuda_sim_coverage test_cudnn_plans_coverage test_cuda_coverage
  test_op_suite test_cuda test_optim test_amp test_lowp test_distributed)
