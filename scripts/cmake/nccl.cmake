# NCCL: its header from the CUDA toolkit, the system or what scripts/install_deps.sh --cuda installed (cudnn.cmake).
# libnccl.so.2 is opened at first use.
find_path(BINADE_NCCL_INCLUDE nccl.h HINTS "${binade_wheels}/nvidia/nccl/include" /usr/local/cuda/include
  DOC "Folder of nccl.h (Debian: libnccl-dev, PyPI: nvidia-nccl-cu13)")

# Of the backend's sources in the list `name`, leaves the communicator that this build can have.
function(binade_choose_communicator name)
  set(sources ${${name}})
  if(BINADE_NCCL_INCLUDE)
    list(FILTER sources EXCLUDE REGEX "/communicator_absent")
  else()
    list(FILTER sources EXCLUDE REGEX "/communicator_nccl|/nccl_functions")
  endif()
  set(${name} ${sources} PARENT_SCOPE)
endfunction()
