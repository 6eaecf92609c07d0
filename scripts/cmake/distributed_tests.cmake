# test_distributed runs in 1, 2 and 4 ranks of an MPI job, and alone to start jobs that fail. Without MPI it runs in one
# process, and what needs more is skipped.
target_sources(test_distributed PRIVATE ${tests_dir}/examples/process.cpp)
target_compile_definitions(test_distributed PRIVATE BINADE_MPIEXEC="$<$<TARGET_EXISTS:binade_mpi>:${MPIEXEC_EXECUTABLE}>")
set(distributed_environment ${test_environment} OMP_NUM_THREADS=1
  HWLOC_HIDE_ERRORS=2 UCX_LOG_LEVEL=fatal  # MPICH's helpers, on machines without /sys
  OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1  # Open MPI: root, as in containers,
  OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none)  # and more ranks than cores

function(binade_distributed_test name processors)
  add_test(NAME ${name} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR}
    COMMAND ${ARGN} --gtest_output=json:${PROJECT_BINARY_DIR}/results/${name}.json)
  set_tests_properties(${name} PROPERTIES LABELS distributed TIMEOUT 600 PROCESSORS ${processors}
    ENVIRONMENT "${distributed_environment}")
endfunction()

if(TARGET binade_mpi)
  add_dependencies(test_distributed binade_mpi)
  set(rank_counts 1 2 4)
  if(BINADE_SANITIZE)  # the same code in every rank: two show what there is, and jobs that fail take long
    set(rank_counts 2)
  endif()
  foreach(ranks IN LISTS rank_counts)
    binade_distributed_test(distributed_${ranks} 2
      ${MPIEXEC_EXECUTABLE} -n ${ranks} $<TARGET_FILE:test_distributed> --gtest_filter=-Launched*)
  endforeach()
  if(BINADE_BUILD_EXAMPLES)
    add_dependencies(test_distributed gpt mlp precision_compare)
  endif()
  if(NOT BINADE_SANITIZE)
    binade_distributed_test(distributed_launched 2 test_distributed --gtest_filter=Launched*-LaunchedHosts*)
    binade_distributed_test(distributed_hosts 2 test_distributed --gtest_filter=LaunchedHosts*)
  endif()
else()
  binade_distributed_test(distributed_1 1 test_distributed)
endif()
