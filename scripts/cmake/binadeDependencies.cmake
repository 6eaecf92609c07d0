# What libbinade is built from. Also installed: a program that links a static libbinade needs the same.
include(CMakeFindDependencyMacro)
find_dependency(Threads)
find_dependency(OpenMP COMPONENTS CXX)
find_dependency(ZLIB)
find_dependency(fmt CONFIG)
find_dependency(spdlog CONFIG)
find_dependency(dnnl CONFIG)

# Highway ships a CMake package only in newer versions; pkg-config knows the others.
find_package(hwy CONFIG QUIET)
if(TARGET hwy::hwy)
  set(BINADE_HWY_TARGET hwy::hwy)
else()
  find_dependency(PkgConfig)
  pkg_check_modules(BINADE_HWY REQUIRED IMPORTED_TARGET libhwy)
  set(BINADE_HWY_TARGET PkgConfig::BINADE_HWY)
endif()

if(PROJECT_NAME STREQUAL "binade")
  find_package(nlohmann_json CONFIG REQUIRED)  # headers only, needed only to build
endif()
