# binade_embed(out symbol file): writes `out`, a C++ file that defines `const char* const binade::compare::symbol[]`, the text of
# `file` in pieces (compilers limit one literal), ended by a null pointer.
function(binade_embed out symbol file)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${file})
  file(READ ${file} hex HEX)
  string(LENGTH "${hex}" length)
  set(pieces "")
  set(at 0)
  while(at LESS length)
    string(SUBSTRING "${hex}" ${at} 24000 piece)
    string(REGEX REPLACE "(..)" "\\\\x\\1" piece "${piece}")
    string(APPEND pieces "    \"${piece}\",\n")
    math(EXPR at "${at} + 24000")
  endwhile()
  binade_write(${out} "// ${symbol}, written by CMake.
namespace binade::compare {
extern const char* const ${symbol}[];
const char* const ${symbol}[] = {
${pieces}    nullptr};
}  // namespace binade::compare
")
endfunction()
