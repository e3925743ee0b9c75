#include "sched/wait_queue.h"

#include <queue>
#include <tuple>
#include <vector>

#include "base/check.h"

namespace trireme::sched {

void WaitQueue::push(Sequence& seq) {
  CHECK(classes_[seq.priority][seq.queue_tenant].insert(&seq).second);
  ++size_;
}

void WaitQueue::erase(Sequence& seq) {
  const auto of_class = classes_.find(seq.priority);
  CHECK(of_class != classes_.end());
  const auto line = of_class->second.find(seq.queue_tenant);
  CHECK(line != of_class->second.end() && line->second.erase(&seq) == 1);
  if (line->second.empty()) of_class->second.erase(line);
  if (of_class->second.empty()) classes_.erase(of_class);
  --size_;
}

void WaitQueue::visit(const Tenants& tenants, const std::function<Verdict(Sequence&)>& judge) {
  struct Cursor {
    i64 counter;
    TenantId tenant;
    Line* line;
    Line::iterator next;
    bool operator>(const Cursor& o) const {
      return std::tie(counter, tenant) > std::tie(o.counter, o.tenant);
    }
  };
  const auto counter = [&](TenantId t) { return t == kEveryone ? 0 : tenants.counter(t); };
  std::vector<Sequence*> taken;
  bool stopped = false;
  for (auto of_class = classes_.begin(); of_class != classes_.end() && !stopped; ++of_class) {
    std::priority_queue<Cursor, std::vector<Cursor>, std::greater<>> cursors;
    for (auto& [tenant, line] : of_class->second) {
      cursors.push({counter(tenant), tenant, &line, line.begin()});
    }
    while (!cursors.empty() && !stopped) {
      Cursor cursor = cursors.top();
      cursors.pop();
      Sequence& seq = **cursor.next;
      const Verdict verdict = judge(seq);
      if (verdict == Verdict::kTaken) taken.push_back(&seq);
      stopped = verdict == Verdict::kStop;
      cursor.counter = counter(cursor.tenant);
      if (++cursor.next != cursor.line->end()) cursors.push(cursor);
    }
  }
  for (Sequence* seq : taken) erase(*seq);
}

}  // namespace trireme::sched
