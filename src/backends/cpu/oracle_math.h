// The loops under the oracle.
#pragma once
#include <bit>

#include "tensor/view.h"

namespace trireme::cpu::oracle {

inline float value(const float* p, i64 i) { return p[i]; }
inline float value(const BF16* p, i64 i) { return static_cast<float>(p[i]); }

// Sum of a[i] b[i], as 16 interleaved sums and then their sum.
float dot(const float* a, const float* b, i64 n);
float dot(const float* a, const BF16* b, i64 n);

// out += w x
void axpy(float w, const float* x, i64 n, float* out);
void axpy(float w, const BF16* x, i64 n, float* out);

// s[0, n) becomes softmax(s).
void softmax(float* s, i64 n);

}  // namespace trireme::cpu::oracle
