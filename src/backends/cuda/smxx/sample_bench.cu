// Times the sampling kernels: sample_bench [rows] [vocab]. Logits are normal; L2 is flushed between runs.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "backends/cuda/smxx/sample.h"

namespace {

using namespace trireme::cuda;

template <class Launch>
double median_us(Launch launch, void* flush, size_t flush_bytes) {
  cudaEvent_t begin, end;
  cudaEventCreate(&begin);
  cudaEventCreate(&end);
  std::vector<float> times;
  for (int i = 0; i < 30; ++i) {
    cudaMemset(flush, i, flush_bytes);
    cudaEventRecord(begin);
    const cudaError_t e = launch();
    cudaEventRecord(end);
    if (e != cudaSuccess || cudaEventSynchronize(end) != cudaSuccess) {
      std::printf("failed: %s\n", cudaGetErrorString(e != cudaSuccess ? e : cudaGetLastError()));
      std::exit(1);
    }
    float ms = 0;
    cudaEventElapsedTime(&ms, begin, end);
    times.push_back(ms * 1000);
  }
  std::nth_element(times.begin(), times.begin() + 15, times.end());
  return times[15];
}

}  // namespace

int main(int argc, char** argv) {
  const int rows = argc > 1 ? std::atoi(argv[1]) : 128, vocab = argc > 2 ? std::atoi(argv[2]) : 129280;
  constexpr size_t kFlush = size_t{256} << 20;
  float* logits = nullptr;
  SampleRowParams* params = nullptr;
  int32_t *out = nullptr, *lists = nullptr;
  void* flush = nullptr;
  const size_t n = static_cast<size_t>(rows) * static_cast<size_t>(vocab);
  cudaMalloc(&logits, n * 4);
  cudaMalloc(&params, static_cast<size_t>(rows) * sizeof(SampleRowParams));
  cudaMalloc(&out, static_cast<size_t>(rows) * 8);
  cudaMalloc(&lists, static_cast<size_t>(rows) * 4 * 64);
  cudaMalloc(&flush, kFlush);
  DrawArgs a;
  a.logits = logits;
  a.row_stride = vocab;
  a.rows = rows;
  a.vocab = vocab;
  a.params = params;
  a.ids = out;
  a.status = out + rows;
  std::mt19937 rng(std::random_device{}());
  std::normal_distribution<float> normal;
  std::vector<float> unit(1 << 22);
  for (float& v : unit) v = normal(rng);
  for (const float scale : {1.0f, 3.0f}) {
    std::vector<float> x(n);
    for (size_t i = 0; i < n; ++i) x[i] = scale * unit[(i * 7 + i / unit.size()) % unit.size()];
    cudaMemcpy(logits, x.data(), n * 4, cudaMemcpyHostToDevice);
    std::printf("%d rows of %d, deviation %.0f\n", rows, vocab, static_cast<double>(scale));
    const double read_us = static_cast<double>(n) * 4 / 4.8e6;
    const auto report = [&](const char* what, double us) {
      std::printf("  %-28s %7.1f us (reading once at 4.8 TB/s: %.1f)\n", what, us, read_us);
    };
    report("argmax", median_us([&] { return sample_argmax(a, nullptr); }, flush, kFlush));
    struct Case {
      const char* what;
      float temperature, top_p, min_p;
      int top_k;
    };
    for (const Case c : {Case{"greedy by the drawing kernel", 0, 1, 0, 0},
                         {"temperature 1", 1, 1, 0, 0},
                         {"top_p 0.95, temperature 0.7", 0.7f, 0.95f, 0, 0},
                         {"top_k 50", 1, 1, 0, 50},
                         {"top_k 50, top_p 0.9", 1, 0.9f, 0, 50},
                         {"min_p 0.05", 1, 1, 0.05f, 0}}) {
      std::vector<SampleRowParams> p(static_cast<size_t>(rows));
      for (auto& r : p) {
        r = {};
        r.uniform = std::uniform_real_distribution<double>()(rng);
        r.inverse_temperature = c.temperature > 0 ? 1 / c.temperature : 0;
        r.top_p = c.top_p;
        r.min_p = c.min_p;
        r.top_k = c.top_k;
      }
      cudaMemcpy(params, p.data(), p.size() * sizeof p[0], cudaMemcpyHostToDevice);
      report(c.what, median_us([&] { return sample_draw(a, nullptr); }, flush, kFlush));
    }
    std::vector<int32_t> row(static_cast<size_t>(rows)), top(static_cast<size_t>(rows), 20);
    for (int i = 0; i < rows; ++i) row[static_cast<size_t>(i)] = i;
    cudaMemcpy(lists, row.data(), row.size() * 4, cudaMemcpyHostToDevice);
    cudaMemcpy(lists + rows, top.data(), top.size() * 4, cudaMemcpyHostToDevice);
    LogprobArgs l;
    l.logits = logits;
    l.row_stride = vocab;
    l.vocab = vocab;
    l.wanted = rows;
    l.row = lists;
    l.top = lists + rows;
    l.ids = out;
    l.logprob = reinterpret_cast<float*>(lists + 2 * rows);
    l.top_stride = 20;
    l.top_id = lists + 3 * rows;
    l.top_logprob = reinterpret_cast<float*>(lists + 23 * rows);
    report("20 log-probabilities", median_us([&] { return sample_logprobs(l, nullptr); }, flush, kFlush));
  }
}
