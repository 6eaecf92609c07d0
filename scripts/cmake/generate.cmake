# Lists written from file names, so that a new operation touches only its own files.

# Of `files`, the stems whose file has a line that matches `pattern`, where @ stands for the stem.
# CMake runs again when one of the files changes.
function(binade_stems_matching out pattern)
  set(stems "")
  foreach(file IN LISTS ARGN)
    get_filename_component(stem ${file} NAME_WE)
    string(REPLACE "@" "${stem}" regex "${pattern}")
    file(STRINGS ${file} lines REGEX "${regex}" LIMIT_COUNT 1)
    if(NOT lines STREQUAL "")
      list(APPEND stems ${stem})
    endif()
  endforeach()
  set_property(DIRECTORY ${PROJECT_SOURCE_DIR} APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${ARGN})
  set(${out} "${stems}" PARENT_SCOPE)
endfunction()

# `template` once per stem, @ replaced.
function(binade_repeat out template)
  set(text "")
  foreach(stem IN LISTS ARGN)
    string(REPLACE "@" "${stem}" line "${template}")
    string(APPEND text "${line}")
  endforeach()
  set(${out} "${text}" PARENT_SCOPE)
endfunction()

# Writes `path` only when its text changes, so that nothing is compiled again for nothing.
function(binade_write path text)
  set(old "")
  if(EXISTS ${path})
    file(READ ${path} old)
  endif()
  if(NOT old STREQUAL text)
    file(WRITE ${path} "${text}")
  endif()
endfunction()

# ops/<stem>.cpp with families::<stem>_ops()  ->  binade::all_ops()
function(binade_generate_all_ops path)
  binade_stems_matching(stems "(^|[^a-zA-Z0-9_])@_ops\\(\\)" ${ARGN})
  binade_repeat(declarations "std::vector<OpPtr> @_ops();\n" ${stems})
  binade_repeat(entries "\n      families::@_ops," ${stems})
  binade_write(${path} "// Every operation family, in alphabetical order. Written by CMake from ops/*.cpp.
#include \"binade/ops/all_ops.h\"

#include <initializer_list>
#include <memory>
#include <utility>
#include <vector>

namespace binade {
namespace families {
${declarations}}  // namespace families

const std::vector<std::shared_ptr<const Op>>& all_ops() {
  static const std::initializer_list<std::vector<OpPtr> (*)()> list = {${entries}
  };
  static const std::vector<OpPtr> ops = [] {
    std::vector<OpPtr> all;
    for (const auto family : list) {
      for (OpPtr& op : family()) all.push_back(std::move(op));
    }
    return all;
  }();
  return ops;
}

}  // namespace binade
")
endfunction()

# <stem>.cpp or <stem>.cu with provide_<stem>() in binade::`backend`  ->  binade::`backend`::provide_kernels()
function(binade_generate_provide_kernels path backend)
  binade_stems_matching(stems "void provide_@\\(" ${ARGN})
  binade_repeat(declarations "void provide_@();\n" ${stems})
  binade_repeat(calls "  provide_@();\n" ${stems})
  binade_write(${path} "// Fills a backend's kernel slots. Written by CMake from the names of its files.
namespace binade::${backend} {

${declarations}void provide_kernels();

void provide_kernels() {
${calls}}

}  // namespace binade::${backend}
")
endfunction()

# tests/op_suite/samples_<stem>.cpp with samples_<stem>(SampleMap&)  ->  binade::test::all_samples(SampleMap&)
function(binade_generate_op_samples path)
  set(stems "")
  foreach(file IN LISTS ARGN)
    get_filename_component(stem ${file} NAME_WE)
    list(APPEND stems ${stem})
  endforeach()
  binade_repeat(declarations "void @(SampleMap&);\n" ${stems})
  binade_repeat(calls "  @(samples);\n" ${stems})
  binade_write(${path} "// Samples of every operation family. Written by CMake from tests/op_suite/samples_*.cpp.
#include \"binade/tests/op_suite/samples.h\"

namespace binade::test {

${declarations}
void all_samples([[maybe_unused]] SampleMap& samples) {
${calls}}

}  // namespace binade::test
")
endfunction()
