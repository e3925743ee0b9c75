#include "backends/cuda/smxx/sample_launch.cuh"
#include "backends/cuda/smxx/sample_select.cuh"

namespace trireme::cuda {
namespace {

using namespace sampling;

// The best `n` of the row, best first, into the list of the first block.
__device__ void best_ranks(Row& row, const Weigher& w, int n) {
  Shared& s = row.s;
  const uint64_t least = select(row, w, true, static_cast<uint64_t>(n)).rank;
  row.cluster.sync();  // the first block's list is empty again
  uint64_t* const list = &row.of(s.list[0], 0);
  uint32_t* const listed = &row.of(s.listed, 0);
  for (int i = 0; i < row.mine; ++i) {
    const uint64_t rank = rank_of(row.x[i], row.first_id + i);
    if (rank < least) continue;
    const uint32_t at = atomicAdd(listed, 1);
    if (at < kList) list[at] = rank;
  }
  row.cluster.sync();
  if (row.cluster.block_rank() != 0) return;
  static_assert(kMaxTopLogprobs <= kThreads && kMaxTopLogprobs <= kList);
  const int i = threadIdx.x;
  const uint64_t mine = i < n ? s.list[i] : 0;
  int place = 0;
  for (int j = 0; j < n; ++j) place += s.list[j] > mine ? 1 : 0;
  __syncthreads();
  if (i < n) s.list[place] = mine;
  __syncthreads();
}

__global__ void __launch_bounds__(kThreads, 1) logprobs(LogprobArgs a) {
  extern __shared__ __align__(16) unsigned char memory[];
  cg::cluster_group cluster = cg::this_cluster();
  const int64_t at = blockIdx.x / cluster.num_blocks();
  const float* const logits = a.logits + a.row[at] * a.row_stride;
  const int n = a.top[at];
  Row row = load_row(logits, a.vocab, memory);
  const float best = unordered(best_of(row));
  const Weigher w(best, 1.0f);
  uint32_t far = 0;  // tokens without mass: all in the last bucket
  for (int i = 0; i < row.mine; ++i) {
    const int bucket = w.bucket(row.x[i]);
    if (bucket == kBuckets - 1) {
      ++far;
    } else {
      row.s.whole.add_mass(bucket, Weigher::mass(w.weight(row.x[i])));
      row.s.whole.add_count(bucket);
    }
  }
  far = __reduce_add_sync(~0u, far);
  if (threadIdx.x % kLanes == 0 && far != 0) row.s.whole.add_count(kBuckets - 1, far);
  const double log_sum = log(static_cast<double>(sum_whole(row)) * 0x1p-44) + static_cast<double>(best);
  const auto logprob = [log_sum](float x) { return static_cast<float>(static_cast<double>(x) - log_sum); };
  if (cluster.block_rank() == 0 && threadIdx.x == 0) a.logprob[at] = logprob(logits[a.ids[a.row[at]]]);
  if (n > 0) {
    best_ranks(row, w, n);
    if (cluster.block_rank() == 0 && static_cast<int>(threadIdx.x) < n) {
      const uint64_t rank = row.s.list[threadIdx.x];
      a.top_id[at * a.top_stride + threadIdx.x] = id_of(rank);
      a.top_logprob[at * a.top_stride + threadIdx.x] = logprob(value_of(rank));
    }
  }
  cluster.sync();  // nobody leaves while its memory may be read
}

}  // namespace

cudaError_t sample_logprobs(const LogprobArgs& a, cudaStream_t stream) {
  return launch_rows(logprobs, a, a.wanted, a.vocab, stream);
}

}  // namespace trireme::cuda
