#include "engine/shape_backend.h"

namespace trireme::engine {
namespace {

// Where nothing lies; never read.
void* nowhere() { return reinterpret_cast<void*>(std::uintptr_t{4096}); }

class ShapeStream final : public Stream {
 public:
  Status synchronize() override { return {}; }
};

class ShapeBackend;

class ShapeDevice final : public Device {
 public:
  ShapeDevice(Chip chip, const ShapeBackend& of) : backend(of), chip_(std::move(chip)) {}
  const Chip& chip() const override { return chip_; }
  std::unique_ptr<Stream> make_stream() override { return std::make_unique<ShapeStream>(); }
  // One piece for all: an arena on this device never needs a second chunk, so its peak is what it takes.
  Result<Buffer> allocate(i64) override { return Buffer(nullptr, nowhere(), i64{1} << 50); }
  Status copy_in(void*, const void*, i64, Stream&) override { return {}; }
  Status copy_out(void*, const void*, i64, Stream&) override { return {}; }
  bool host_readable() const override { return false; }
  const ShapeBackend& backend;

 private:
  Chip chip_;
};

class ShapeBackend final : public Backend {
 public:
  explicit ShapeBackend(Backend& real) : real_(real), device_(real.device().chip(), *this) {}
  const char* name() const override { return real_.name(); }
  Device& device() override { return device_; }
  const Ops& ops() const override { return ops_; }
  DType act() const override { return real_.act(); }
  DType kv_dtype() const override { return real_.kv_dtype(); }
  bool batch_invariant() const override { return real_.batch_invariant(); }
  DType dequantised() const override { return real_.dequantised(); }
  i64 prepared_bytes(i64 n, i64 k, DType stored) const override { return real_.prepared_bytes(n, k, stored); }
  bool fp8_inputs(i64 n, i64 k, DType stored) const override { return real_.fp8_inputs(n, k, stored); }
  bool stacks() const override { return true; }
  i64 attention_plan_bytes(const PlanAttentionArgs& a) const override {
    return real_.attention_plan_bytes(a);
  }
  i64 mla_expanded_room_bytes(const MlaExpandedArgs& a) const override {
    return real_.mla_expanded_room_bytes(a);
  }

 private:
  static DType stored_type(const LinearWeight& w) {
    return w.parts.empty() ? w.weight.dtype : w.parts[0].weight.dtype;
  }
  static const ShapeBackend& of(Device& d) { return static_cast<ShapeDevice&>(d).backend; }
  static Status prepare(Device& d, LinearWeight& w) {
    w.stored_bytes = of(d).prepared_bytes(w.n, w.k, stored_type(w));
    w.fp8_input = of(d).fp8_inputs(w.n, w.k, stored_type(w));
    return {};
  }
  static Status prepare_group(Device& d, GroupWeight& g) {
    // What head_linear multiplies with is kept in the activations' type.
    const DType type = g.per_head ? of(d).dequantised() : stored_type(g.each[0]);
    g.stored_bytes = g.count() * of(d).prepared_bytes(g.n, g.k, type);
    g.fp8_input = !g.per_head && of(d).fp8_inputs(g.n, g.k, type);
    return {};
  }
  template <class Args>
  static Status nothing(const Args&, Stream&) {
    return {};
  }

  const Backend& real_;
  ShapeDevice device_;
  Ops ops_ = {.prepare = prepare,
              .prepare_group = prepare_group,
              .embedding = nothing<EmbeddingArgs>,
              .rms_norm = nothing<RmsNormArgs>,
              .add = nothing<AddArgs>,
              .linear = nothing<LinearArgs>,
              .head_linear = nothing<HeadLinearArgs>,
              .swiglu = nothing<SwigluArgs>,
              .rope = nothing<RopeArgs>,
              .mla_append = nothing<MlaAppendArgs>,
              .mla_gather = nothing<MlaGatherArgs>,
              .mla_absorbed = nothing<MlaAbsorbedArgs>,
              .mla_expanded = nothing<MlaExpandedArgs>,
              .gqa_append = nothing<GqaAppendArgs>,
              .gqa_attention = nothing<GqaAttentionArgs>,
              .moe_gate = nothing<MoeGateArgs>,
              .moe_permute = nothing<MoePermuteArgs>,
              .grouped_linear = nothing<GroupedLinearArgs>,
              .moe_combine = nothing<MoeCombineArgs>,
              .gather_rows = nothing<GatherRowsArgs>,
              .kv_copy = nothing<KvCopyArgs>,
              .sample = nothing<SampleArgs>,
              .add_rms_norm = nothing<AddRmsNormArgs>,
              .mla_rope_append = nothing<MlaRopeAppendArgs>,
              .mla_query = nothing<MlaQueryArgs>,
              .gqa_rope_append = nothing<GqaRopeAppendArgs>,
              .quantise = nothing<QuantiseArgs>,
              .plan_attention = nothing<PlanAttentionArgs>};
};

}  // namespace

std::unique_ptr<Backend> make_shape_backend(Backend& real) { return std::make_unique<ShapeBackend>(real); }

}  // namespace trireme::engine
