#include "sched/tenants.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "base/check.h"

namespace trireme::sched {

TenantId Tenants::join(std::string_view name) {
  const auto [it, is_new] = by_name_.try_emplace(std::string(name));
  if (is_new) {
    if (unused_.empty()) {
      unused_.push_back(TenantId(static_cast<i32>(tenants_.size())));
      tenants_.emplace_back();
    }
    it->second = unused_.back();
    unused_.pop_back();
    at(it->second) = TenantStats{.name = std::string(name)};
  }
  const TenantId id = it->second;
  if (at(id).requests == 0) {
    i64 least = std::numeric_limits<i64>::max();
    for (const TenantStats& t : tenants_) {
      if (t.requests > 0) least = std::min(least, t.counter);
    }
    if (least != std::numeric_limits<i64>::max()) floor_ = std::max(floor_, least);
    at(id).counter = std::max(at(id).counter, floor_);
  }
  ++at(id).requests;
  if (is_new && by_name_.size() >= forget_at_) forget_idle();
  return id;
}

void Tenants::leave(TenantId tenant) {
  TenantStats& t = at(tenant);
  CHECK(t.requests > 0);
  if (--t.requests > 0) return;
  const bool last = std::ranges::none_of(tenants_, [](const TenantStats& o) { return o.requests > 0; });
  if (last) floor_ = std::max(floor_, t.counter);
}

void Tenants::charge_prompt(TenantId tenant, i32 tokens) {
  at(tenant).prompt_tokens += tokens;
  at(tenant).counter += tokens;
}

void Tenants::charge_generated(TenantId tenant, i32 tokens) {
  at(tenant).generated_tokens += tokens;
  at(tenant).counter += i64{2} * tokens;
}

std::vector<TenantStats> Tenants::stats() const {
  std::vector<TenantStats> out;
  for (const auto& [name, id] : by_name_) out.push_back(at(id));
  return out;
}

// Names come from outside and are without number. An idle tenant at or below the floor would be lifted to it
// when it returns: forgetting it changes nothing.
void Tenants::forget_idle() {
  std::erase_if(by_name_, [&](const auto& entry) {
    const TenantStats& t = at(entry.second);
    if (t.requests > 0 || t.counter > floor_) return false;
    unused_.push_back(entry.second);
    return true;
  });
  forget_at_ = std::max<std::size_t>(1024, 2 * by_name_.size());
}

const TenantStats& Tenants::at(TenantId tenant) const {
  return tenants_[static_cast<std::size_t>(tenant.value)];
}
TenantStats& Tenants::at(TenantId tenant) { return tenants_[static_cast<std::size_t>(tenant.value)]; }

}  // namespace trireme::sched
