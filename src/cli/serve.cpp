// `trireme serve`: one engine behind the OpenAI API.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdlib>

#include "base/log.h"
#include "cli/model_flags.h"
#include "server/model_text.h"
#include "server/server.h"

namespace trireme::cli {
namespace {

struct ServeFlags {
  ModelFlags model;
  EngineFlags engine;
  server::ServerOptions server;
  std::string chat_template;
  double header_timeout = 10, body_timeout = 60, idle_timeout = 75, drain_timeout = 30,
         slow_reader_timeout = 30;
  bool no_metrics = false, no_request_log = false, enable_metrics = true;
};

void add_server_flags(CLI::App& app, ServeFlags& f) {
  auto& o = f.server;
  app.add_option("--host", o.host, "Address to listen on; 0.0.0.0 is every interface")->capture_default_str();
  app.add_option("--port", o.port, "Port; 0 takes a free one")->capture_default_str();
  app.add_option("--served-model-name", o.served_model_names,
                 "Names that requests may give; the first is in the answers")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  app.add_option("--api-key", o.api_keys,
                 "Required on every route but /health; may be repeated. Also from TRIREME_API_KEY")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  app.add_option("--chat-template", f.chat_template,
                 "File with a Jinja chat template instead of the model's own");
  app.add_flag("--allow-chat-template-kwargs", o.allow_chat_template_kwargs,
               "Requests may set variables of the chat template");
  app.add_option("--allow-origin", o.allow_origin, "Origin that browsers may call from (CORS), or *");
  app.add_option("--max-streams", o.max_generations, "Requests being answered at once; beyond it 429")
      ->capture_default_str();
  app.add_option("--max-connections", o.max_connections, "Connections; beyond it 503")->capture_default_str();
  app.add_option("--max-body-bytes", o.max_body_bytes, "Bytes of a request body; beyond it 413")
      ->capture_default_str();
  app.add_option("--max-bodies-bytes", o.max_bodies_bytes, "Bytes of all bodies being read")
      ->capture_default_str();
  app.add_option("--max-header-bytes", o.max_header_bytes, "Bytes of a request's headers; beyond it 431")
      ->capture_default_str();
  app.add_option("--max-choices", o.max_choices, "Prompts times n of one request")->capture_default_str();
  app.add_option("--header-timeout", f.header_timeout, "Seconds for a request's headers")
      ->capture_default_str();
  app.add_option("--body-timeout", f.body_timeout, "Seconds for a request's body")->capture_default_str();
  app.add_option("--keep-alive-timeout", f.idle_timeout, "Seconds between two requests of a connection")
      ->capture_default_str();
  app.add_option("--drain-timeout", f.drain_timeout, "Seconds that running requests get after SIGTERM")
      ->capture_default_str();
  app.add_option("--slow-reader-bytes", o.slow_reader_bytes, "Unsent bytes of a stream that count as slow")
      ->capture_default_str();
  app.add_option("--slow-reader-timeout", f.slow_reader_timeout,
                 "Seconds a stream may stay slow before it is ended")
      ->capture_default_str();
  app.add_option("--http-threads", o.io_threads, "Threads that hold connections")->capture_default_str();
  app.add_flag("--disable-metrics", f.no_metrics, "No /metrics");
  app.add_flag("--enable-metrics", f.enable_metrics, "On by default; kept for scripts written for SGLang");
  app.add_flag("--disable-log-requests", f.no_request_log, "No line in the log for each request");
}

Status run_serve(const ServeFlags& flags) {
  server::ServerOptions options = flags.server;
  const auto to_ms = [](double s) { return std::chrono::milliseconds(static_cast<i64>(s * 1000)); };
  options.header_timeout = to_ms(flags.header_timeout);
  options.body_timeout = to_ms(flags.body_timeout);
  options.idle_timeout = to_ms(flags.idle_timeout);
  options.drain_timeout = to_ms(flags.drain_timeout);
  options.slow_reader_timeout = to_ms(flags.slow_reader_timeout);
  options.enable_metrics = !flags.no_metrics;
  options.log_requests = !flags.no_request_log;
  if (const char* key = std::getenv("TRIREME_API_KEY"); key && *key && options.api_keys.empty())
    options.api_keys.emplace_back(key);
  ASSIGN(options, server::validated(std::move(options)));

  ASSIGN(auto runtime, flags.model.resolve());
  ASSIGN(auto engine_options, flags.engine.resolve(runtime));
  if (!options.served_model_names.empty()) engine_options.served_model_name = options.served_model_names[0];
  if (runtime.model.empty())
    return invalid(
        "serve needs a tokenizer: pass --model DIR (with --load-format dummy its weights are not read)");
  ASSIGN(auto text, server::load_text_frontend(runtime.model, flags.chat_template));
  ASSIGN(auto engine, engine::make_engine(engine_options));
  return server::run(options, *engine, *text, [&](int port) {
    const std::string host =
        options.host.find(':') == std::string::npos ? options.host : "[" + options.host + "]";
    spdlog::info("serving {} at http://{}:{}  (OpenAI API under /v1, chat page at /)", engine->info().name,
                 host, port);
  });
}

}  // namespace

void add_serve(CLI::App& app, Action& action) {
  auto flags = std::make_shared<ServeFlags>();
  flags->model.add(app);
  flags->engine.add(app);
  add_server_flags(app, *flags);
  app.callback([flags, &action] { action = [flags] { return run_serve(*flags); }; });
}

}  // namespace trireme::cli
