# The CUDA backend: a plugin, libbinade_cuda.so, that libbinade loads at run time. Nothing else is linked with CUDA.
set(BINADE_CUDA AUTO CACHE STRING "Build the CUDA backend: AUTO (where nvcc is found), ON (or fail) or OFF")
set_property(CACHE BINADE_CUDA PROPERTY STRINGS AUTO ON OFF)
# Machine code for each of these, oldest first. It comes from PTX of the oldest, which is kept for GPUs that are newer
# still: our kernels use nothing that newer ones add, and the compiler's slow first half runs once instead of six times.
set(BINADE_CUDA_ARCHITECTURES "80;86;89;90;100;120" CACHE STRING "GPU architectures of the CUDA backend, oldest first")

# Sets `out` to why the backend is not built, or to nothing.
function(binade_why_no_cuda out)
  set(reason "")
  if(NOT BINADE_CUDA STREQUAL "AUTO" AND NOT BINADE_CUDA)
    set(reason "BINADE_CUDA is OFF")
  elseif(NOT BUILD_SHARED_LIBS)
    set(reason "a static libbinade cannot load it")
  else()
    include(CheckLanguage)
    check_language(CUDA)
    if(NOT CMAKE_CUDA_COMPILER)
      set(reason "no nvcc was found")
    endif()
  endif()
  set(${out} "${reason}" PARENT_SCOPE)
endfunction()

binade_why_no_cuda(why_no_cuda)
if(why_no_cuda)
  if(BINADE_CUDA STREQUAL "ON")
    message(FATAL_ERROR "binade: the CUDA backend was asked for, but ${why_no_cuda}")
  endif()
  message(STATUS "binade: CPU backend only: ${why_no_cuda}")
  return()
endif()

list(GET BINADE_CUDA_ARCHITECTURES 0 oldest)
set(cuda_code "--generate-code=arch=compute_${oldest},code=[compute_${oldest}")
foreach(architecture IN LISTS BINADE_CUDA_ARCHITECTURES)
  string(APPEND cuda_code ",sm_${architecture}")
endforeach()
string(APPEND cuda_code "]")
set(CMAKE_CUDA_ARCHITECTURES OFF)
enable_language(CUDA)
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 does not know it of every nvcc
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
endif()
find_package(CUDAToolkit REQUIRED)
find_package(Python3 COMPONENTS Interpreter REQUIRED)
message(STATUS "binade: CPU and CUDA backends (nvcc ${CMAKE_CUDA_COMPILER_VERSION}; ${BINADE_CUDA_ARCHITECTURES})")

file(GLOB cuda_kernels CONFIGURE_DEPENDS cuda/kernels/*.cu)
file(GLOB cuda_sources CONFIGURE_DEPENDS cuda/runtime/*.cpp cuda/libs/*.cpp)
list(FILTER cuda_sources EXCLUDE REGEX "cudnn_frontend_graphs|cudnn_plans_absent")
binade_choose_communicator(cuda_sources)
if(NOT BINADE_NCCL_INCLUDE)
  message(STATUS "binade: no data parallelism across GPUs: no nccl.h (scripts/install_deps.sh --cuda)")
endif()
binade_generate_provide_kernels(${generated}/provide_cuda_kernels.cpp cuda ${cuda_kernels} ${cuda_sources})

add_library(binade_cuda MODULE ${cuda_kernels} ${cuda_sources} ${generated}/provide_cuda_kernels.cpp)
binade_own_code(binade_cuda)
binade_add_cudnn_plans(binade_cuda)
# No contraction to fused multiply-add, as everywhere: kernels ask for it themselves, and round as the CPU's do.
target_compile_options(binade_cuda PRIVATE
  "$<$<COMPILE_LANGUAGE:CUDA>:${cuda_code};--expt-relaxed-constexpr;--fmad=false;-Xptxas=-v;-Xcompiler=-Wall,-Wextra,-ffp-contract=off;$<$<BOOL:${BINADE_WERROR}>:-Werror=all-warnings>>")
string(REPLACE ";" "," architectures "${BINADE_CUDA_ARCHITECTURES}")
target_compile_definitions(binade_cuda PRIVATE BINADE_CUDA_ARCHITECTURES="${architectures}")
target_link_libraries(binade_cuda PRIVATE binade CUDA::cudart_static nlohmann_json::nlohmann_json ${CMAKE_DL_LIBS})
target_link_options(binade_cuda PRIVATE -Wl,--exclude-libs,ALL)
if(BINADE_NCCL_INCLUDE)
  target_include_directories(binade_cuda SYSTEM PRIVATE ${BINADE_NCCL_INCLUDE})
  set_property(TARGET binade_cuda APPEND PROPERTY BUILD_RPATH ${binade_wheel_libraries})
endif()
set_target_properties(binade_cuda PROPERTIES INSTALL_RPATH "$ORIGIN"
  # keeps ptxas's report of registers and spills beside each object
  CUDA_COMPILER_LAUNCHER
  "${Python3_EXECUTABLE};${PROJECT_SOURCE_DIR}/scripts/cuda_resources.py;capture;${CMAKE_CXX_COMPILER_LAUNCHER}")
install(TARGETS binade_cuda LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
