// The elementwise steps of attention on one row of scores: vectorised for float, plain for double.
#pragma once
#include <cstdint>

namespace binade::cpu {

template <class S>
struct RowSoftmax {
  S max, sum;
};

// x = exp(scale x - max); sum 0 and x = 0 for a row of -inf
RowSoftmax<float> exp_row(float* x, std::int64_t n, float scale);
RowSoftmax<double> exp_row(double* x, std::int64_t n, double scale);
// x = exp(scale x - lse), the probabilities; 0 where lse is -inf
void probability_row(float* x, std::int64_t n, float scale, float lse);
void probability_row(double* x, std::int64_t n, double scale, double lse);
// dp = p (dp - delta) scale: the gradient of the scores
void score_gradient_row(const float* p, float* dp, std::int64_t n, float delta, float scale);
void score_gradient_row(const double* p, double* dp, std::int64_t n, double delta, double scale);
void scale_row(float* x, std::int64_t n, float factor);
void scale_row(double* x, std::int64_t n, double factor);
float dot_row(const float* a, const float* b, std::int64_t n);
double dot_row(const double* a, const double* b, std::int64_t n);

}  // namespace binade::cpu
