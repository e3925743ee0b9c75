#include "cli/chat_input.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "base/check.h"

namespace trireme::cli {
namespace {

constexpr std::string_view kBlock = "\"\"\"";
constexpr std::size_t kMaxLineBytes = 64u << 20;

std::atomic<bool> interrupted{false};
int wake_pipe[2] = {-1, -1};
struct sigaction action_before {};

void on_interrupt(int) {
  const int saved = errno;
  interrupted = true;
  const char byte = 0;
  // A full pipe wakes as well.
  [[maybe_unused]] const auto written = write(wake_pipe[1], &byte, 1);
  errno = saved;
}

}  // namespace

std::optional<std::string> PromptLines::add(std::string_view line) {
  if (!open_ && line.starts_with(kBlock)) {
    block_ = open_ = true;
    line.remove_prefix(kBlock.size());
    if (line.empty()) return std::nullopt;
  }
  if (block_) {
    const bool last = line.ends_with(kBlock);
    if (last) line.remove_suffix(kBlock.size());
    text_ += line;
    if (!last) {
      text_ += '\n';
      return std::nullopt;
    }
    if (text_.ends_with('\n')) text_.pop_back();
    return take_rest();
  }
  open_ = line.ends_with('\\');
  if (open_) line.remove_suffix(1);
  text_ += line;
  if (!open_) return take_rest();
  text_ += '\n';
  return std::nullopt;
}

std::string PromptLines::take_rest() {
  open_ = block_ = false;
  return std::exchange(text_, {});
}

Interrupts::Interrupts() {
  CHECK(wake_pipe[0] < 0, "one at a time");
  CHECK(pipe2(wake_pipe, O_CLOEXEC | O_NONBLOCK) == 0);
  interrupted = false;
  struct sigaction action {};
  action.sa_handler = on_interrupt;
  sigaction(SIGINT, &action, &action_before);
}

Interrupts::~Interrupts() {
  sigaction(SIGINT, &action_before, nullptr);
  for (int& fd : wake_pipe) close(std::exchange(fd, -1));
}

const std::atomic<bool>& Interrupts::flag() const { return interrupted; }
int Interrupts::wake_fd() const { return wake_pipe[0]; }

void Interrupts::clear() {
  char bytes[64];
  while (read(wake_pipe[0], bytes, sizeof bytes) > 0) {
  }
  interrupted = false;
}

PromptReader::PromptReader(int fd, int wake_fd, std::function<void(bool)> ask)
    : fd_(fd), wake_fd_(wake_fd), ask_(std::move(ask)) {}

PromptReader::Wait PromptReader::fill() {
  while (true) {
    pollfd fds[2] = {{fd_, POLLIN, 0}, {wake_fd_, POLLIN, 0}};
    if (poll(fds, 2, -1) < 0) {
      if (errno == EINTR) continue;
      return Wait::kEnd;
    }
    if (fds[1].revents != 0) return Wait::kInterrupted;
    char bytes[4096];
    const auto n = read(fd_, bytes, sizeof bytes);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (n <= 0 || buffer_.size() > kMaxLineBytes) return Wait::kEnd;
    buffer_.append(bytes, static_cast<std::size_t>(n));
    return Wait::kData;
  }
}

std::optional<std::string> PromptReader::take_line() {
  const auto end = buffer_.find('\n', scanned_);
  if (end == std::string::npos) {
    scanned_ = buffer_.size();
    if (!ended_ || buffer_.empty()) return std::nullopt;
    return std::exchange(buffer_, {});
  }
  std::string line = buffer_.substr(0, end);
  buffer_.erase(0, end + 1);
  scanned_ = 0;
  if (line.ends_with('\r')) line.pop_back();
  return line;
}

PromptReader::Read PromptReader::next() {
  while (true) {
    if (ask_) ask_(lines_.open());
    auto line = take_line();
    while (!line && !ended_) {
      const Wait wait = fill();
      if (wait == Wait::kInterrupted) {
        const bool dropped = lines_.open();
        lines_.take_rest();
        buffer_.clear();
        scanned_ = 0;
        return {.kind = Kind::kInterrupted, .dropped = dropped};
      }
      ended_ = wait == Wait::kEnd;
      line = take_line();
    }
    if (!line) {
      auto rest = lines_.take_rest();
      if (rest.empty()) return {.kind = Kind::kEnd};
      return {.kind = Kind::kPrompt, .text = std::move(rest)};
    }
    auto prompt = lines_.add(*line);
    if (prompt && prompt->find_first_not_of(" \t\n") != std::string::npos) {
      return {.kind = Kind::kPrompt, .text = std::move(*prompt)};
    }
  }
}

std::string safe_text(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    // U+0080 to U+009F, which some terminals obey as they do ESC.
    const bool c1 = c == 0xc2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xa0;
    if (c == '\r') continue;
    if (c1) {
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(text[++i]));
    } else if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7f) {
      out += fmt::format("\\x{:02x}", c);
    } else {
      out += text[i];
    }
  }
  return out;
}

}  // namespace trireme::cli
