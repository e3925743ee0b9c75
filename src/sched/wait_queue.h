// Who waits, in the order in which they are considered: highest priority; then the tenant with the lowest
// counter; then the order of submission. Not thread-safe.
#pragma once
#include <functional>
#include <map>
#include <set>

#include "sched/sequence.h"

namespace trireme::sched {

// The queue_tenant of all where a policy knows no tenants.
inline constexpr TenantId kEveryone{-1};

class WaitQueue {
 public:
  void push(Sequence& seq);
  void erase(Sequence& seq);
  i32 size() const { return size_; }

  enum class Verdict {
    kTaken,    // leaves the queue
    kSkipped,  // stays; the next one may be served before it
    kStop,     // stays, and nobody behind it is considered
  };
  // Shows the waiting to `judge`, each at most once. The order follows the tenants' counters while judge
  // changes them. judge must not change the queue.
  void visit(const Tenants& tenants, const std::function<Verdict(Sequence&)>& judge);

 private:
  struct InOrder {
    bool operator()(const Sequence* a, const Sequence* b) const { return a->id < b->id; }
  };
  using Line = std::set<Sequence*, InOrder>;  // of one tenant
  using Class = std::map<TenantId, Line>;     // of one priority
  std::map<i32, Class, std::greater<>> classes_;
  i32 size_ = 0;
};

}  // namespace trireme::sched
