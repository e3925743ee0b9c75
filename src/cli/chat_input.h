// What a person types: prompts of one line or several, and Ctrl-C.
#pragma once
#include <atomic>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace trireme::cli {

// Joins lines to prompts: a line that ends in a backslash goes on in the next, and """ opens a block that the
// next """ at the end of a line closes.
class PromptLines {
 public:
  std::optional<std::string> add(std::string_view line);  // the prompt, once it is complete
  bool open() const { return open_; }
  std::string take_rest();  // what an unfinished prompt has so far

 private:
  std::string text_;
  bool open_ = false, block_ = false;
};

// While it lives, SIGINT sets a flag and wakes who waits, instead of ending the program. One at a time.
class Interrupts {
 public:
  Interrupts();
  ~Interrupts();
  Interrupts(const Interrupts&) = delete;
  Interrupts& operator=(const Interrupts&) = delete;

  const std::atomic<bool>& flag() const;
  int wake_fd() const;  // readable while the flag is set
  void clear();
};

// Prompts from a descriptor. Not thread-safe.
class PromptReader {
 public:
  enum class Kind { kPrompt, kEnd, kInterrupted };
  struct Read {
    Kind kind = Kind::kEnd;
    std::string text = {};
    bool dropped = false;  // interrupted in the middle of a prompt of several lines
  };
  // `ask` is called before each line is read, with true for the second and later lines of a prompt.
  PromptReader(int fd, int wake_fd, std::function<void(bool)> ask);
  // Blocks until there is a prompt that is not empty. Half a prompt at the end of the input is a prompt.
  Read next();

 private:
  enum class Wait { kData, kEnd, kInterrupted };
  Wait fill();
  std::optional<std::string> take_line();

  int fd_, wake_fd_;
  std::function<void(bool)> ask_;
  PromptLines lines_;
  std::string buffer_;
  std::size_t scanned_ = 0;
  bool ended_ = false;
};

// Text of a model, safe for a terminal: control characters but newline and tab are shown as \xNN; a carriage
// return is dropped. `text` is UTF-8.
std::string safe_text(std::string_view text);

}  // namespace trireme::cli
