#include "backends/cpu/oracle_math.h"

#include <algorithm>
#include <cmath>

namespace trireme::cpu::oracle {
namespace {

template <class T>
float dot_of(const float* a, const T* b, i64 n) {
  float sum[16] = {};
  i64 i = 0;
  for (; i + 16 <= n; i += 16)
    for (int lane = 0; lane < 16; ++lane) sum[lane] += a[i + lane] * value(b, i + lane);
  for (; i < n; ++i) sum[0] += a[i] * value(b, i);
  float total = 0;
  for (const float s : sum) total += s;
  return total;
}

}  // namespace

float dot(const float* a, const float* b, i64 n) { return dot_of(a, b, n); }
float dot(const float* a, const BF16* b, i64 n) { return dot_of(a, b, n); }

void axpy(float w, const float* x, i64 n, float* out) {
  for (i64 i = 0; i < n; ++i) out[i] += w * x[i];
}
void axpy(float w, const BF16* x, i64 n, float* out) {
  for (i64 i = 0; i < n; ++i) out[i] += w * value(x, i);
}

void softmax(float* s, i64 n) {
  const float m = *std::max_element(s, s + n);
  float sum = 0;
  for (i64 i = 0; i < n; ++i) sum += s[i] = std::exp(s[i] - m);
  for (i64 i = 0; i < n; ++i) s[i] /= sum;
}

}  // namespace trireme::cpu::oracle
