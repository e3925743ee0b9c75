#include "cli/chat_session.h"

#include <fmt/format.h>

#include "base/log.h"

namespace trireme::cli {
namespace {

constexpr const char* kHelp = R"(/system TEXT         set the system message; without TEXT, remove it
/set NAME VALUE      temperature, top_p, top_k, max_tokens or seed; /set alone shows them
/clear               forget the conversation
/stats               tokens and speed so far
/quit                leave, as Ctrl-D does
A line that ends in \ goes on in the next; """ opens and closes a block of lines.
Ctrl-C stops an answer; at the prompt it leaves.
)";

std::string_view trimmed(std::string_view text) {
  const auto begin = text.find_first_not_of(" \t\n");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t\n") - begin + 1);
}

std::string figures(const ChatAnswer& a) {
  std::string out = fmt::format("[{} tokens", a.output_tokens);
  const double rest = a.seconds - a.ttft;
  if (a.output_tokens > 1 && rest > 0) {
    out += fmt::format(", {:.1f} tok/s", static_cast<double>(a.output_tokens - 1) / rest);
  }
  out += fmt::format(", first after {:.0f} ms, prompt {}", a.ttft * 1e3, a.prompt_tokens);
  if (a.cached_tokens > 0) out += fmt::format(" ({} cached)", a.cached_tokens);
  if (a.finish_reason == "length") out += ", cut at the limit of tokens";
  return out + "]\n";
}

}  // namespace

void ChatSession::dim(std::string_view text) {
  if (!options_.colour) return out_(text);
  out_("\x1b[2m");
  out_(text);
  out_("\x1b[0m");
}

Result<ChatSession::Next> ChatSession::take(const std::string& line) {
  if (line.starts_with('/')) return command(trimmed(line));
  return ask(line).map([] { return Next::kGoOn; });
}

Result<ChatSession::Next> ChatSession::command(std::string_view line) {
  const auto space = line.find_first_of(" \t\n");
  const auto name = line.substr(0, space);
  const auto rest = space == std::string_view::npos ? std::string_view() : trimmed(line.substr(space));
  if (name == "/quit" || name == "/exit") return Next::kQuit;
  if (name == "/help") {
    out_(kHelp);
  } else if (name == "/clear") {
    turns_ = OrderedJson::array();
  } else if (name == "/system") {
    options_.system = rest;
  } else if (name == "/stats") {
    out_(stats_text());
  } else if (name == "/set") {
    if (rest.empty()) {
      out_(sampling_text(options_.sampling));
      return Next::kGoOn;
    }
    const auto gap = rest.find_first_of(" \t=");
    if (gap == std::string_view::npos) return invalid("/set {}: give a value, or default", one_line(rest));
    TRY(set_sampling(options_.sampling, rest.substr(0, gap), trimmed(rest.substr(gap + 1))));
  } else {
    return invalid("{}: no such command; /help shows them", one_line(name));
  }
  return Next::kGoOn;
}

Status ChatSession::ask(const std::string& prompt) {
  OrderedJson messages = OrderedJson::array();
  if (!options_.system.empty()) messages.push_back({{"role", "system"}, {"content", options_.system}});
  for (const auto& turn : turns_) messages.push_back(turn);
  const OrderedJson question{{"role", "user"}, {"content", prompt}};
  messages.push_back(question);
  bool thinking = false;
  const auto on_text = [&](std::string_view piece, bool reasoning) {
    if (reasoning && !options_.interactive) return;
    if (thinking && !reasoning) out_("\n\n");
    thinking = reasoning;
    reasoning ? dim(safe_text(piece)) : out_(safe_text(piece));
  };
  const auto answer = model_.answer(messages, options_.sampling, on_text);
  if (!answer) {
    if (options_.interactive) out_("\n");
    return tl::unexpected(answer.error());
  }
  if (!answer->text.ends_with('\n')) out_("\n");
  if (answer->stopped && options_.interactive) dim("[stopped]\n");
  if (!answer->text.empty() || !answer->stopped) {
    turns_.push_back(question);
    turns_.push_back({{"role", "assistant"}, {"content", answer->text}});
  }
  ++totals_.answers;
  totals_.prompt_tokens += answer->prompt_tokens;
  totals_.cached_tokens += answer->cached_tokens;
  totals_.output_tokens += answer->output_tokens;
  totals_.seconds += answer->seconds;
  if (options_.interactive && !answer->stopped) dim(figures(*answer));
  if (answer->stopped && !options_.interactive) return fail(ErrorCode::kCancelled, "stopped");
  return {};
}

std::string ChatSession::stats_text() const {
  return fmt::format(
      "model          {}\nanswers        {}\nprompt tokens  {} ({} cached)\noutput tokens  {}\ntime          "
      " "
      "{:.1f} s\n",
      safe_text(model_.name()), totals_.answers, totals_.prompt_tokens, totals_.cached_tokens,
      totals_.output_tokens, totals_.seconds);
}

}  // namespace trireme::cli
