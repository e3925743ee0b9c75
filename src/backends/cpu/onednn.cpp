#include "backends/cpu/onednn.h"

#include <omp.h>

#include <oneapi/dnnl/dnnl.hpp>
#include <string_view>

namespace trireme::cpu {
namespace {

// Threads are ours: each calls for its own columns, so oneDNN must not start any.
void use_one_thread() {
  thread_local const bool done = (omp_set_num_threads(1), true);
  (void)done;
}

}  // namespace

bool onednn_has_amx() {
  const dnnl_cpu_isa_t isa = dnnl_get_effective_cpu_isa();
  return (isa & dnnl_cpu_isa_avx512_core_amx) == dnnl_cpu_isa_avx512_core_amx;
}

bool onednn_multiply(const OnednnProduct& p) {
  using dnnl::memory;
  try {
    use_one_thread();
    static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
    thread_local dnnl::stream stream(engine);
    const memory::desc x({p.rows, p.k}, memory::data_type::bf16, memory::format_tag::ab);
    const memory::desc w({p.k, p.n}, memory::data_type::bf16, memory::format_tag::BA16a64b2a);
    const memory::desc y({p.rows, p.n}, memory::data_type::f32, memory::format_tag::ab);
    const dnnl::matmul::primitive_desc desc({x, w, y}, engine);
    if (std::string_view(desc.impl_info_str()).find("brg") == std::string_view::npos) return false;
    dnnl::matmul(desc).execute(stream, {{DNNL_ARG_SRC, memory(x, engine, const_cast<void*>(p.x))},
                                        {DNNL_ARG_WEIGHTS, memory(w, engine, const_cast<void*>(p.panels))},
                                        {DNNL_ARG_DST, memory(y, engine, p.y)}});
    stream.wait();
    return true;
  } catch (const dnnl::error&) {
    return false;
  }
}

}  // namespace trireme::cpu
