# examples/<name>.cpp and examples/<name>/main.cpp (with the files beside it) become programs called <name>.
find_package(CLI11 CONFIG REQUIRED)

file(GLOB common_sources CONFIGURE_DEPENDS examples/common/*.cpp)
if(common_sources)
  add_library(examples_common STATIC ${common_sources})
  binade_own_code(examples_common)
  set(scope PUBLIC)
else()
  add_library(examples_common INTERFACE)
  set(scope INTERFACE)
endif()
target_include_directories(examples_common ${scope} ${PROJECT_SOURCE_DIR}/examples)
target_link_libraries(examples_common ${scope}
  binade CLI11::CLI11 nlohmann_json::nlohmann_json spdlog::spdlog fmt::fmt ZLIB::ZLIB Threads::Threads)

function(binade_example name)
  add_executable(${name} ${ARGN})
  binade_own_code(${name})
  target_link_libraries(${name} PRIVATE examples_common)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/examples)
endfunction()

file(GLOB single_files CONFIGURE_DEPENDS examples/*.cpp)
foreach(file IN LISTS single_files)
  get_filename_component(name ${file} NAME_WE)
  binade_example(${name} ${file})
endforeach()

file(GLOB mains CONFIGURE_DEPENDS examples/*/main.cpp)
foreach(main IN LISTS mains)
  get_filename_component(folder ${main} DIRECTORY)
  get_filename_component(name ${folder} NAME)
  file(GLOB files CONFIGURE_DEPENDS ${folder}/*.cpp)
  binade_example(${name} ${files})
endforeach()

# The report of precision_compare embeds its page and the distribution's Chart.js, so that it needs no network.
if(TARGET precision_compare)
  include(scripts/cmake/embed.cmake)
  find_file(BINADE_CHART_JS chart.min.js PATHS /usr/share/javascript/chart.js /usr/share/nodejs/chart.js/dist
    NO_DEFAULT_PATH REQUIRED DOC "Chart.js, from libjs-chart.js")
  binade_embed(${generated}/report_template.cpp report_template
    ${PROJECT_SOURCE_DIR}/examples/precision_compare/report.html)
  binade_embed(${generated}/chart_library.cpp chart_library ${BINADE_CHART_JS})
  target_sources(precision_compare PRIVATE ${generated}/report_template.cpp ${generated}/chart_library.cpp)
endif()
