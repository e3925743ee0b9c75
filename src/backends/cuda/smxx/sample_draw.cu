#include <climits>

#include "backends/cuda/smxx/sample_launch.cuh"
#include "backends/cuda/smxx/sample_select.cuh"

namespace trireme::cuda {
namespace {

using namespace sampling;

// Bias, bans and penalties, in the order of the field. Only this block's tokens are touched.
__device__ void edit(float* x, int begin, int end, const DrawArgs& a, const SampleRowParams& p) {
  for (int e = p.edit_begin + static_cast<int>(threadIdx.x); e < p.edit_end; e += kThreads) {
    const SampleEdit change = a.edits[e];
    if (change.id < begin || change.id >= end) continue;
    float v = x[change.id - begin] + change.bias;
    if (change.made >= 0) {
      v = v > 0 ? v / p.repetition : v * p.repetition;
      // Rounded after each step, as everywhere else: a tie must stay one.
      const float often = __fmul_rn(p.frequency, static_cast<float>(change.made));
      v -= __fadd_rn(often, change.made > 0 ? p.presence : 0.0f);
    }
    x[change.id - begin] = v;
  }
  __syncthreads();
}

// From which bucket on all tokens together have less than what top-p leaves out, so that where they are does
// not matter: `vocab` of them have at most `vocab` times the weight at its beginning.
__device__ int far_bucket(int vocab, float top_p) {
  const float bits = log2f(static_cast<float>(vocab) / (1.0f - top_p));
  return min(static_cast<int>(bits * Weigher::kBucketsPerBit) + 2, kBuckets - 1);
}

// The worst rank that top-k and then top-p leave.
__device__ uint64_t threshold(Row& row, const Weigher& w, int vocab, int top_k, float top_p) {
  const bool by_count = top_k > 0, by_mass = top_p < 1;
  const int far = by_count ? kBuckets - 1 : far_bucket(vocab, top_p);
  if (by_mass) {
    uint64_t far_mass = 0;
#pragma unroll 4
    for (int i = 0; i < row.mine; ++i) {
      const float x = row.x[i];
      const int bucket = w.bucket(x);
      const uint64_t mass = Weigher::mass(w.weight(x));
      if (bucket >= far) {
        far_mass += mass;
      } else {
        row.s.whole.add_mass(bucket, mass);
        if (by_count) row.s.whole.add_count(bucket);
      }
    }
    far_mass = warp_sum(far_mass);
    if (threadIdx.x % kLanes == 0 && far_mass != 0) row.s.whole.add_mass(far, far_mass);
  } else {
#pragma unroll 4
    for (int i = 0; i < row.mine; ++i) {
      const int bucket = w.bucket(row.x[i]);
      if (bucket < far) row.s.whole.add_count(bucket);
    }
  }
  Threshold t = {0, sum_whole(row)};
  if (by_count) t = select(row, w, true, static_cast<uint64_t>(top_k));
  if (by_mass) {
    // What top-k leaves has this mass or more among the best tokens, so that the search ends among them.
    const double share = static_cast<double>(top_p) * static_cast<double>(t.mass);
    const uint64_t wanted = max(uint64_t{1}, min(t.mass, static_cast<uint64_t>(ceil(share))));
    t.rank = select(row, w, false, wanted).rank;
  }
  return t.rank;
}

// The first token, by id, at which the sum of what stays passes the uniform number's share of the whole.
// False, with nothing written, if nothing stays.
__device__ bool invert(Row& row, const Weigher& w, uint64_t least, float min_p, double uniform, int32_t* id) {
  const float least_x = least == 0 ? -INFINITY : value_of(least);
  const int last_id = least == 0 ? INT_MAX : id_of(least);  // of those at least_x
  const auto mass_of = [&](float x, int token) -> uint64_t {
    const float weight = w.weight(x);
    const bool stays = weight >= min_p && x >= least_x && (x != least_x || token <= last_id);
    return stays ? Weigher::mass(weight) : 0;
  };
  uint64_t mine = 0, all = 0;
#pragma unroll 4
  for (int i = 0; i < row.mine; ++i) mine += mass_of(row.x[i], row.first_id + i);
  uint64_t before = mass_before(mine, all, row.s);
  if (threadIdx.x == 0) row.s.total = all;
  row.cluster.sync();
  const uint64_t block = of_blocks(row, row.s.total, uint64_t{0});
  const uint64_t total = warp_sum(block);
  if (total == 0) return false;
  before += warp_sum(threadIdx.x % kLanes < row.cluster.block_rank() ? block : 0);
  const uint64_t target = min(total - 1, static_cast<uint64_t>(uniform * static_cast<double>(total)));
  const bool here = target >= before && target - before < mine;
  const uint32_t owners = __ballot_sync(~0u, here);
  if (owners == 0) return true;
  // The warp looks for the token in its one lane's stretch.
  const int owner = __ffs(static_cast<int>(owners)) - 1, lane = threadIdx.x % kLanes;
  uint64_t sum = __shfl_sync(~0u, before, owner);
  const int n = __shfl_sync(~0u, row.mine, owner), first_id = __shfl_sync(~0u, row.first_id, owner);
  const float* const x = row.x + (first_id - row.first_id);
  for (int i = 0; i < n; i += kLanes) {
    const uint64_t upto = warp_prefix(i + lane < n ? mass_of(x[i + lane], first_id + i + lane) : 0);
    const uint32_t passed = __ballot_sync(~0u, sum + upto > target);
    if (passed != 0) {
      if (lane == 0) *id = first_id + i + __ffs(static_cast<int>(passed)) - 1;
      break;
    }
    sum += __shfl_sync(~0u, upto, kLanes - 1);
  }
  return true;
}

__global__ void __launch_bounds__(kThreads, 1) draw(DrawArgs a) {
  extern __shared__ __align__(16) unsigned char memory[];
  cg::cluster_group cluster = cg::this_cluster();
  const int blocks = static_cast<int>(cluster.num_blocks());
  const int64_t at = blockIdx.x / blocks;
  const SampleRowParams p = a.params[at];
  Row row = load_row(a.logits + at * a.row_stride, a.vocab, memory);
  uint32_t best = best_of(row);
  int32_t status = status_of_best(best);
  if (status == kSampled && p.edit_begin < p.edit_end) {
    const int part = stretch_of(a.vocab, blocks) * kThreads;
    const int begin = static_cast<int>(cluster.block_rank()) * part;
    edit(reinterpret_cast<float*>(memory + sizeof(Shared)), begin, min(a.vocab, begin + part), a, p);
    cluster.sync();  // everyone has read the first maximum
    best = best_of(row);
    if (status_of_best(best) != kSampled) status = kAllBanned;
  }
  const bool first = cluster.block_rank() == 0 && threadIdx.x == 0;
  if (first) a.status[at] = status;
  bool drawn = false;
  if (status == kSampled && p.inverse_temperature > 0 && p.top_k != 1) {
    const Weigher w(unordered(best), p.inverse_temperature);
    const int top_k = p.top_k > 0 && p.top_k < a.vocab ? p.top_k : 0;
    const uint64_t least = top_k > 0 || p.top_p < 1 ? threshold(row, w, a.vocab, top_k, p.top_p) : 0;
    drawn = invert(row, w, least, p.min_p, p.uniform, a.ids + at);
  }
  if (!drawn) {  // greedy, or min_p above 1 left nothing
    const int id = status == kSampled ? first_of(row, unordered(best)) : 0;
    if (first) a.ids[at] = id;
  }
  cluster.sync();  // nobody leaves while its memory may be read
}

}  // namespace

cudaError_t sample_draw(const DrawArgs& a, cudaStream_t stream) {
  return launch_rows(draw, a, a.rows, a.vocab, stream);
}

}  // namespace trireme::cuda
