// What this machine can do, as yardsticks for the benchmarks. Each takes about a second; nothing else should
// run.
#pragma once
#include "base/types.h"

namespace trireme::cpu {

// Bytes a second that `threads` threads read from a buffer far larger than the caches; the best of several
// passes.
double measured_read_bandwidth(int threads);

// Floating-point operations a second of oneDNN's own BF16 product [m, k] x [k, n] into float32, on all cores,
// with the weight in the layout that oneDNN prefers. 0 if oneDNN has no such product here.
double onednn_gemm_rate(i64 m, i64 n, i64 k);

}  // namespace trireme::cpu
