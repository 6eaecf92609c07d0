// BINADE_TRACE=dispatch[,...]: lines on stderr about what a backend decided, for those who wonder why.
#pragma once
#include <initializer_list>
#include <string_view>

namespace binade {

bool traces(std::string_view topic);  // whether BINADE_TRACE names the topic; asked anew each time
// Writes "binade: topic: parts" as one line.
void trace(std::string_view topic, std::initializer_list<std::string_view> parts);

}  // namespace binade
