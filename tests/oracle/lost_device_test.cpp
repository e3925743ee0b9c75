// A device that is gone: every request ends with its error, nothing new is taken, and nothing hangs.
#include <gtest/gtest.h>

#include <atomic>
#include <future>

#include "devices.h"
#include "engine/engine.h"
#include "wrapped_backend.h"

namespace trireme {
namespace {

std::atomic<bool> gone{false};
Status (*real_embedding)(const EmbeddingArgs&, Stream&) = nullptr;

Status embedding_until_gone(const EmbeddingArgs& a, Stream& s) {
  if (gone) return fail(ErrorCode::kUnavailable, "the device fell off the bus");
  return real_embedding(a, s);
}

// The CPU, until its device goes.
class FallibleBackend final : public WrappedBackend {
 public:
  explicit FallibleBackend(std::unique_ptr<Backend> inner) : WrappedBackend(std::move(inner)) {
    real_embedding = ops_.embedding;
    ops_.embedding = embedding_until_gone;
  }
};

TEST(LostDevice, EndsEveryRequestWithItsErrorAndTakesNoMore) {
  gone = false;
  engine::EngineOptions options;
  options.runtime.model = source_dir() + "/models/trireme-demo";
  options.runtime.device = "cpu";
  auto runtime = engine::load_runtime(options.runtime);
  ASSERT_TRUE(runtime) << runtime.error().message;
  runtime->backend = std::make_unique<FallibleBackend>(std::move(runtime->backend));
  auto engine = engine::make_engine(options, std::move(*runtime));
  ASSERT_TRUE(engine) << engine.error().message;

  constexpr int kRequests = 3;
  std::promise<Event> ends[kRequests];
  std::promise<void> began;
  std::atomic<int> tokens{0}, told_early{0};
  for (auto& end : ends) {
    Request r;
    r.prompt = {0, 3, 2865, 389, 562, 37, 4};
    r.sampling.max_tokens = 2000;
    r.sampling.ignore_eos = true;
    auto id = (*engine)->submit(std::move(r), [&](Event&& e) {
      const int n = static_cast<int>(e.tokens.size());
      if (n > 0 && tokens.fetch_add(n) < 30 && tokens >= 30) began.set_value();
      if (e.finish == FinishReason::kNone) return;
      // Told before the published state said so, a client found the server healthy.
      if ((*engine)->stats().device_error.empty()) ++told_early;
      end.set_value(std::move(e));
    });
    ASSERT_TRUE(id) << id.error().message;
  }
  ASSERT_EQ(began.get_future().wait_for(std::chrono::seconds(60)), std::future_status::ready);
  EXPECT_EQ((*engine)->stats().device_error, "");
  gone = true;
  for (auto& end : ends) {
    auto event = end.get_future();
    ASSERT_EQ(event.wait_for(std::chrono::seconds(60)), std::future_status::ready) << "a request hangs";
    const Event e = event.get();
    EXPECT_EQ(e.finish, FinishReason::kError);
    ASSERT_TRUE(e.error);
    EXPECT_NE(e.error->message.find("fell off the bus"), std::string::npos) << e.error->message;
  }
  EXPECT_EQ(told_early, 0);
  EXPECT_NE((*engine)->stats().device_error, "");
  Request late;
  late.prompt = {0, 3, 4};
  const auto refused = (*engine)->submit(std::move(late), [](Event&&) {});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kUnavailable);
}

}  // namespace
}  // namespace trireme
