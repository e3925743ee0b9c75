// `trireme bench serve`: load on any OpenAI-compatible server.
#include <fmt/format.h>
#include <signal.h>

#include <cstdlib>
#include <fstream>

#include "cli/bench.h"
#include "cli/bench_report.h"
#include "cli/bench_serve_prompts.h"
#include "cli/http_client.h"
#include "cli/progress.h"

namespace trireme::cli {
namespace {

struct ServeBenchFlags {
  std::string url = "http://127.0.0.1:8000", model, api_key, endpoint = "completions";
  std::string dataset = "random", json;
  PromptOptions prompts;
  int num_prompts = 100, concurrency = 0, warmup = 1, output_len = 0;
  double request_rate = 0, burstiness = 1, timeout = 600, temperature = 0;
  bool ignore_eos = false;
  std::vector<std::string> goodput;
};

std::atomic<bool> stop_bench{false};

// Ctrl-C ends the load, and what was measured is still reported; a second one ends the program.
class StopOnInterrupt {
 public:
  StopOnInterrupt() {
    struct sigaction action {};
    action.sa_handler = [](int) { stop_bench = true; };
    action.sa_flags = static_cast<int>(SA_RESETHAND);
    sigaction(SIGINT, &action, &before_);
  }
  ~StopOnInterrupt() { sigaction(SIGINT, &before_, nullptr); }
  StopOnInterrupt(const StopOnInterrupt&) = delete;
  StopOnInterrupt& operator=(const StopOnInterrupt&) = delete;

 private:
  struct sigaction before_ {};
};

Status check(const ServeBenchFlags& f) {
  const auto& p = f.prompts;
  if (f.endpoint != "chat" && f.endpoint != "completions") {
    return invalid("--endpoint {}: use chat or completions", f.endpoint);
  }
  if (f.num_prompts < 1 || f.num_prompts > 10'000'000) {
    return invalid("--num-prompts {}: give 1 to 10000000", f.num_prompts);
  }
  if (f.concurrency < 0 || f.concurrency > 60000)
    return invalid("--concurrency {}: give 1 to 60000", f.concurrency);
  if (!(f.request_rate >= 0 && f.request_rate <= 1e6))
    return invalid("--request-rate {}: give at most 1e6", f.request_rate);
  if (!(f.burstiness > 0 && f.burstiness <= 1e6))
    return invalid("--burstiness {}: must be above 0", f.burstiness);
  if (!(f.timeout > 0 && f.timeout <= 1e6)) return invalid("--timeout {}: must be above 0", f.timeout);
  if (f.warmup < 0 || f.warmup > 10000) return invalid("--warmup {}: give 0 to 10000", f.warmup);
  if (p.input_len < 1 || p.input_len > (1 << 24))
    return invalid("--input-len {}: must be at least 1", p.input_len);
  if (f.output_len < 0 || f.output_len > (1 << 24))
    return invalid("--output-len {}: must be at least 1", f.output_len);
  if (!(p.range_ratio >= 0 && p.range_ratio < 1))
    return invalid("--range-ratio {}: give 0 to less than 1", p.range_ratio);
  if (p.shared_prefix_len < 0 || p.shared_prefix_len > (1 << 24)) {
    return invalid("--shared-prefix-len {}: must not be negative", p.shared_prefix_len);
  }
  if (p.vocab_size < 8 || p.vocab_size > (1 << 24))
    return invalid("--vocab-size {}: give at least 8", p.vocab_size);
  return {};
}

// What is sent, and to whom.
struct Plan {
  LoadOptions load;
  PromptOptions prompts;
  BodyOptions body;
  int warmup = 0;
};

Result<std::vector<std::string>> bodies_of(const PromptOptions& options, const BodyOptions& body) {
  ASSIGN(auto prompts, make_prompts(options, body.chat));
  std::vector<std::string> out;
  out.reserve(prompts.size());
  for (const auto& prompt : prompts) out.push_back(request_body(prompt, body));
  return out;
}

Result<LoadResult> short_load(const Plan& plan, const PromptOptions& prompts, const char* what) {
  ASSIGN(const auto bodies, bodies_of(prompts, plan.body));
  LoadOptions load = plan.load;
  load.request_rate = 0;
  load.concurrency = std::max(1, std::min(prompts.count, plan.load.concurrency));
  auto result = run_load(load, bodies, {}, &stop_bench);
  for (const auto& r : result.requests) {
    if (!r.ok) return fail(ErrorCode::kUnavailable, "{}: {}: {}", what, r.error_kind, r.error);
  }
  if (result.stopped) return fail(ErrorCode::kCancelled, "stopped");
  return result;
}

// How many of the random words make a token of this server's model: two prompts, of which the difference in
// length takes the chat template's own tokens out.
Status measure_words(Plan& plan) {
  PromptOptions p = plan.prompts;
  p.count = 1;
  p.range_ratio = 0;
  p.shared_prefix_len = 0;
  p.output_len = 1;
  i64 tokens[2] = {0, 0};
  constexpr int kWords[2] = {8, 72};
  for (int i = 0; i < 2; ++i) {
    p.input_len = kWords[i];
    p.seed = plan.prompts.seed + 1;
    ASSIGN(const auto result, short_load(plan, p, "the first request"));
    if (!result.requests[0].counted) return {};
    tokens[i] = result.requests[0].prompt_tokens;
  }
  if (tokens[1] > tokens[0]) {
    plan.prompts.words_per_token = double{kWords[1] - kWords[0]} / static_cast<double>(tokens[1] - tokens[0]);
  }
  return {};
}

Status warm_up(const Plan& plan) {
  if (plan.warmup == 0) return {};
  PromptOptions p = plan.prompts;
  p.count = plan.warmup;
  p.seed = ~plan.prompts.seed;  // other prompts, so that no prefix is cached before the bench
  return short_load(plan, p, "warm-up").map([](const LoadResult&) {});
}

Result<Plan> make_plan(const ServeBenchFlags& f) {
  Plan plan;
  ASSIGN(plan.load.url, parse_url(f.url));
  ASSIGN(plan.load.addresses, resolve(plan.load.url));
  const char* key = std::getenv("TRIREME_API_KEY");
  plan.load.api_key = !f.api_key.empty() ? f.api_key : key != nullptr ? key : "";
  plan.load.timeouts.total = from_seconds(f.timeout);
  plan.load.timeouts.idle = from_seconds(f.timeout);
  plan.load.concurrency = f.concurrency;
  if (f.concurrency == 0 && f.request_rate == 0) plan.load.concurrency = std::min(f.num_prompts, 32);
  plan.load.request_rate = f.request_rate;
  plan.load.burstiness = f.burstiness;
  plan.load.seed = f.prompts.seed;
  plan.warmup = f.warmup;
  plan.prompts = f.prompts;
  plan.prompts.count = f.num_prompts;
  ASSIGN(plan.prompts.dataset, parse_dataset(f.dataset));
  const bool random = plan.prompts.dataset == Dataset::kRandom;
  if (!random && f.prompts.path.empty()) return invalid("--dataset {} needs --dataset-path FILE", f.dataset);
  plan.prompts.output_len = f.output_len == 0 && random ? 128 : f.output_len;
  plan.body.chat = f.endpoint == "chat";
  plan.body.ignore_eos = f.ignore_eos;
  plan.body.temperature = f.temperature;
  plan.load.path = plan.body.chat ? "/v1/chat/completions" : "/v1/completions";
  ASSIGN(auto client, HttpClient::create(plan.load.url, plan.load.api_key,
                                         {.total = std::chrono::seconds(30)}, &stop_bench));
  plan.body.model = f.model;
  if (f.model.empty()) {
    ASSIGN(plan.body.model, first_model(client));
  }
  return plan;
}

Json settings(const ServeBenchFlags& f, const Plan& plan) {
  const auto& p = plan.prompts;
  return {{"url", f.url},
          {"model", plan.body.model},
          {"endpoint", f.endpoint},
          {"dataset", f.dataset},
          {"dataset_path", p.path},
          {"num_prompts", p.count},
          {"concurrency", plan.load.concurrency},
          {"request_rate", f.request_rate},
          {"burstiness", f.burstiness},
          {"input_len", p.input_len},
          {"output_len", p.output_len},
          {"range_ratio", p.range_ratio},
          {"shared_prefix_len", p.shared_prefix_len},
          {"vocab_size", p.vocab_size},
          {"words_per_token", p.words_per_token},
          {"ignore_eos", f.ignore_eos},
          {"temperature", f.temperature},
          {"warmup", f.warmup},
          {"seed", p.seed},
          {"timeout_s", f.timeout},
          {"goodput", f.goodput}};
}

Status run_bench_serve(const ServeBenchFlags& f) {
  TRY(check(f));
  ASSIGN(const auto limits, parse_goodput(f.goodput));
  ASSIGN(auto plan, make_plan(f));
  const StopOnInterrupt interrupt;
  if (plan.body.chat && plan.prompts.dataset == Dataset::kRandom) TRY(measure_words(plan));
  TRY(warm_up(plan));
  ASSIGN(const auto bodies, bodies_of(plan.prompts, plan.body));
  fmt::print("{} at {}: {} requests, {}\n", plan.body.model, plan.load.url.authority(), bodies.size(),
             f.request_rate > 0
                 ? fmt::format("{} a second{}", f.request_rate,
                               f.concurrency > 0 ? fmt::format(", at most {} at once", f.concurrency) : "")
                 : fmt::format("{} at once", plan.load.concurrency));
  std::fflush(stdout);
  const auto result = run_load(plan.load, bodies, progress_bar("requests", "", 1), &stop_bench);
  const BenchReport report = make_report(result, limits);
  fmt::print("{}", report_text(report));
  if (!f.json.empty()) {
    Json json = report_json(report);
    json["bench"] = "serve";
    json["settings"] = settings(f, plan);
    std::ofstream out(f.json);
    out << json.dump(2, ' ', false, Json::error_handler_t::replace) << "\n";
    out.flush();
    if (!out) return fail(ErrorCode::kUnavailable, "cannot write {}", f.json);
  }
  if (report.stopped) return fail(ErrorCode::kCancelled, "stopped");
  if (report.completed == 0) return fail(ErrorCode::kUnavailable, "every request failed");
  return {};
}

constexpr const char* kExamples = R"(
Examples:
  trireme bench serve --concurrency 16 --num-prompts 200 --input-len 256 --output-len 64 --ignore-eos
  trireme bench serve --request-rate 8 --dataset sharegpt --dataset-path ShareGPT.json --endpoint chat
  trireme bench serve --shared-prefix-len 2000 --input-len 50      (what the prefix cache saves)
  trireme bench serve --url http://other:30000 --goodput ttft:200 tpot:50 --json result.json
)";

}  // namespace

void add_bench_serve(CLI::App& app, Action& action) {
  auto f = std::make_shared<ServeBenchFlags>();
  auto& p = f->prompts;
  app.footer(kExamples);
  app.add_option("--url,--base-url", f->url, "The server")->capture_default_str();
  app.add_option("--model", f->model, "Model to ask for; default: the first that the server names");
  app.add_option("--api-key", f->api_key, "Bearer key; also from TRIREME_API_KEY");
  app.add_option("--endpoint", f->endpoint, "completions or chat")->capture_default_str();
  app.add_option("--num-prompts", f->num_prompts, "Requests to send")->capture_default_str();
  app.add_option("--concurrency,--max-concurrency", f->concurrency,
                 "Most requests at once; default: 32, or no limit with --request-rate");
  app.add_option("--request-rate", f->request_rate,
                 "Open loop: requests a second, at random times; default: the next request when one ends");
  app.add_option("--burstiness", f->burstiness,
                 "Open loop: 1 is a Poisson process, less comes in bursts, more is even")
      ->capture_default_str();
  app.add_option("--dataset,--dataset-name", f->dataset,
                 "random; sharegpt (a ShareGPT JSON file); prompts (JSON lines with prompt or messages)")
      ->capture_default_str();
  app.add_option("--dataset-path", f->prompts.path, "The file of --dataset sharegpt or prompts");
  app.add_option("--input-len,--random-input-len", p.input_len, "random: tokens of a prompt")
      ->capture_default_str();
  app.add_option("--output-len,--random-output-len", f->output_len,
                 "Most tokens of an answer; default: 128 for random, else what the data says");
  app.add_option("--range-ratio,--random-range-ratio", p.range_ratio,
                 "random: lengths vary by this share to either side")
      ->capture_default_str();
  app.add_option("--shared-prefix-len,--random-prefix-len", p.shared_prefix_len,
                 "random: more tokens at the start, the same in every prompt")
      ->capture_default_str();
  app.add_option("--vocab-size", p.vocab_size,
                 "random completions: token ids come from the middle of so many")
      ->capture_default_str();
  app.add_flag("--ignore-eos", f->ignore_eos, "Answers go on to their full length");
  app.add_option("--temperature", f->temperature, "0 is greedy")->capture_default_str();
  app.add_option("--warmup,--num-warmups", f->warmup, "Requests before the clock starts")
      ->capture_default_str();
  app.add_option("--timeout", f->timeout, "Seconds that a request may take")->capture_default_str();
  app.add_option("--seed", p.seed, "Of prompts, lengths and times")->capture_default_str();
  app.add_option("--goodput", f->goodput,
                 "Also count requests within limits: ttft:200 tpot:50 itl:50 e2el:5000");
  app.add_option("--json,--output-file", f->json, "Also write the result here");
  app.callback([f, &action] { action = [f] { return run_bench_serve(*f); }; });
}

}  // namespace trireme::cli
