// Whose turn it is: virtual token counters (Sheng et al., "Fairness in Serving Large Language Models", OSDI
// 2024). A tenant pays 1 for a prompt token that is computed for it and 2 for a token that is generated; the
// one that has paid least is served next. A tenant that returns from idleness is lifted to the least of the
// active ones, so that silence earns no credit. Not thread-safe.
#pragma once
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/types.h"

namespace trireme::sched {

using TenantId = Id<struct TenantTag, i32>;

struct TenantStats {
  std::string name = {};
  i32 requests = 0;  // alive
  i64 prompt_tokens = 0, generated_tokens = 0;
  i64 counter = 0;
};

class Tenants {
 public:
  // One request more, or less, of this tenant is alive.
  TenantId join(std::string_view name);
  void leave(TenantId tenant);

  void charge_prompt(TenantId tenant, i32 tokens);
  void charge_generated(TenantId tenant, i32 tokens);
  i64 counter(TenantId tenant) const { return at(tenant).counter; }

  // The active ones, and idle ones that still owe something.
  std::vector<TenantStats> stats() const;

 private:
  const TenantStats& at(TenantId tenant) const;
  TenantStats& at(TenantId tenant);
  void forget_idle();

  std::vector<TenantStats> tenants_;
  std::vector<TenantId> unused_;
  std::unordered_map<std::string, TenantId> by_name_;
  std::size_t forget_at_ = 1024;
  i64 floor_ = 0;  // least counter of the active tenants when it was last looked at; never falls
};

}  // namespace trireme::sched
