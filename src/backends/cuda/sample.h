// Ops::sample of the GPU: what smxx/sample.h launches, from rows on the host to tokens on the host.
#pragma once
#include "ops/ops.h"

namespace trireme::cuda {

// Waits for the stream. kInvalidArgument, naming the row, when its logits hold NaN or +infinity or when every
// token is banned. A draw is the CPU's but where its uniform number lies within rounding of the border
// between two tokens.
Status sample(const SampleArgs&, Stream&);

}  // namespace trireme::cuda
