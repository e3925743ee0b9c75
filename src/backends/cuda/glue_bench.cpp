// What the elementwise and routing kernels reach on DeepSeek-V3's shapes: a CUDA graph of launches over
// different memory, more of it than the L2 holds, so that every byte comes from and goes to HBM.
#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "backends/cuda/smxx/moe_route.h"
#include "backends/cuda/smxx/norm.h"
#include "backends/cuda/smxx/rope_append.h"
#include "backends/cuda/smxx/rows.h"
#include "backends/cuda/smxx/swiglu.h"

namespace {
using namespace trireme::cuda::smxx;

constexpr int64_t kPool = int64_t{12} << 30, kHidden = 7168;

void must(cudaError_t e, const char* what) {
  if (e == cudaSuccess) return;
  fmt::print("{}: {}\n", what, cudaGetErrorString(e));
  std::exit(1);
}

template <class T>
T* at(char* base, int64_t offset) {
  return reinterpret_cast<T*>(base + offset);
}

class Bench {
 public:
  explicit Bench(std::string only) : only_(std::move(only)) {
    must(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "stream");
    must(cudaEventCreate(&begin_), "event");
    must(cudaEventCreate(&end_), "event");
    void* p = nullptr;
    must(cudaMalloc(&p, kPool), "pool");
    pool_ = static_cast<char*>(p);
    std::mt19937_64 rng(7);
    std::normal_distribution<float> normal;
    std::vector<uint16_t> random(std::size_t{1} << 24);
    for (auto& r : random) {
      const float f = normal(rng);
      uint32_t bits;
      std::memcpy(&bits, &f, 4);
      r = static_cast<uint16_t>(bits >> 16);
    }
    const auto bytes = static_cast<int64_t>(random.size() * 2);
    must(cudaMemcpy(pool_, random.data(), static_cast<std::size_t>(bytes), cudaMemcpyHostToDevice), "fill");
    for (int64_t at = bytes; at < kPool; at += bytes)
      must(cudaMemcpy(pool_ + at, pool_, static_cast<std::size_t>(std::min(bytes, kPool - at)),
                      cudaMemcpyDeviceToDevice),
           "fill");
  }
  char* pool() const { return pool_; }
  cudaStream_t stream() const { return stream_; }

  // Seconds of one launch: `call(i)` queues the i-th of a graph's.
  double seconds(int launches, const std::function<cudaError_t(int)>& call) {
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    must(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "capture");
    for (int i = 0; i < launches; ++i) must(call(i), "launch");
    must(cudaStreamEndCapture(stream_, &graph), "capture");
    must(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
    std::vector<float> times;
    for (int i = 0; i < 12; ++i) {
      must(cudaEventRecord(begin_, stream_), "record");
      must(cudaGraphLaunch(exec, stream_), "graph");
      must(cudaEventRecord(end_, stream_), "record");
      must(cudaEventSynchronize(end_), "run");
      float ms = 0;
      cudaEventElapsedTime(&ms, begin_, end_);
      if (i >= 2) times.push_back(ms);
    }
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    std::nth_element(times.begin(), times.begin() + 5, times.end());
    return static_cast<double>(times[5]) * 1e-3 / launches;
  }

  // What the chip copies, by a kernel (the driver's own may use a copy engine): 1 GiB in order, read and
  // written.
  void measure_copy() {
    constexpr int64_t kRows = 65536, kColumns = 8192, kBytes = kRows * kColumns * 2;
    std::vector<int32_t> ids(kRows);
    for (int32_t i = 0; i < kRows; ++i) ids[static_cast<std::size_t>(i)] = i;
    must(cudaMemcpy(pool_ + 2 * kBytes, ids.data(), ids.size() * 4, cudaMemcpyHostToDevice), "copy");
    const double s = seconds(4, [&](int) {
      return gather({.x = pool_,
                     .x_stride = kColumns,
                     .x_rows = kRows,
                     .rows = at<int32_t>(pool_, 2 * kBytes),
                     .out = at<uint16_t>(pool_, kBytes),
                     .out_stride = kColumns,
                     .picked = kRows,
                     .n = kColumns},
                    stream_);
    });
    copy_ = 2.0 * static_cast<double>(kBytes) / s;
    fmt::print("copy of 1 GiB: {:.0f} GB/s read and written\n", copy_ * 1e-9);
  }

  // `bytes` is what a launch has to move; call(base) works on memory of its own, `room` bytes at base.
  void row(const std::string& name, int64_t bytes, int64_t room,
           const std::function<cudaError_t(char*)>& call) {
    if (name.find(only_) == std::string::npos) return;
    room = (room + 4095) / 4096 * 4096;
    const int64_t sets = std::clamp<int64_t>((int64_t{512} << 20) / room, 4, 64);
    const double s = seconds(static_cast<int>(sets), [&](int i) { return call(pool_ + i * room); });
    const double rate = static_cast<double>(bytes) / s;
    fmt::print("{:44} {:9.2f} us {:8.0f} GB/s {:5.1f}% of copy\n", name, s * 1e6, rate * 1e-9,
               rate / copy_ * 100);
  }

 private:
  cudaStream_t stream_ = nullptr;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
  char* pool_ = nullptr;
  double copy_ = 0;
  std::string only_;
};

template <class T>
T* device_copy(const std::vector<T>& v) {
  void* p = nullptr;
  must(cudaMalloc(&p, v.size() * sizeof(T)), "malloc");
  must(cudaMemcpy(p, v.data(), v.size() * sizeof(T), cudaMemcpyHostToDevice), "copy");
  return static_cast<T*>(p);
}

void rows_of(Bench& b, int64_t rows) {
  const int64_t n = kHidden, act = rows * n * 2, q = rows * n, scales = n / 128 * ((rows + 7) / 8 * 8) * 4;
  static const float* const weight = device_copy(std::vector<float>(16384, 1.0f));
  b.row(fmt::format("add + norm + quantise {} x {}", rows, n), 3 * act + q + scales, 2 * act + q + scales,
        [&](char* p) {
          return norm({.x = at<uint16_t>(p, 0),
                       .x_stride = n,
                       .y = at<uint16_t>(p, act),
                       .y_stride = n,
                       .weight = weight,
                       .q = {at<uint8_t>(p, 2 * act), at<float>(p, 2 * act + q), (rows + 7) / 8 * 8},
                       .rows = rows,
                       .n = n},
                      b.stream());
        });
  b.row(fmt::format("norm {} x 1536 of 2112", rows), rows * 1536 * 4, rows * (2112 + 1536) * 2, [&](char* p) {
    return norm({.x = at<uint16_t>(p, 0),
                 .x_stride = 2112,
                 .weight = weight,
                 .out = at<uint16_t>(p, rows * 2112 * 2),
                 .out_stride = 1536,
                 .rows = rows,
                 .n = 1536},
                b.stream());
  });
  b.row(fmt::format("quantise {} x {}", rows, n), act + q + scales, act + q + scales, [&](char* p) {
    return quantise({.x = at<uint16_t>(p, 0),
                     .x_stride = n,
                     .rows = rows,
                     .k = n,
                     .q = {at<uint8_t>(p, act), at<float>(p, act + q), (rows + 7) / 8 * 8}},
                    b.stream());
  });
  b.row(fmt::format("add {} x {}", rows, n), 3 * act, 2 * act, [&](char* p) {
    return add({.x = at<uint16_t>(p, 0),
                .x_stride = n,
                .y = at<uint16_t>(p, act),
                .y_stride = n,
                .rows = rows,
                .n = n},
               b.stream());
  });
}

void swiglus(Bench& b, int64_t rows, int64_t n, bool bounded) {
  const int64_t in = rows * n * 4, q = rows * n, padded = (rows + 7) / 8 * 8,
                scales = (n + 127) / 128 * padded * 4;
  const int32_t* const used = device_copy(std::vector<int32_t>{static_cast<int32_t>(rows)});
  b.row(fmt::format("swiglu -> q {} x 2 x {}{}", rows, n, bounded ? " (bound on device)" : ""),
        in + q + scales, in + q + scales, [&](char* p) {
          return swiglu({.gate_up = at<uint16_t>(p, 0),
                         .gate_up_stride = 2 * n,
                         .q = {at<uint8_t>(p, in), at<float>(p, in + q), padded},
                         .rows = rows,
                         .n = n,
                         .rows_used = bounded ? used : nullptr},
                        b.stream());
        });
}

void appends(Bench& b, int64_t tokens, bool fp8) {
  constexpr int64_t kHeads = 128, kWidth = 192;
  static const float* const weight = device_copy(std::vector<float>(512, 1.0f));
  static const float* const table = device_copy(std::vector<float>(4096 * 64, 0.6f));
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < tokens; ++i) ids.push_back(i);
  const int32_t* const slots = device_copy(ids);
  const int64_t q = tokens * kHeads * kWidth * 2, kv = tokens * 2112 * 2, token = fp8 ? 640 : 1152;
  b.row(fmt::format("mla rope + append {} tokens{}", tokens, fp8 ? ", fp8" : ""),
        tokens * (kHeads * 64 * 4 + 576 * 2 + token), q + kv + tokens * token, [&](char* p) {
          return mla_append({.q = at<uint16_t>(p, 256),
                             .q_head_stride = kWidth,
                             .heads = kHeads,
                             .latent = at<uint16_t>(p, q),
                             .latent_stride = 2112,
                             .key = at<uint16_t>(p, q + 1024),
                             .key_stride = 2112,
                             .norm = weight,
                             .latent_dim = 512,
                             .rope_dim = 64,
                             .tokens = tokens,
                             .table = {table, 64, 4096, slots, 64, true},
                             .cache = {.data = p + q + kv,
                                       .token_bytes = token,
                                       .fp8 = fp8,
                                       .codes_per_value = 16,
                                       .slots = slots}},
                            b.stream());
        });
}

void experts(Bench& b, int64_t tokens) {
  constexpr int kExperts = 256, kTopK = 8;
  const int64_t pairs = tokens * kTopK, n = kHidden;
  std::mt19937_64 rng(11);
  std::vector<int32_t> all(kExperts), chosen;
  for (int i = 0; i < kExperts; ++i) all[static_cast<std::size_t>(i)] = i;
  for (int64_t t = 0; t < tokens; ++t) {
    std::shuffle(all.begin(), all.end(), rng);
    chosen.insert(chosen.end(), all.begin(), all.begin() + kTopK);
  }
  static const float* const bias = device_copy(std::vector<float>(kExperts, 0.1f));
  const int32_t* const expert = device_copy(chosen);
  int32_t* const row_of = device_copy(chosen);
  int32_t* const ends = device_copy(chosen);
  const float* const weight = device_copy(std::vector<float>(static_cast<std::size_t>(pairs), 0.3f));

  b.row(fmt::format("gate {} x {}", tokens, kExperts), tokens * (kExperts * 4 + kTopK * 8),
        tokens * (kExperts * 4 + kTopK * 8), [&](char* p) {
          return gate({.logits = at<float>(p, 0),
                       .logits_stride = kExperts,
                       .bias = bias,
                       .routed_scale = 2.5f,
                       .tokens = tokens,
                       .experts = kExperts,
                       .groups = 8,
                       .top_groups = 4,
                       .top_k = kTopK,
                       .expert = at<int32_t>(p, tokens * kExperts * 4),
                       .weight = at<float>(p, tokens * kExperts * 4 + pairs * 4)},
                      b.stream());
        });
  b.row(fmt::format("order {} pairs", pairs), pairs * 8, pairs * 8, [&](char*) {
    return order(
        {.expert = expert, .pairs = pairs, .experts = kExperts, .row_of = row_of, .expert_end = ends},
        b.stream());
  });
  const int64_t padded = (tokens + 7) / 8 * 8, x = tokens * n, xs = n / 128 * padded * 4, q = pairs * n,
                qs = n / 128 * pairs * 4;
  b.row(fmt::format("permute codes {} x {} x {}", tokens, kTopK, n), x + xs + q + qs, x + xs + q + qs,
        [&](char* p) {
          const cudaError_t e = order(
              {.expert = expert, .pairs = pairs, .experts = kExperts, .row_of = row_of, .expert_end = ends},
              b.stream());
          if (e != cudaSuccess) return e;
          return scatter({.row_of = row_of,
                          .rows_used = ends + kExperts - 1,
                          .tokens = tokens,
                          .top_k = kTopK,
                          .n = n,
                          .codes = at<uint8_t>(p, 0),
                          .scale = at<float>(p, x),
                          .scale_stride = padded,
                          .rows_q = {at<uint8_t>(p, x + xs), at<float>(p, x + xs + q), pairs}},
                         b.stream());
        });
  const int64_t rows = pairs * n * 2, out = tokens * n * 2;
  for (const bool accumulate : {false, true})
    b.row(fmt::format("combine {} x {} x {}{}", tokens, kTopK, n, accumulate ? " +=" : ""),
          rows + out * (accumulate ? 2 : 1), rows + out, [&](char* p) {
            return combine({.rows = at<uint16_t>(p, 0),
                            .rows_stride = n,
                            .row_of = row_of,
                            .weight = weight,
                            .top_k = kTopK,
                            .accumulate = accumulate,
                            .out = at<uint16_t>(p, rows),
                            .out_stride = n,
                            .tokens = tokens,
                            .n = n},
                           b.stream());
          });
  b.row(fmt::format("gather {} x {}", tokens, n), 2 * out, 2 * out, [&](char* p) {
    return gather({.x = p,
                   .x_stride = n,
                   .x_rows = kExperts,
                   .rows = expert,
                   .out = at<uint16_t>(p, out),
                   .out_stride = n,
                   .picked = tokens,
                   .n = n},
                  b.stream());
  });
}

}  // namespace

// With an argument, only the rows whose name holds it.
int main(int argc, char** argv) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    fmt::print("no GPU\n");
    return 0;
  }
  Bench b(argc > 1 ? argv[1] : "");
  b.measure_copy();
  for (const int64_t rows : {128, 512, 1024, 4096}) rows_of(b, rows);
  for (const int64_t rows : {1024, 2048, 32768}) swiglus(b, rows, 2048, true);
  for (const int64_t rows : {128, 512, 4096}) swiglus(b, rows, 18432, false);
  for (const int64_t tokens : {128, 512, 4096})
    for (const bool fp8 : {false, true}) appends(b, tokens, fp8);
  for (const int64_t tokens : {128, 512, 4096}) experts(b, tokens);
  return 0;
}
