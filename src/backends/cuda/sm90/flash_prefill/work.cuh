// Which tile of queries a CTA takes next.
#pragma once
#include "backends/cuda/sm90/flash_prefill/flash_prefill.h"

namespace trireme::cuda::flash {

constexpr int kQueries = 128, kKeys = 128;

// A tile of queries of one head; no more work where seq is negative.
struct Work {
  int seq = -1, head = 0;
  int q_row = 0;  // of q, where the tile begins
  int first = 0;  // its first query, counted in its sequence
  int q_len = 0, context = 0;
};

// A bound on the tiles of any batch of so many tokens: whole ones, and one begun for each sequence.
inline std::int64_t tiles_bound(const FlashBatch& b) {
  const int longest = b.min_tokens > 1 ? b.min_tokens : 1, some = b.tokens / longest;
  return b.tokens / kQueries + (some < b.batch.seqs ? some : b.batch.seqs);
}

// How the list goes through a sequence: groups of heads whose keys and values stay in L2 together, in them
// tiles from the last, which takes longest, and in these heads.
struct Order {
  int heads = 0, group = 1;    // group: query heads a KV head
  std::int64_t key_bytes = 1;  // of one token's keys and values of one KV head
  static constexpr std::int64_t kL2Bytes = 8 << 20;
};

__device__ inline int heads_at_once(const Order& o, int context) {
  const int kv_heads = static_cast<int>(o.kL2Bytes / (o.key_bytes * max(context, 1)));
  return min(max(kv_heads, 1) * o.group, o.heads);
}

// Entry `index` of the list, by one warp.
__device__ inline Work find_work(const FlashBatch& b, const Order& o, int index) {
  const int lane = threadIdx.x % 32;
  for (int base = 0; base < b.batch.seqs; base += 32) {
    const int seq = base + lane;
    int begin = 0, length = 0;
    if (seq < b.batch.seqs) {
      begin = b.batch.q_start[seq];
      length = b.batch.q_start[seq + 1] - begin;
    }
    const int tiles = length < b.min_tokens ? 0 : (length + kQueries - 1) / kQueries,
              entries = tiles * o.heads;
    int sum = entries;
    for (int i = 1; i < 32; i *= 2) {
      const int below = __shfl_up_sync(~0u, sum, i);
      if (lane >= i) sum += below;
    }
    int rest = index - (sum - entries);
    const unsigned mine = __ballot_sync(~0u, rest >= 0 && rest < entries);
    if (mine != 0) {
      const int at = __ffs(mine) - 1, n = __shfl_sync(~0u, tiles, at);
      rest = __shfl_sync(~0u, rest, at);
      Work w;
      w.seq = base + at;
      w.q_len = __shfl_sync(~0u, length, at);
      w.context = b.batch.context_len[w.seq];
      const int together = heads_at_once(o, w.context), first_head = rest / (n * together) * together;
      const int heads = min(together, o.heads - first_head);
      rest -= first_head * n;
      w.head = first_head + rest % heads;
      w.first = (n - 1 - rest / heads) * kQueries;
      w.q_row = __shfl_sync(~0u, begin, at) + w.first;
      return w;
    }
    index -= __shfl_sync(~0u, sum, 31);
  }
  return {};
}

// The tiles of keys that a tile of queries sees: [first, last], from the last down.
struct KeyRange {
  int first, last;
};
__device__ inline KeyRange keys_of(const Work& w, int window) {
  const int old = w.context - w.q_len;  // keys before the first query's own
  const int last = min(w.context - 1, old + w.first + kQueries - 1);
  const int first = window > 0 ? max(0, old + w.first - window + 1) : 0;
  return {first / kKeys, last / kKeys};
}

}  // namespace trireme::cuda::flash
