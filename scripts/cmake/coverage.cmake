# Counters in every line of a target, which its processes write to files beside its objects when they end.
# scripts/cuda_coverage.py says which lines of cuda/ the tests without a GPU have executed.
function(binade_counted target)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    target_compile_options(${target} PRIVATE --coverage)
    get_target_property(type ${target} TYPE)
    if(NOT type STREQUAL "OBJECT_LIBRARY")
      target_link_options(${target} PRIVATE --coverage)
    endif()
  endif()
endfunction()
