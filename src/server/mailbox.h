// Carries the engine's events to the thread that holds a connection: the engine hands over and goes on, and
// one wake-up serves all events that came since the last.
#pragma once
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "base/clock.h"
#include "trireme/engine.h"

namespace trireme::server {

// Receives on its connection's thread.
class EventTarget {
 public:
  virtual ~EventTarget() = default;
  virtual void on_event(int choice, Event&& event, Time at) = 0;
};

// Thread-safe. Lives on in the engine's sinks after its loop is gone; events are dropped then.
class Mailbox {
 public:
  // `wake` asks the loop to call deliver() soon. It is called under the lock and must not block.
  explicit Mailbox(std::function<void()> wake) : wake_(std::move(wake)) {}

  void push(std::shared_ptr<EventTarget> to, int choice, Event&& event) {
    const Time now = std::chrono::steady_clock::now();
    const std::lock_guard lock(mutex_);
    if (!wake_) return;
    waiting_.push_back({std::move(to), choice, std::move(event), now});
    if (waiting_.size() == 1) wake_();
  }

  // On the loop's thread.
  void deliver() {
    {
      const std::lock_guard lock(mutex_);
      waiting_.swap(delivering_);
    }
    for (auto& item : delivering_) item.to->on_event(item.choice, std::move(item.event), item.at);
    delivering_.clear();
  }

  // After this the loop is never woken again.
  void close() {
    std::vector<Item> dropped;
    const std::lock_guard lock(mutex_);
    wake_ = nullptr;
    dropped.swap(waiting_);
  }

 private:
  struct Item {
    std::shared_ptr<EventTarget> to;
    int choice;
    Event event;
    Time at;
  };
  std::mutex mutex_;
  std::function<void()> wake_;
  std::vector<Item> waiting_;
  std::vector<Item> delivering_;  // the loop's own
};

}  // namespace trireme::server
