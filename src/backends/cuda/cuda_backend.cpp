#include "backends/cuda/cuda_backend.h"

#include "backends/cuda/attention.h"
#include "backends/cuda/cuda_device.h"
#include "backends/cuda/elementwise.h"
#include "backends/cuda/linear.h"
#include "backends/cuda/moe.h"
#include "backends/cuda/sample.h"
#include "base/log.h"

namespace trireme::cuda {
namespace {

LinearOps& products(Device& device) { return static_cast<CudaDevice&>(device).products(); }
LinearOps& products(Stream& stream) { return cuda_stream(stream).device().products(); }

Status prepare(Device& d, LinearWeight& w) { return products(d).prepare(static_cast<CudaDevice&>(d), w); }
Status prepare_group(Device& d, GroupWeight& g) {
  return products(d).prepare_group(static_cast<CudaDevice&>(d), g);
}
Status linear(const LinearArgs& a, Stream& s) { return products(s).linear(a, cuda_stream(s)); }
Status head_linear(const HeadLinearArgs& a, Stream& s) { return products(s).head_linear(a, cuda_stream(s)); }
Status mla_query(const MlaQueryArgs& a, Stream& s) { return products(s).mla_query(a, cuda_stream(s)); }
Status grouped_linear(const GroupedLinearArgs& a, Stream& s) {
  return products(s).grouped_linear(a, cuda_stream(s));
}
Status linear_swiglu(const LinearSwigluArgs& a, Stream& s) {
  return products(s).linear_swiglu(a, cuda_stream(s));
}
Status grouped_linear_swiglu(const GroupedLinearSwigluArgs& a, Stream& s) {
  return products(s).grouped_linear_swiglu(a, cuda_stream(s));
}

constexpr Ops kOps = {
    .prepare = prepare,
    .prepare_group = prepare_group,
    .embedding = embedding,
    .rms_norm = rms_norm,
    .add = add,
    .linear = linear,
    .head_linear = head_linear,
    .swiglu = swiglu,
    .rope = rope,
    .mla_append = mla_append,
    .mla_gather = mla_gather,
    .mla_absorbed = mla_absorbed,
    .mla_expanded = mla_expanded,
    .gqa_append = gqa_append,
    .gqa_attention = gqa_attention,
    .moe_gate = moe_gate,
    .moe_permute = moe_permute,
    .grouped_linear = grouped_linear,
    .moe_combine = moe_combine,
    .gather_rows = gather_rows,
    .kv_copy = kv_copy,
    .sample = sample,
    .add_rms_norm = add_rms_norm,
    .mla_rope_append = mla_rope_append,
    .mla_query = mla_query,
    .gqa_rope_append = gqa_rope_append,
    .quantise = quantise,
    .plan_attention = plan_attention,
    .linear_swiglu = linear_swiglu,
    .grouped_linear_swiglu = grouped_linear_swiglu,
};

class CudaBackend final : public Backend {
 public:
  CudaBackend(std::unique_ptr<CudaDevice> device, const CudaOptions& options)
      : device_(std::move(device)), options_(options) {}
  const char* name() const override { return "cuda"; }
  Device& device() override { return *device_; }
  const Ops& ops() const override { return kOps; }
  DType act() const override { return DType::kBF16; }
  DType kv_dtype() const override { return DType::kBF16; }
  bool batch_invariant() const override { return options_.deterministic; }
  bool tokens_apart() const override { return options_.deterministic; }
  i64 prepared_bytes(i64 n, i64 k, DType stored) const override {
    return cuda::prepared_bytes(n, k, stored, options_.fp8_activations);
  }
  bool fp8_inputs(i64 n, i64 k, DType stored) const override {
    return keeps_fp8(n, k, stored, options_.fp8_activations);
  }
  bool stacks() const override { return true; }
  Status finish_loading() override {
    TRY(device_->uploader().finish());
    auto stream = device_->make_stream();
    return device_->products().warm(cuda_stream(*stream));
  }
  i64 attention_plan_bytes(const PlanAttentionArgs& args) const override {
    return cuda::attention_plan_bytes(args, *device_);
  }
  i64 mla_expanded_room_bytes(const MlaExpandedArgs& args) const override {
    return cuda::mla_expanded_room_bytes(args);
  }

 private:
  std::unique_ptr<CudaDevice> device_;
  CudaOptions options_;
};

}  // namespace

bool cuda_present() {
  int count = 0, major = 0, minor = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess && count > 0 &&
         cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0) == cudaSuccess &&
         cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0) == cudaSuccess && major == 9 &&
         minor == 0;
}

Result<std::unique_ptr<Backend>> make_cuda_backend(const CudaOptions& options) {
  ASSIGN(auto device, CudaDevice::open());
  std::unique_ptr<CublasLt> lt;
  if (auto opened = CublasLt::open())
    lt = std::move(*opened);
  else
    spdlog::warn("{}; BF16 products run on our own kernels", opened.error().message);
  device->serve(std::make_unique<LinearOps>(std::move(lt), options.fp8_activations, options.deterministic),
                options.deterministic);
  return std::make_unique<CudaBackend>(std::move(device), options);
}

}  // namespace trireme::cuda
