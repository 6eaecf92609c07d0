# The CUDA backend: a plugin, libbinade_cuda.so, that libbinade loads at run time. Nothing else is linked with CUDA.
set(BINADE_CUDA AUTO CACHE STRING "Build the CUDA backend: AUTO (where nvcc is found), ON (or fail) or OFF")
set_property(CACHE BINADE_CUDA PROPERTY STRINGS AUTO ON OFF)
# SASS for these, and PTX of the newest for GPUs that are newer still.
set(BINADE_CUDA_ARCHITECTURES "80-real;86-real;89-real;90-real;100-real;120" CACHE STRING
  "GPU architectures of the CUDA backend, as for CMAKE_CUDA_ARCHITECTURES")

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

set(CMAKE_CUDA_ARCHITECTURES ${BINADE_CUDA_ARCHITECTURES})
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)
find_package(Python3 COMPONENTS Interpreter REQUIRED)
message(STATUS "binade: CPU and CUDA backends (nvcc ${CMAKE_CUDA_COMPILER_VERSION}; ${BINADE_CUDA_ARCHITECTURES})")

file(GLOB cuda_kernels CONFIGURE_DEPENDS cuda/kernels/*.cu)
file(GLOB cuda_sources CONFIGURE_DEPENDS cuda/runtime/*.cpp cuda/libs/*.cpp)
binade_generate_provide_kernels(${generated}/provide_cuda_kernels.cpp cuda ${cuda_kernels} ${cuda_sources})

add_library(binade_cuda MODULE ${cuda_kernels} ${cuda_sources} ${generated}/provide_cuda_kernels.cpp)
binade_own_code(binade_cuda)
# No contraction to fused multiply-add, as everywhere: kernels ask for it themselves, and round as the CPU's do.
target_compile_options(binade_cuda PRIVATE
  "$<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr;--fmad=false;-Xptxas=-v;-Xcompiler=-Wall,-Wextra,-ffp-contract=off;$<$<BOOL:${BINADE_WERROR}>:-Werror=all-warnings>>")
target_compile_definitions(binade_cuda PRIVATE BINADE_CUDA_ARCHITECTURES="${BINADE_CUDA_ARCHITECTURES}")
target_link_libraries(binade_cuda PRIVATE binade CUDA::cudart_static ${CMAKE_DL_LIBS})
target_link_options(binade_cuda PRIVATE -Wl,--exclude-libs,ALL)
set_target_properties(binade_cuda PROPERTIES CUDA_STANDARD 20 CUDA_STANDARD_REQUIRED ON INSTALL_RPATH "$ORIGIN"
  # keeps ptxas's report of registers and spills beside each object
  CUDA_COMPILER_LAUNCHER
  "${Python3_EXECUTABLE};${PROJECT_SOURCE_DIR}/scripts/cuda_resources.py;capture;${CMAKE_CXX_COMPILER_LAUNCHER}")
install(TARGETS binade_cuda LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
