#include "server/service.h"

#include <array>
#include <chrono>

#include "base/log.h"
#include "server/openai/body.h"
#include "server/openai/fields.h"
#include "server/openai/json_text.h"

namespace trireme::server {
namespace {

constexpr std::string_view kModelPrefix = "/v1/models/";

struct RouteRow {
  Route route;
  std::string_view path;
  std::string_view method;  // GET also stands for HEAD
};
constexpr std::array kRoutes{
    RouteRow{Route::kHealth, "/health", "GET"},
    RouteRow{Route::kReady, "/ready", "GET"},
    RouteRow{Route::kMetrics, "/metrics", "GET"},
    RouteRow{Route::kVersion, "/version", "GET"},
    RouteRow{Route::kModels, "/v1/models", "GET"},
    RouteRow{Route::kModel, "/v1/models/{model}", "GET"},
    RouteRow{Route::kChat, "/v1/chat/completions", "POST"},
    RouteRow{Route::kCompletions, "/v1/completions", "POST"},
    RouteRow{Route::kTokenize, "/tokenize", "POST"},
    RouteRow{Route::kDetokenize, "/detokenize", "POST"},
    RouteRow{Route::kPage, "/", "GET"},
};

const RouteRow* row_of(Route route) {
  for (const auto& row : kRoutes) {
    if (row.route == route) return &row;
  }
  return nullptr;
}

// The page is ours alone: nothing from elsewhere, nothing inline, no frame around it.
constexpr std::string_view kPagePolicy =
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

HttpReply page(std::string_view path) {
  for (const auto& file : page_files()) {
    if (file.path != path) continue;
    HttpReply out;
    out.content_type = file.content_type;
    out.body = file.bytes;
    out.headers = {{"Content-Security-Policy", std::string(kPagePolicy)},
                   {"Referrer-Policy", "no-referrer"},
                   {"Cache-Control", "no-cache"}};
    return out;
  }
  return error_reply({404, "there is no such page", "invalid_request_error", "", "not_found", 0});
}

}  // namespace

Route route_of(std::string_view path) {
  for (const auto& row : kRoutes) {
    if (row.path == path && row.route != Route::kModel) return row.route;
  }
  if (path.starts_with(kModelPrefix) && path.size() > kModelPrefix.size()) return Route::kModel;
  for (const auto& file : page_files()) {
    if (file.path == path) return Route::kPage;
  }
  return Route::kUnknown;
}

std::string_view route_name(Route route) {
  const auto* row = row_of(route);
  return row ? row->path : "other";
}

HttpReply error_reply(const ApiError& error) {
  HttpReply out;
  out.status = error.status;
  out.body = error_json(error);
  if (error.retry_after_s > 0) out.headers.emplace_back("Retry-After", std::to_string(error.retry_after_s));
  return out;
}

Service::Service(ServerOptions given, Engine& the_engine, const TextFrontend& the_text)
    : options(std::move(given)),
      engine(the_engine),
      text(the_text),
      auth(options.api_keys),
      metrics(options.served_model_names.empty() ? engine.info().name : options.served_model_names.front()),
      canary(engine, text, options.ready_token_age, options.ready_canary_timeout),
      created_(std::chrono::duration_cast<std::chrono::seconds>(
                   std::chrono::system_clock::now().time_since_epoch())
                   .count()) {
  limits.vocab_size = engine.info().vocab_size;
  limits.max_model_len = engine.info().max_model_len;
  limits.max_token_bytes = text.max_token_bytes();
  limits.max_choices = options.max_choices;
  limits.allow_template_kwargs = options.allow_chat_template_kwargs;
  limits.model_names = options.served_model_names;
  if (limits.model_names.empty()) limits.model_names.push_back(engine.info().name);
}

std::optional<HttpReply> Service::gate(HttpRequest& request, Route route) const {
  if (request.method == "OPTIONS" && !options.allow_origin.empty()) {
    HttpReply out;
    out.status = 204;
    out.content_type.clear();
    out.headers = {{"Access-Control-Allow-Methods", "GET, HEAD, POST, OPTIONS"},
                   {"Access-Control-Allow-Headers", "authorization, content-type, x-request-id"},
                   {"Access-Control-Max-Age", "600"}};
    return out;
  }
  if (auth.required() && route != Route::kHealth) {
    // A browser sends its own sign-in along with whatever a page asks for, so outside our page it counts only
    // where the browser says that our page asks.
    const bool own_page = request.fetch_site == "same-origin";
    const bool page_itself = route == Route::kPage;
    const auto tenant = auth.tenant(request.authorization, page_itself || own_page);
    if (!tenant) {
      auto out = error_reply({401, "no valid API key: send it as \"Authorization: Bearer KEY\"",
                              "authentication_error", "", "invalid_api_key", 0});
      out.headers.emplace_back(
          "WWW-Authenticate",
          page_itself ? "Basic realm=\"trireme: any name, an API key as the password\"" : "Bearer");
      return out;
    }
    request.tenant = *tenant;
  }
  // Pages of other sites can make a browser send simple requests here without asking first.
  if (request.fetch_site == "cross-site" && options.allow_origin.empty() && request.method != "GET" &&
      request.method != "HEAD") {
    return error_reply({403, "requests from other sites' pages are refused; see --allow-origin",
                        "invalid_request_error", "", "forbidden_origin", 0});
  }
  if (route == Route::kUnknown || (route == Route::kMetrics && !options.enable_metrics)) {
    return error_reply({404, fmt::format("there is no {}", one_line(request.path, 128)),
                        "invalid_request_error", "", "not_found", 0});
  }
  const auto method = row_of(route)->method;
  if (request.method != method && !(method == "GET" && request.method == "HEAD")) {
    auto out = error_reply(
        {405, fmt::format("{} takes {}, not {}", route_name(route), method, one_line(request.method, 16)),
         "invalid_request_error", "", "method_not_allowed", 0});
    out.headers.emplace_back("Allow", method == "GET" ? "GET, HEAD" : std::string(method));
    return out;
  }
  return std::nullopt;
}

HttpReply Service::answer(const HttpRequest& request, Route route) {
  switch (route) {
    case Route::kHealth:
      // What a supervisor should restart the process for: no request can succeed any more.
      if (!engine.stats().device_error.empty())
        return {503, "application/json", R"({"status":"the device is lost; restart the server"})", {}};
      return {200, "application/json", R"({"status":"ok"})", {}};
    case Route::kMetrics:
      return {200, "text/plain; version=0.0.4; charset=utf-8", metrics.exposition(engine), {}};
    case Route::kVersion:
      return {200, "application/json", R"({"version":")" TRIREME_VERSION R"("})", {}};
    case Route::kModels:
      return models();
    case Route::kModel:
      return model(percent_decoded(std::string_view(request.path).substr(kModelPrefix.size())));
    case Route::kTokenize:
      return tokenize(request.body);
    case Route::kDetokenize:
      return detokenize(request.body);
    case Route::kPage:
      return page(request.path);
    case Route::kUnknown:
    case Route::kReady:
    case Route::kChat:
    case Route::kCompletions:
      break;
  }
  return error_reply({500, "a route without an answer", "server_error", "", "internal_error", 0});
}

HttpReply Service::ready_answer(const Canary::Verdict& verdict) {
  const bool is_draining = draining.load();
  const bool ready = !is_draining && verdict.state == Canary::Verdict::State::kReady;
  metrics.ready.set(ready ? 1 : 0);
  if (ready) return {200, "application/json", R"({"status":"ready"})", {}};
  return error_reply(
      {503, is_draining ? "the server is shutting down" : verdict.why, "server_error", "", "not_ready", 1});
}

ApiResult<PreparedRequest> Service::prepare(Route route, std::string_view body) const {
  ASSIGN(auto json, parse_body(body));
  ASSIGN(auto request, route == Route::kChat ? parse_chat_request(std::move(json), limits)
                                             : parse_completion_request(std::move(json), limits));
  return prepared(std::move(request), text, limits);
}

std::string Service::model_json(const std::string& name) const {
  std::string out = R"({"id":)";
  append_json_string(out, name);
  out += fmt::format(R"(,"object":"model","created":{},"owned_by":"trireme","root":)", created_);
  append_json_string(out, limits.model_names.front());
  out += fmt::format(R"(,"parent":null,"max_model_len":{}}})", limits.max_model_len);
  return out;
}

HttpReply Service::models() const {
  std::string out = R"({"object":"list","data":[)";
  for (std::size_t i = 0; i < limits.model_names.size(); ++i) {
    if (i) out += ',';
    out += model_json(limits.model_names[i]);
  }
  return {200, "application/json", out + "]}", {}};
}

HttpReply Service::model(std::string_view name) const {
  for (const auto& served : limits.model_names) {
    if (served == name) return {200, "application/json", model_json(served), {}};
  }
  return error_reply(
      {404, fmt::format("the model \"{}\" is not served here; /v1/models lists what is", name.substr(0, 256)),
       "invalid_request_error", "model", "model_not_found", 0});
}

HttpReply Service::tokenize(std::string_view body) const {
  const auto run = [&]() -> ApiResult<std::string> {
    ASSIGN(auto json, parse_body(body));
    TRY(check_model(json, limits));
    const Fields fields(json);
    ASSIGN(const auto strings, fields.boolean("return_token_strs"));
    std::vector<TokenId> ids;
    if (fields.find("messages")) {
      ASSIGN(const auto chat, parse_chat_prompt(json, limits));
      ASSIGN(ids, encode_bounded(text, chat, limits));
    } else {
      ASSIGN(const auto how, parse_encode_options(json));
      const auto* prompt = fields.find("prompt");
      if (!prompt)
        return bad_param("prompt", "give prompt, a string, or messages", "missing_required_parameter");
      if (!prompt->is_string()) return fields.wrong_type("prompt", "a string");
      ASSIGN(ids, encode_bounded(text, prompt->get_ref<const std::string&>(), how, limits));
    }
    std::string out = fmt::format(R"({{"count":{},"max_model_len":{},"tokens":[{}],"token_strs":)",
                                  ids.size(), limits.max_model_len, fmt::join(ids, ","));
    if (strings.value_or(false)) {
      out += '[';
      for (std::size_t i = 0; i < ids.size(); ++i) {
        if (i) out += ',';
        append_json_string(out, text.token_bytes(ids[i]));
      }
      out += ']';
    } else {
      out += "null";
    }
    return out + "}";
  };
  auto out = run();
  if (!out) return error_reply(out.error());
  return {200, "application/json", std::move(*out), {}};
}

HttpReply Service::detokenize(std::string_view body) const {
  const auto run = [&]() -> ApiResult<std::string> {
    ASSIGN(auto json, parse_body(body));
    TRY(check_model(json, limits));
    const Fields fields(json);
    ASSIGN(const auto ids,
           fields.tokens("tokens",
                         std::max<std::size_t>(1u << 16, 4 * static_cast<std::size_t>(limits.max_model_len)),
                         limits.vocab_size));
    if (!ids)
      return bad_param("tokens", "tokens is missing: give an array of token ids",
                       "missing_required_parameter");
    std::string out = R"({"prompt":)";
    append_json_string(out, text.decode(*ids, false));
    return out + "}";
  };
  auto out = run();
  if (!out) return error_reply(out.error());
  return {200, "application/json", std::move(*out), {}};
}

void Service::log(const HttpRequest& request, std::string_view peer, Route route, int status,
                  std::string_view details) {
  metrics.registry.counter(obs::Metric::kHttpRequests, {route_name(route), std::to_string(status)}).add();
  if (!options.log_requests) return;
  const double ms = 1e3 * seconds(std::chrono::steady_clock::now() - request.arrived);
  spdlog::info("{} {} {} {:.1f}ms{}{} from={} id={}{}{}", one_line(request.method, 16),
               one_line(request.path, 128), status, ms, details.empty() ? "" : " ", details, peer, request.id,
               request.tenant.empty() ? "" : " key=", request.tenant);
}

}  // namespace trireme::server
