// silu(gate) * up of BF16 rows, as BF16, as quantised rows, or as both.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "backends/cuda/smxx/quantise.h"

namespace trireme::cuda::smxx {

struct SwigluArgs {
  const uint16_t* gate_up = nullptr;  // [rows, 2 n] BF16: gate, then up
  int64_t gate_up_stride = 0;         // elements between rows
  uint16_t* out = nullptr;            // [rows, n] BF16, or null
  int64_t out_stride = 0;
  QuantOut q = {};  // [rows, n], of the values rounded to BF16; or none
  int64_t rows = 0, n = 0;
  const int32_t* rows_used = nullptr;  // on the device: how many of the rows to compute; null: all
};
cudaError_t swiglu(const SwigluArgs&, cudaStream_t);

}  // namespace trireme::cuda::smxx
