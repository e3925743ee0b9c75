// Divides a step's pages among the parts: successive units, laid on a line, a unit counting some pages more
// than it has for its start and end. Units stay whole where that costs little; otherwise each is cut into
// equal pieces, or, where that is worse, the line at equal distances. One CTA, once a step.
#include "backends/cuda/sm90/mla_decode/plan.h"

namespace trireme::cuda {
namespace mla {
namespace {

constexpr int kThreads = 1024;
constexpr int kSharedCosts = 6144;  // that many units are dealt out from shared memory
constexpr int kUnitOverhead = 4;    // pages' worth of time that starting and ending a unit takes
constexpr int kLeastShare = 6;      // of a part: shorter pieces cost more to merge than they save
constexpr int kLeastPiece = 1;      // pages of a unit that a part takes up at its end
constexpr int kWholeSlack = 9;      // pages by which a part may exceed the mean where that saves all cuts

// Exclusive prefix sum over the block; total is the sum over all threads.
__device__ int block_scan(int value, int* warp_sums, int& total) {
  const int lane = static_cast<int>(threadIdx.x) & 31, warp = static_cast<int>(threadIdx.x) >> 5;
  int sum = value;
#pragma unroll
  for (int d = 1; d < 32; d *= 2) {
    const int below = __shfl_up_sync(~0u, sum, d);
    if (lane >= d) sum += below;
  }
  __syncthreads();
  if (lane == 31) warp_sums[warp] = sum;
  __syncthreads();
  int before = 0;
  total = 0;
  for (int w = 0; w < kThreads / 32; ++w) {
    if (w < warp) before += warp_sums[w];
    total += warp_sums[w];
  }
  return before + sum - value;
}

// The last index i in [0, n) with starts[i] <= x. REQUIRES: starts ascending, starts[0] <= x.
__device__ int find_last(const int* starts, int n, int x) {
  int lo = 0, hi = n;
  while (hi - lo > 1) {
    const int mid = (lo + hi) / 2;
    if (starts[mid] <= x)
      lo = mid;
    else
      hi = mid;
  }
  return lo;
}

struct PlanParams {
  PlanLayout layout;
  const std::int32_t* q_start;
  const std::int32_t* context_len;
  const std::int32_t* block_table;
  std::int64_t block_table_stride;
  unsigned char* plan;
  int seqs, heads;
  bool never_split;
};

__device__ Unit make_unit(const PlanParams& p, int seq, int index) {
  const int rows_per_unit = kTileRows * p.layout.tiles;
  const int start = p.q_start[seq];
  const int query = p.q_start[seq + 1] - start;
  Unit u;
  u.seq = seq;
  u.local = index * rows_per_unit;
  u.row = start * p.heads + u.local;
  u.rows = query * p.heads - u.local;
  u.context = p.context_len[seq];
  u.base = u.context - query;
  u.token = start;
  const int last_row = u.local + min(u.rows, rows_per_unit) - 1;
  const int seen = u.base + last_row / p.heads + 1;
  u.pages = max(1, (seen + kPage - 1) / kPage);
  return u;
}

__device__ Start make_start(const PlanParams& p, const Unit* units, Position from, Position to) {
  Start s{};
  if (from.unit > to.unit || (from.unit == to.unit && from.page >= to.page)) return s;
  const Unit& u = units[from.unit];
  s.row = u.row;
  s.page = from.page;
  s.pages = (from.unit == to.unit ? to.page : u.pages) - from.page;
  const std::int32_t* const table = p.block_table + u.seq * p.block_table_stride + from.page;
  for (int i = 0; i < min(s.pages, kStartPages); ++i) s.block[i] = table[i];
  return s;
}

// The units of a step in a row; one warp deals them out.
struct Line {
  const int* costs;  // [units + 1] exclusive prefix sums
  int units, parts;

  // The first unit from `unit` on that starts beyond x, or `units`.
  __device__ int first_beyond(int unit, int x) const {
    const int lane = static_cast<int>(threadIdx.x);
    for (;; unit += 32) {
      const unsigned beyond = __ballot_sync(~0u, unit + lane >= units || costs[unit + lane] > x);
      if (beyond != 0) return min(units, unit + __ffs(static_cast<int>(beyond)) - 1);
    }
  }

  // Gives every part whole units of at most `limit`; false if they are not enough.
  __device__ bool deal_whole(Position* begins, int limit) const {
    int unit = 0;
    for (int part = 0; part < parts; ++part) {
      if (threadIdx.x == 0) begins[part] = {unit, 0};
      if (unit == units) continue;
      const int next = first_beyond(unit, costs[unit] + limit);
      unit = next == units && costs[units] - costs[unit] <= limit ? units : next - 1;
    }
    if (threadIdx.x == 0) begins[parts] = {units, 0};
    return unit == units;
  }

  __device__ int pages(int unit) const { return costs[unit + 1] - costs[unit] - kUnitOverhead; }

  // Parts that units take if each is cut into pieces of at most `most` pages and no part has two.
  __device__ int parts_of_pieces(int most) const {
    int sum = 0;
    for (int u = static_cast<int>(threadIdx.x); u < units; u += 32) sum += (pages(u) + most - 1) / most;
    return __reduce_add_sync(~0u, sum);
  }

  // Where there are fewer units than parts: gives every part a piece of one unit, the largest as small as can
  // be. False, and nothing is dealt, where that is more than `limit` pages. first_part: room for as many as
  // there are parts, and one.
  __device__ bool deal_pieces(Position* begins, Cut* cuts, int* cut_count, int* first_part, int limit) const {
    int low = kLeastShare, high = limit;
    if (units > parts || low > high || parts_of_pieces(high) > parts) return false;
    while (low < high) {
      const int mid = (low + high) / 2;
      if (parts_of_pieces(mid) <= parts)
        high = mid;
      else
        low = mid + 1;
    }
    const int lane = static_cast<int>(threadIdx.x);
    int used = 0;
    for (int from = 0; from < units; from += 32) {
      const int u = from + lane, pieces = u < units ? (pages(u) + high - 1) / high : 0;
      int sum = pieces;
#pragma unroll
      for (int d = 1; d < 32; d *= 2) {
        const int below = __shfl_up_sync(~0u, sum, d);
        if (lane >= d) sum += below;
      }
      if (u < units) first_part[u] = used + sum - pieces;
      if (pieces > 1) cuts[atomicAdd(cut_count, 1)] = {u, used + sum - pieces, pieces, 0};
      used += __shfl_sync(~0u, sum, 31);
    }
    if (lane == 0) first_part[units] = used;
    __syncwarp();
    for (int part = lane; part <= parts; part += 32) {
      if (part >= used) {
        begins[part] = {units, 0};
        continue;
      }
      const int u = find_last(first_part, units, part), pieces = first_part[u + 1] - first_part[u];
      begins[part] = {u,
                      static_cast<int>(static_cast<long long>(pages(u)) * (part - first_part[u]) / pieces)};
    }
    return true;
  }

  // Where the line is cut for `part`.
  __device__ Position cut_at(int part, int share) const {
    const int x = part * share;
    if (part == parts || x >= costs[units]) return {units, 0};
    const int unit = find_last(costs, units, x);
    const int pages = costs[unit + 1] - costs[unit] - kUnitOverhead;
    const int page = x - costs[unit] - kUnitOverhead;
    if (page >= pages - kLeastPiece) return {unit + 1, 0};
    return {unit, page < kLeastPiece ? 0 : page};
  }

  // Gives every part the same length of the line; the cuts, in any order.
  __device__ void deal_cut(Position* begins, Cut* cuts, int* cut_count, int share) const {
    for (int part = static_cast<int>(threadIdx.x); part <= parts; part += kThreads) {
      const Position at = cut_at(part, share);
      begins[part] = at;
      if (at.page == 0) continue;
      const Position before = cut_at(part - 1, share);
      if (before.unit == at.unit && before.page > 0) continue;
      Cut cut{at.unit, part - 1, 2, 0};
      while (part + cut.pieces - 1 < parts && cut_at(part + cut.pieces - 1, share).unit == at.unit)
        ++cut.pieces;
      cuts[atomicAdd(cut_count, 1)] = cut;
    }
  }
};

__global__ __launch_bounds__(kThreads, 1) void plan_kernel(const PlanParams p, bool tree) {
  __shared__ int unit_start[kMlaDecodeMaxSeqs];
  __shared__ int shared_costs[kSharedCosts];
  __shared__ int warp_sums[kThreads / 32];
  __shared__ int first_part[kMlaDecodeMaxMultiprocessors + 1];
  __shared__ int largest, cut_count;
  __shared__ bool cutting;
  if (threadIdx.x == 0) largest = cut_count = 0;
  Unit* const units = reinterpret_cast<Unit*>(p.plan + p.layout.units_at());
  Cut* const cuts = reinterpret_cast<Cut*>(p.plan + p.layout.cuts_at());
  Position* const begins = reinterpret_cast<Position*>(p.plan + p.layout.begins_at());
  const int tid = static_cast<int>(threadIdx.x);

  const int rows_per_unit = kTileRows * p.layout.tiles;
  const int seqs_each = (p.seqs + kThreads - 1) / kThreads;
  const auto units_of = [&](int s) {
    const int query = p.q_start[s + 1] - p.q_start[s];
    return p.context_len[s] <= 0 || query <= 0 ? 0 : (query * p.heads + rows_per_unit - 1) / rows_per_unit;
  };
  int count = 0, total_units = 0;
  for (int i = 0; i < seqs_each; ++i)
    if (const int s = tid * seqs_each + i; s < p.seqs) count += units_of(s);
  int at = block_scan(count, warp_sums, total_units);
  for (int i = 0; i < seqs_each; ++i) {
    if (const int s = tid * seqs_each + i; s < p.seqs) {
      unit_start[s] = at;
      at += units_of(s);
    }
  }
  __syncthreads();

  const int units_each = (total_units + kThreads - 1) / kThreads;
  int cost = 0, total_cost = 0;
  for (int i = 0; i < units_each; ++i) {
    const int u = tid * units_each + i;
    if (u >= total_units) break;
    const int seq = find_last(unit_start, p.seqs, u);
    Unit unit = make_unit(p, seq, u - unit_start[seq]);
    if (tree) unit.pages = (unit.context + kPage - 1) / kPage;
    units[u] = unit;
    cost += unit.pages + kUnitOverhead;
  }
  int line = block_scan(cost, warp_sums, total_cost);
  int* const costs =
      total_units < kSharedCosts ? shared_costs : reinterpret_cast<int*>(p.plan + p.layout.costs_at());
  for (int i = 0; i < units_each; ++i) {
    const int u = tid * units_each + i;
    if (u >= total_units) break;
    costs[u] = line;
    line += units[u].pages + kUnitOverhead;
    atomicMax(&largest, units[u].pages + kUnitOverhead);
  }
  if (tid == 0) costs[total_units] = total_cost;
  __syncthreads();

  const int share = max((total_cost + p.layout.parts - 1) / p.layout.parts, kLeastShare);
  const Line l{costs, total_units, p.layout.parts};
  if (tid < 32) {
    int limit = p.never_split ? max(share, largest) : share + kWholeSlack;
    bool whole = largest <= limit && l.deal_whole(begins, limit);
    while (p.never_split && !whole) whole = l.deal_whole(begins, limit += max(limit / 16, 1));
    if (!whole) whole = l.deal_pieces(begins, cuts, &cut_count, first_part, share);
    if (tid == 0) cutting = !whole;
  }
  __syncthreads();
  if (cutting) l.deal_cut(begins, cuts, &cut_count, share);
  __syncthreads();
  if (tid == 0) *reinterpret_cast<std::int32_t*>(p.plan + p.layout.cut_count_at()) = cut_count;
  Start* const starts = reinterpret_cast<Start*>(p.plan + p.layout.starts_at());
  for (int part = tid; part < p.layout.parts; part += kThreads)
    starts[part] = make_start(p, units, begins[part], begins[part + 1]);
}

}  // namespace
}  // namespace mla

std::size_t mla_decode_plan_bytes(const MlaDecodeShape& s) {
  // A step of the same sizes may use either number of tiles, and one has more units, the other fewer parts.
  MlaDecodeShape narrow = s;
  narrow.max_query_tokens = 0;
  return mla::round_up(mla::plan_layout(narrow).bytes(), 256);
}

cudaError_t mla_decode_plan(const MlaDecodePlanArgs& a, cudaStream_t stream) {
  const MlaDecodeShape& s = a.shape;
  if (s.heads < 1 || s.heads > kMlaDecodeMaxHeads || s.seqs < 0 || s.seqs > kMlaDecodeMaxSeqs ||
      s.multiprocessors < 2 || s.multiprocessors > kMlaDecodeMaxMultiprocessors)
    return cudaErrorInvalidValue;
  const mla::PlanParams p{mla::plan_layout(s),
                          a.q_start,
                          a.context_len,
                          a.block_table,
                          a.block_table_stride,
                          static_cast<unsigned char*>(a.plan),
                          s.seqs,
                          s.heads,
                          s.split == MlaSplit::never};
  mla::plan_kernel<<<1, mla::kThreads, 0, stream>>>(p, a.tree);
  return cudaGetLastError();
}

}  // namespace trireme::cuda
