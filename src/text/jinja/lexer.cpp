#include "text/jinja/lexer.h"

#include <algorithm>
#include <array>

#include "text/jinja/value.h"
#include "text/unicode.h"

namespace trireme::text::jinja {
namespace {

constexpr std::size_t kMaxTokens = 200'000;
constexpr std::array<std::string_view, 24> kOperators = {"**", "//", "==", "!=", ">=", "<=", "+", "-",
                                                         "*",  "/",  "%",  "~",  "(",  ")",  "[", "]",
                                                         "{",  "}",  ">",  "<",  "=",  ".",  ":", "|"};

bool is_blank_char(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_name_start(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }

int hex_value(std::string_view digits) {
  int value = 0;
  for (const char c : digits) {
    const int d = is_digit(c)            ? c - '0'
                  : c >= 'a' && c <= 'f' ? c - 'a' + 10
                  : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                         : -1;
    if (d < 0) return -1;
    value = value * 16 + d;
  }
  return value;
}

class Lexer {
 public:
  explicit Lexer(std::string source) : source_(std::move(source)) {}

  std::vector<Token> run() {
    while (at_ < source_.size()) text_until_tag();
    push(TokenType::kEnd, "");
    return std::move(tokens_);
  }

 private:
  bool starts(std::string_view s) const { return std::string_view(source_).substr(at_).starts_with(s); }
  void push(TokenType type, std::string text) {
    if (tokens_.size() >= kMaxTokens) raise("the template has more than {} tokens", kMaxTokens);
    tokens_.push_back({type, std::move(text), line_});
  }
  void advance(std::size_t to) {
    line_ += static_cast<int>(std::count(source_.begin() + static_cast<std::ptrdiff_t>(at_),
                                         source_.begin() + static_cast<std::ptrdiff_t>(to), '\n'));
    at_ = to;
  }
  void skip_blank() {
    std::size_t to = at_;
    while (to < source_.size() && is_blank_char(source_[to])) ++to;
    line_start_ = to > at_ && source_[to - 1] == '\n';
    advance(to);
  }

  void text_until_tag() {
    std::size_t tag = at_;
    while (true) {
      tag = source_.find('{', tag);
      if (tag == std::string::npos || tag + 1 >= source_.size()) {
        emit_text(source_.size());
        return advance(source_.size());
      }
      const char kind = source_[tag + 1];
      if (kind == '%' || kind == '{' || kind == '#') break;
      ++tag;
    }
    const char kind = source_[tag + 1];
    const char sign = tag + 2 < source_.size() ? source_[tag + 2] : ' ';
    std::size_t end = tag;
    if (sign == '-') {
      while (end > at_ && is_blank_char(source_[end - 1])) --end;
    } else if (sign != '+' && kind != '{') {
      std::size_t line = tag;
      while (line > at_ && source_[line - 1] != '\n' && is_blank_char(source_[line - 1])) --line;
      const bool whole_line = line > at_ ? source_[line - 1] == '\n' : line_start_;
      if (whole_line) end = line;
    }
    emit_text(end);
    advance(tag + 2 + (sign == '-' || sign == '+'));
    line_start_ = false;
    if (kind == '#') return comment();
    push(kind == '%' ? TokenType::kBlockBegin : TokenType::kOutputBegin, "");
    if (kind == '%' && raw()) return;
    tag_tokens(kind == '%');
  }

  void emit_text(std::size_t end) {
    if (end > at_) push(TokenType::kText, source_.substr(at_, end - at_));
  }

  // Behind "%}" or "#}" one newline goes; "-" takes all white space; "+" nothing.
  void after_block(char sign) {
    line_start_ = false;
    if (sign == '-') return skip_blank();
    if (sign != '+' && starts("\n")) {
      advance(at_ + 1);
      line_start_ = true;
    }
  }

  void comment() {
    const std::size_t close = source_.find("#}", at_);
    if (close == std::string::npos) raise("line {}: a comment is not closed", line_);
    const char sign = close > at_ ? source_[close - 1] : ' ';
    advance(close + 2);
    after_block(sign);
  }

  // {% raw %} ... {% endraw %}
  bool raw() {
    std::size_t to = at_;
    const auto blank = [&] {
      while (to < source_.size() && is_blank_char(source_[to])) ++to;
    };
    const auto word = [&](std::string_view w) {
      if (source_.compare(to, w.size(), w) != 0) return false;
      to += w.size();
      return true;
    };
    blank();
    if (!word("raw")) return false;
    blank();
    char sign = ' ';
    if (to < source_.size() && (source_[to] == '-' || source_[to] == '+')) sign = source_[to++];
    if (!word("%}")) return false;
    advance(to);
    if (sign == '-') skip_blank();
    tokens_.pop_back();
    for (std::size_t tag = source_.find("{%", at_); tag != std::string::npos;
         tag = source_.find("{%", tag + 2)) {
      to = tag + 2;
      const char before = to < source_.size() ? source_[to] : ' ';
      if (before == '-' || before == '+') ++to;
      blank();
      if (!word("endraw")) continue;
      blank();
      char after = ' ';
      if (to < source_.size() && (source_[to] == '-' || source_[to] == '+')) after = source_[to++];
      if (!word("%}")) continue;
      std::size_t end = tag;
      if (before == '-') {
        while (end > at_ && is_blank_char(source_[end - 1])) --end;
      } else if (before != '+') {
        std::size_t line = tag;
        while (line > at_ && source_[line - 1] != '\n' && is_blank_char(source_[line - 1])) --line;
        if (line > at_ && source_[line - 1] == '\n') end = line;
      }
      emit_text(end);
      advance(to);
      after_block(after);
      return true;
    }
    raise("line {}: a raw block is not closed", line_);
  }

  void tag_tokens(bool block) {
    const std::string_view close = block ? "%}" : "}}";
    int brackets = 0;
    while (true) {
      skip_blank();
      if (at_ >= source_.size()) raise("line {}: a tag is not closed", line_);
      const bool signed_close = (source_[at_] == '-' || (block && source_[at_] == '+')) &&
                                std::string_view(source_).substr(at_ + 1).starts_with(close);
      // "}}" inside of brackets closes two dicts.
      if ((brackets == 0 || block) && (signed_close || starts(close))) {
        const char sign = signed_close ? source_[at_] : ' ';
        push(block ? TokenType::kBlockEnd : TokenType::kOutputEnd, "");
        advance(at_ + 2 + signed_close);
        line_start_ = false;
        if (block) {
          after_block(sign);
        } else if (sign == '-') {
          skip_blank();
        }
        return;
      }
      one_token(brackets);
    }
  }

  void one_token(int& brackets) {
    const char c = source_[at_];
    if (c == '\'' || c == '"') return string_token(c);
    std::size_t to = at_;
    if (is_name_start(c)) {
      while (to < source_.size() && (is_name_start(source_[to]) || is_digit(source_[to]))) ++to;
      push(TokenType::kName, source_.substr(at_, to - at_));
      return advance(to);
    }
    if (is_digit(c)) return number_token();
    if (c == ',') {
      push(TokenType::kOperator, ",");
      return advance(at_ + 1);
    }
    for (const std::string_view op : kOperators) {
      if (!starts(op)) continue;
      brackets += op == "(" || op == "[" || op == "{";
      brackets -= op == ")" || op == "]" || op == "}";
      if (brackets < 0) raise("line {}: unexpected '{}'", line_, op);
      push(TokenType::kOperator, std::string(op));
      return advance(at_ + op.size());
    }
    raise("line {}: unexpected character '{}'", line_, c);
  }

  void number_token() {
    std::size_t to = at_;
    std::string digits;
    bool real = false;
    const auto run = [&] {
      while (to < source_.size() && (is_digit(source_[to]) || source_[to] == '_')) {
        if (source_[to] != '_') digits += source_[to];
        ++to;
      }
    };
    run();
    if (to + 1 < source_.size() && source_[to] == '.' && is_digit(source_[to + 1])) {
      real = true;
      digits += '.';
      ++to;
      run();
    }
    if (to < source_.size() && (source_[to] == 'e' || source_[to] == 'E')) {
      std::size_t exponent = to + 1;
      if (exponent < source_.size() && (source_[exponent] == '+' || source_[exponent] == '-')) ++exponent;
      if (exponent < source_.size() && is_digit(source_[exponent])) {
        real = true;
        digits += source_.substr(to, exponent - to);
        to = exponent;
        run();
      }
    }
    push(real ? TokenType::kFloat : TokenType::kInteger, digits);
    advance(to);
  }

  void string_token(char quote) {
    std::string out;
    std::size_t to = at_ + 1;
    const auto unicode = [&](std::size_t digits) {
      const int value =
          to + digits < source_.size() ? hex_value(std::string_view(source_).substr(to + 1, digits)) : -1;
      if (value < 0 || value > static_cast<int>(kMaxCodePoint) || (value >= 0xD800 && value < 0xE000)) {
        raise("line {}: a bad escape in a string", line_);
      }
      append_utf8(out, static_cast<u32>(value));
      to += digits;
    };
    for (; to < source_.size() && source_[to] != quote; ++to) {
      if (source_[to] != '\\' || to + 1 >= source_.size()) {
        out += source_[to];
        continue;
      }
      switch (const char c = source_[++to]) {
        case 'n':
          out += '\n';
          break;
        case 't':
          out += '\t';
          break;
        case 'r':
          out += '\r';
          break;
        case 'b':
          out += '\b';
          break;
        case 'f':
          out += '\f';
          break;
        case 'v':
          out += '\v';
          break;
        case 'a':
          out += '\a';
          break;
        case '0':
          out += '\0';
          break;
        case '\n':
          break;
        case '\\':
        case '\'':
        case '"':
          out += c;
          break;
        case 'x':
          unicode(2);
          break;
        case 'u':
          unicode(4);
          break;
        case 'U':
          unicode(8);
          break;
        default:
          out += '\\';
          out += c;
      }
    }
    if (to >= source_.size()) raise("line {}: a string is not closed", line_);
    push(TokenType::kString, std::move(out));
    advance(to + 1);
  }

  std::string source_;
  std::size_t at_ = 0;
  int line_ = 1;
  bool line_start_ = true;  // whether at_ is at the start of a line, as far as lstrip_blocks sees
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> lex(std::string_view source) {
  std::string clean;
  clean.reserve(source.size());
  for (std::size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      clean += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      clean += source[i];
    }
  }
  if (clean.ends_with('\n')) clean.pop_back();
  return Lexer(std::move(clean)).run();
}

}  // namespace trireme::text::jinja
