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

// The worst rank that top-k and then top-p leave.
__device__ uint64_t threshold(Row& row, const Weigher& w, int top_k, float top_p) {
  const bool by_count = top_k > 0, by_mass = top_p < 1;
#pragma unroll 4
  for (int i = 0; i < row.mine; ++i) {
    const float x = row.x[i];
    const int bucket = w.bucket(x);
    if (bucket == kBuckets - 1) continue;  // no mass
    if (by_mass) row.s.whole.add_mass(bucket, Weigher::mass(w.weight(x)));
    if (by_count) row.s.whole.add_count(bucket);
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
__device__ void invert(Row& row, const Weigher& w, uint64_t least, float min_p, double uniform, int best_id,
                       int32_t* id) {
  const float least_x = least == 0 ? -INFINITY : value_of(least);
  const int last_id = least == 0 ? INT_MAX : id_of(least);  // of those at least_x
  const auto mass_of = [&](float x, int token) -> uint64_t {
    const float weight = w.weight(x);
    const bool stays = weight >= min_p && (x > least_x || (x == least_x && token <= last_id));
    return stays ? Weigher::mass(weight) : 0;
  };
  uint64_t mine = 0, all = 0;
#pragma unroll 4
  for (int i = 0; i < row.mine; ++i) mine += mass_of(row.x[i], row.first_id + i);
  uint64_t before = mass_before(mine, all, row.s);
  if (threadIdx.x == 0) row.s.total = all;
  row.cluster.sync();
  uint64_t total = 0;
  for (int b = 0; b < row.blocks(); ++b) {
    const uint64_t block = row.of(row.s.total, b);
    if (b < static_cast<int>(row.cluster.block_rank())) before += block;
    total += block;
  }
  if (total == 0) {  // min_p above 1 leaves nothing
    if (row.cluster.block_rank() == 0 && threadIdx.x == 0) *id = best_id;
    return;
  }
  const uint64_t target = min(total - 1, static_cast<uint64_t>(uniform * static_cast<double>(total)));
  const bool here = target >= before && target - before < mine;
  const uint32_t owners = __ballot_sync(~0u, here);
  if (owners == 0) return;
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
      return;
    }
    sum += __shfl_sync(~0u, upto, kLanes - 1);
  }
}

__global__ void __launch_bounds__(kThreads, 1) draw(DrawArgs a) {
  extern __shared__ __align__(16) unsigned char memory[];
  cg::cluster_group cluster = cg::this_cluster();
  const int blocks = static_cast<int>(cluster.num_blocks());
  const int64_t at = blockIdx.x / blocks;
  const SampleRowParams p = a.params[at];
  Row row = load_row(a.logits + at * a.row_stride, a.vocab, memory);
  uint64_t best = best_of(row);
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
  if (status != kSampled || p.inverse_temperature == 0 || p.top_k == 1) {
    if (first) a.ids[at] = status == kSampled ? id_of(best) : 0;
  } else {
    const Weigher w(value_of(best), p.inverse_temperature);
    const bool limited = p.top_k > 0 && p.top_k < a.vocab;
    const uint64_t least = limited || p.top_p < 1 ? threshold(row, w, limited ? p.top_k : 0, p.top_p) : 0;
    invert(row, w, least, p.min_p, p.uniform, id_of(best), a.ids + at);
  }
  cluster.sync();  // nobody leaves while its memory may be read
}

}  // namespace

cudaError_t sample_draw(const DrawArgs& a, cudaStream_t stream) {
  return launch_rows(draw, a, a.rows, a.vocab, stream);
}

}  // namespace trireme::cuda
