// The HTTP server: OpenAI's API, health, metrics and a chat page over one engine.
#pragma once
#include <functional>
#include <memory>

#include "server/options.h"
#include "server/text_frontend.h"
#include "trireme/engine.h"

namespace trireme::server {

// Thread-safe. The engine and the text outlive it.
class Server {
 public:
  // Listens when it returns. Errors: a bad option, an address that cannot be taken.
  static Result<std::unique_ptr<Server>> start(ServerOptions options, Engine& engine,
                                               const TextFrontend& text);
  ~Server();  // stop()

  int port() const;  // the one it got, when the options said 0

  // Not ready any more, no new connections or generations; what runs goes on. Returns at once.
  void drain();
  // True when nobody is served any more.
  bool idle() const;
  // Ends what still runs: its clients get an error, and a moment to read it. Returns at once.
  void cancel_all();
  // Closes everything and waits for the threads.
  void stop();

 private:
  struct State;
  explicit Server(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// Serves until SIGINT or SIGTERM, then drains for at most options.drain_timeout; a second signal ends at
// once. `started` is called once it listens, with the port.
Status run(ServerOptions options, Engine& engine, const TextFrontend& text,
           const std::function<void(int)>& started = {});

}  // namespace trireme::server
