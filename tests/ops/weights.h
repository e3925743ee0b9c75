// What the tests of matrix products share: weights of every stored type, prepared on the backend under test
// and on the oracle.
#pragma once
#include "formats/fp8_blocks.h"
#include "rig.h"

namespace trireme::ops_test {

class WithWeights : public OnEveryBackend {
 protected:
  struct Stored {
    Host weight, scale;
    StoredMatrix view() const { return {weight.view(), scale.size() > 0 ? scale.view() : ConstView{}}; }
  };
  Stored stored(DType t, i64 n, i64 k) {
    Stored s{random_host(rng, t, {n, k}, t == DType::kF8E4M3 ? 50 : 0.5), {}};
    if (t == DType::kF8E4M3) {
      s.scale = Host(DType::kF32, formats::fp8_scale_shape(n, k));
      for (i64 i = 0; i < s.scale.size(); ++i)
        s.scale.set(i, static_cast<float>(0.001 + 0.02 * rng.uniform()));
    }
    return s;
  }
  static LinearWeight unprepared(const Stored& s) {
    LinearWeight w;
    w.n = s.weight.shape[0];
    w.k = s.weight.shape[1];
    w.weight = s.weight.view();
    if (s.scale.size() > 0) w.scale = s.scale.view();
    return w;
  }
  static void prepare(Rig& r, LinearWeight& w) {
    RUN(r, r.ops().prepare(r.device(), w));
    RUN(r, r.backend().finish_loading());
  }
  static LinearWeight prepared(Rig& r, const Stored& s, const Host* bias = nullptr, bool precise = false) {
    LinearWeight w = unprepared(s);
    if (bias != nullptr) w.bias = r.put(*bias);
    w.precise = precise;
    prepare(r, w);
    return w;
  }
  // The same matrix the other way around: [n, k] of [k, n]. In FP8 k is one block.
  static Stored turned(const Stored& s) {
    const i64 k = s.weight.shape[0], n = s.weight.shape[1];
    Stored out{Host(s.weight.dtype, {n, k}), {}};
    for (i64 i = 0; i < n * k; ++i) out.weight.set(i, s.weight.get(i % k * n + i / k));
    if (s.scale.size() == 0) return out;
    CHECK(k <= 128);
    out.scale = Host(DType::kF32, {s.scale.size(), 1});
    for (i64 i = 0; i < s.scale.size(); ++i) out.scale.set(i, s.scale.get(i));
    return out;
  }
  // Types of groups: a backend that prepares them itself may want experts and heads in 16 bits or fewer.
  std::vector<DType> group_types() {
    std::vector<DType> types = {DType::kBF16, DType::kF8E4M3};
    if (tested.ops().prepare_group == nullptr) types.push_back(DType::kF32);
    return types;
  }
  // Heads of [n, k], each given as [k, n].
  static GroupWeight prepared_transposed(Rig& r, const std::vector<Stored>& each) {
    GroupWeight g;
    g.n = each[0].weight.shape[1];
    g.k = each[0].weight.shape[0];
    g.per_head = true;
    g.transposed = true;
    for (const Stored& s : each) {
      g.each.push_back(unprepared(s));
      std::swap(g.each.back().n, g.each.back().k);
    }
    RUN(r, r.ops().prepare_group(r.device(), g));
    RUN(r, r.backend().finish_loading());
    return g;
  }
  static GroupWeight prepared_group(Rig& r, const std::vector<Stored>& each, bool per_head) {
    GroupWeight g;
    g.n = each[0].weight.shape[0];
    g.k = each[0].weight.shape[1];
    g.per_head = per_head;
    for (const Stored& s : each) g.each.push_back(unprepared(s));
    if (r.ops().prepare_group != nullptr) {
      RUN(r, r.ops().prepare_group(r.device(), g));
      RUN(r, r.backend().finish_loading());
    } else {
      for (LinearWeight& w : g.each) prepare(r, w);
    }
    return g;
  }
};

}  // namespace trireme::ops_test
