# What scripts/install_deps.sh --cuda put into build/cuda-venv, which comes before the system's: the CUDA toolkit, and the
# headers of cuDNN and cudnn-frontend.
file(GLOB binade_wheels ${PROJECT_SOURCE_DIR}/build/cuda-venv/lib/python3*/site-packages)
if(EXISTS "${binade_wheels}/nvidia/cu13/bin/nvcc" AND NOT DEFINED CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  set(CMAKE_CUDA_COMPILER ${binade_wheels}/nvidia/cu13/bin/nvcc)
  set(CUDAToolkit_ROOT ${binade_wheels}/nvidia/cu13)
endif()
set(binade_wheel_libraries "${binade_wheels}/nvidia/cudnn/lib" "${binade_wheels}/nvidia/cu13/lib"
  "${binade_wheels}/nvidia/nccl/lib")

find_path(BINADE_CUDNN_FRONTEND_INCLUDE cudnn_frontend.h HINTS "${binade_wheels}/include"
  DOC "Folder of cudnn_frontend.h (PyPI: nvidia-cudnn-frontend)")
find_path(BINADE_CUDNN_INCLUDE cudnn_graph.h HINTS "${binade_wheels}/nvidia/cudnn/include" /usr/local/cuda/include
  DOC "Folder of cudnn_graph.h")
set(binade_why_no_cudnn "")
set(oldest_cudnn_frontend 1.32)  # the first whose plans are restored without a device, as tests do
if(NOT BINADE_CUDNN_FRONTEND_INCLUDE)
  set(binade_why_no_cudnn "no cudnn_frontend.h")
elseif(NOT BINADE_CUDNN_INCLUDE)
  set(binade_why_no_cudnn "no cudnn_graph.h")
else()
  file(STRINGS ${BINADE_CUDNN_FRONTEND_INCLUDE}/cudnn_frontend_version.h numbers REGEX "_(MAJOR|MINOR)_VERSION [0-9]+")
  string(REGEX REPLACE "[^0-9;]" "" numbers "${numbers}")
  list(JOIN numbers "." cudnn_frontend)
  if(cudnn_frontend VERSION_LESS oldest_cudnn_frontend)
    set(binade_why_no_cudnn "cudnn-frontend ${cudnn_frontend} is older than ${oldest_cudnn_frontend}")
  endif()
endif()
if(binade_why_no_cudnn)
  message(STATUS "binade: attention and convolution on CUDA by own kernels only: ${binade_why_no_cudnn} "
    "(scripts/install_deps.sh --cuda)")
else()
  message(STATUS "binade: attention and convolution on CUDA through cuDNN (cudnn-frontend ${cudnn_frontend})")
endif()

# Adds who makes cuDNN's plans to a target. libcudnn is opened at first use, from the wheels or the system.
function(binade_add_cudnn_plans target)
  if(binade_why_no_cudnn)
    target_sources(${target} PRIVATE ${PROJECT_SOURCE_DIR}/cuda/libs/cudnn_plans_absent.cpp)
    return()
  endif()
  set(graphs ${PROJECT_SOURCE_DIR}/cuda/libs/cudnn_frontend_graphs.cpp)
  target_sources(${target} PRIVATE ${graphs})
  target_include_directories(${target} SYSTEM PRIVATE ${BINADE_CUDNN_FRONTEND_INCLUDE} ${BINADE_CUDNN_INCLUDE})
  set_source_files_properties(${graphs} PROPERTIES COMPILE_OPTIONS "$<$<CONFIG:Release>:-O1>")  # it compiles long
  set_property(TARGET ${target} APPEND PROPERTY BUILD_RPATH ${binade_wheel_libraries})
endfunction()
