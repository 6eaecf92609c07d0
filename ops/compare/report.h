// What a comparison shows: a table for the terminal, JSON, and a self-contained HTML report.
#pragma once
#include <string>

#include "binade/ops/compare/comparison.h"

namespace binade::compare {

std::string table(const Comparison& comparison);  // with one line per verdict

// The schema is in docs/precision_compare.md. Files are replaced atomically.
std::string json(const Comparison& comparison);
void write_json(const Comparison& comparison, const std::string& path);
void write_html(const Comparison& comparison, const std::string& path);  // needs no network

}  // namespace binade::compare
