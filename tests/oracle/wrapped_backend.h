// A backend that is another one but for the ops that a test puts in its table.
#pragma once
#include <memory>
#include <utility>

#include "ops/ops.h"

namespace trireme {

class WrappedBackend : public Backend {
 public:
  explicit WrappedBackend(std::unique_ptr<Backend> inner) : inner_(std::move(inner)), ops_(inner_->ops()) {}
  const char* name() const override { return inner_->name(); }
  Device& device() override { return inner_->device(); }
  const Ops& ops() const override { return ops_; }
  DType act() const override { return inner_->act(); }
  DType kv_dtype() const override { return inner_->kv_dtype(); }
  bool batch_invariant() const override { return inner_->batch_invariant(); }
  i64 prepared_bytes(i64 n, i64 k, DType stored) const override {
    return inner_->prepared_bytes(n, k, stored);
  }

 private:
  std::unique_ptr<Backend> inner_;

 protected:
  Ops ops_;
};

}  // namespace trireme
