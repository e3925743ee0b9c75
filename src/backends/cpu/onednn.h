// oneDNN's matrix product on our packed weights, for CPUs with AMX: their tile unit has several times the
// arithmetic of the vector unit that our kernels use. Its sums run in another order than ours, so what it
// computes depends on whether a call was large enough to come here.
#pragma once
#include "base/types.h"

namespace trireme::cpu {

// Whether oneDNN can use AMX on this CPU (and the kernel permits it).
bool onednn_has_amx();

// y [rows, n] = x W^T for the panels (kernels.h) of a BF16 weight, on the calling thread alone. x is BF16
// [rows, k], k a multiple of 32; x and y are dense. False, with nothing written, when oneDNN has no fast way
// to do it.
struct OnednnProduct {
  const void* panels;
  i64 n, k;
  const void* x;
  i64 rows;
  float* y;
};
bool onednn_multiply(const OnednnProduct& p);

}  // namespace trireme::cpu
