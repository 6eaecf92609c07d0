# test_cudnn_plans: the real cuDNN builds plans for GPUs that are not there (tests/cuda/plans). It needs CUDA's headers;
# without cudnn-frontend or cuDNN its tests are skipped and say so.
if(NOT CUDAToolkit_FOUND OR NOT CMAKE_SYSTEM_NAME STREQUAL "Linux")
  message(STATUS "binade: no CUDA headers, the tests of cuDNN's plans are left out")
  return()
endif()

add_library(binade_stand_in_libcuda SHARED ${tests_dir}/cuda/plans/stand_in_libcuda.cpp)
binade_own_code(binade_stand_in_libcuda)
set_target_properties(binade_stand_in_libcuda PROPERTIES
  OUTPUT_NAME cuda SOVERSION 1 LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/stand_in_libcuda)

file(GLOB plan_tests CONFIGURE_DEPENDS tests/cuda/plans/test_*.cpp)
list(APPEND plan_tests ${PROJECT_SOURCE_DIR}/cuda/libs/cudnn_plans.cpp
  ${PROJECT_SOURCE_DIR}/cuda/runtime/context.cpp ${PROJECT_SOURCE_DIR}/cuda/runtime/check.cpp
  ${PROJECT_SOURCE_DIR}/cuda/runtime/staging.cpp)
add_executable(test_cudnn_plans ${plan_tests})
binade_test_code(test_cudnn_plans)
binade_add_cudnn_plans(test_cudnn_plans)
binade_counted(test_cudnn_plans)
target_include_directories(test_cudnn_plans SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
# Linked although nothing of it is called: cuDNN then finds it under the driver's name.
target_link_options(test_cudnn_plans PRIVATE -Wl,--no-as-needed)
target_link_libraries(test_cudnn_plans PRIVATE
  binade_stand_in_libcuda CUDA::cudart_static ${CMAKE_DL_LIBS} GTest::gtest GTest::gtest_main)
foreach(part attention batch_norm others)  # side by side
  set(filter_attention "*Attention*")
  set(filter_batch_norm "*BatchNorm*")
  set(filter_others "-*Attention*:*BatchNorm*")
  add_test(NAME cudnn_plans_${part} COMMAND test_cudnn_plans --gtest_filter=${filter_${part}}
      --gtest_output=json:${PROJECT_BINARY_DIR}/results/cudnn_plans_${part}.json
    WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
  set_tests_properties(cudnn_plans_${part} PROPERTIES LABELS cudnn_plan TIMEOUT 900)
endforeach()
