# Processes that train together: a plugin, libbinade_mpi.so, that libbinade loads when a launcher started several. Nothing
# else is linked with MPI.
set(BINADE_MPI AUTO CACHE STRING "Build the MPI plugin: AUTO (where MPI is found), ON (or fail) or OFF")
set_property(CACHE BINADE_MPI PROPERTY STRINGS AUTO ON OFF)

set(why_no_mpi "")
if(NOT BINADE_MPI STREQUAL "AUTO" AND NOT BINADE_MPI)
  set(why_no_mpi "BINADE_MPI is OFF")
else()
  set(MPI_CXX_SKIP_MPICXX ON)  # the C interface is enough
  find_package(MPI COMPONENTS CXX QUIET)
  if(NOT MPI_CXX_FOUND)
    set(why_no_mpi "no MPI was found (libmpich-dev or libopenmpi-dev)")
  endif()
endif()
if(why_no_mpi)
  if(BINADE_MPI STREQUAL "ON")
    message(FATAL_ERROR "binade: data parallelism with MPI was asked for, but ${why_no_mpi}")
  endif()
  message(STATUS "binade: single processes only: ${why_no_mpi}")
  return()
endif()
message(STATUS "binade: data parallelism with MPI ${MPI_CXX_VERSION} (${MPIEXEC_EXECUTABLE})")

add_library(binade_mpi MODULE distributed/mpi/plugin.cpp)
binade_own_code(binade_mpi)
target_include_directories(binade_mpi PRIVATE $<TARGET_PROPERTY:binade,INCLUDE_DIRECTORIES>)
target_link_libraries(binade_mpi PRIVATE MPI::MPI_CXX)
install(TARGETS binade_mpi LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
