// How many blocks share a row of logits. A pure function of the vocabulary, so that a row is cut the same way
// in any batch.
#pragma once

namespace trireme::cuda {

// Logits that fit the shared memory of one block beside the histogram.
inline constexpr int kMaxBlockLogits = 43 * 1024;
inline constexpr int kMaxSampleBlocks = 8;  // the largest cluster that every GPU of the kind can place

constexpr int sample_blocks(int vocab) {
  for (int blocks = 1; blocks <= kMaxSampleBlocks; blocks *= 2)
    if (blocks * kMaxBlockLogits >= vocab) return blocks;
  return 0;  // too large
}

}  // namespace trireme::cuda
