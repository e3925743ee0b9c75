#include "backends/cpu/onednn.h"

#include <omp.h>

#include <array>
#include <map>
#include <oneapi/dnnl/dnnl.hpp>
#include <optional>
#include <string_view>

namespace trireme::cpu {
namespace {

// Compiled once for each shape and thread; a server meets few, since blocks of rows have few heights.
using Shape3 = std::array<i64, 3>;
struct Compiled {
  dnnl::memory::desc x, w, y;
  std::optional<dnnl::matmul> run;  // empty: only a slow way exists
};

const Compiled& compiled(const dnnl::engine& engine, i64 rows, i64 n, i64 k) {
  using dnnl::memory;
  constexpr std::size_t kMost = 512;
  thread_local std::map<Shape3, Compiled> cache;
  const Shape3 key = {rows, n, k};
  if (const auto it = cache.find(key); it != cache.end()) return it->second;
  if (cache.size() >= kMost) cache.clear();
  Compiled c{{{rows, k}, memory::data_type::bf16, memory::format_tag::ab},
             {{k, n}, memory::data_type::bf16, memory::format_tag::BA16a64b2a},
             {{rows, n}, memory::data_type::f32, memory::format_tag::ab},
             {}};
  const dnnl::matmul::primitive_desc desc({c.x, c.w, c.y}, engine);
  if (std::string_view(desc.impl_info_str()).find("brg") != std::string_view::npos) c.run.emplace(desc);
  return cache.emplace(key, std::move(c)).first->second;
}

}  // namespace

bool onednn_has_amx() {
  const dnnl_cpu_isa_t isa = dnnl_get_effective_cpu_isa();
  return (isa & dnnl_cpu_isa_avx512_core_amx) == dnnl_cpu_isa_avx512_core_amx;
}

bool onednn_multiply(const OnednnProduct& p) {
  using dnnl::memory;
  try {
    omp_set_num_threads(1);  // threads are ours: each calls for its own columns
    static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
    thread_local dnnl::stream stream(engine);
    const Compiled& c = compiled(engine, p.rows, p.n, p.k);
    if (!c.run) return false;
    c.run->execute(stream, {{DNNL_ARG_SRC, memory(c.x, engine, const_cast<void*>(p.x))},
                            {DNNL_ARG_WEIGHTS, memory(c.w, engine, const_cast<void*>(p.panels))},
                            {DNNL_ARG_DST, memory(c.y, engine, p.y)}});
    stream.wait();
    return true;
  } catch (const dnnl::error&) {
    return false;
  }
}

}  // namespace trireme::cpu
