#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/regex.h"

#include <pcre2.h>

#include <algorithm>

namespace trireme::text {
namespace {

constexpr std::size_t kMaxPattern = 64 << 10;
constexpr u32 kMatchLimit = 20'000'000;  // per match; a pattern that needs more is taken for an attack
constexpr u32 kHeapKibibytes = 64 << 10;
constexpr std::size_t kJitStackMax = 8 << 20;

constexpr std::string_view kSpaceSet =
    R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";

std::string spell_out_spaces(std::string_view pattern) {
  std::string out;
  bool in_set = false;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\' && i + 1 < pattern.size()) {
      const char next = pattern[++i];
      if (next == 's') {
        out.append(in_set ? std::string(kSpaceSet) : "[" + std::string(kSpaceSet) + "]");
      } else if (next == 'S' && !in_set) {
        out.append("[^" + std::string(kSpaceSet) + "]");
      } else {
        out.push_back(c);
        out.push_back(next);
      }
      continue;
    }
    if (c == '[' && !in_set) {
      in_set = true;
      out.push_back(c);
      if (i + 1 < pattern.size() && pattern[i + 1] == '^') out.push_back(pattern[++i]);
      if (i + 1 < pattern.size() && pattern[i + 1] == ']') out.push_back(pattern[++i]);
      continue;
    }
    if (c == ']') in_set = false;
    out.push_back(c);
  }
  return out;
}

std::string message_of(int error) {
  PCRE2_UCHAR text[160] = {};
  pcre2_get_error_message(error, text, sizeof(text));
  return reinterpret_cast<const char*>(text);
}

}  // namespace

struct Regex::Code {
  pcre2_code* code = nullptr;
  bool jit = false;
  Code() = default;
  Code(const Code&) = delete;
  Code& operator=(const Code&) = delete;
  ~Code() { pcre2_code_free(code); }
};

Result<Regex> Regex::compile(std::string_view pattern) {
  return compile_pcre(spell_out_spaces(pattern), PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C);
}

Result<Regex> Regex::literal(std::string_view text) {
  return compile_pcre(std::string(text), PCRE2_UTF | PCRE2_LITERAL);
}

Result<Regex> Regex::compile_pcre(const std::string& pattern, u32 options) {
  if (pattern.empty() || pattern.size() > kMaxPattern) {
    return invalid("a split pattern of {} bytes; 1 to {} are allowed", pattern.size(), kMaxPattern);
  }
  int error = 0;
  std::size_t at = 0;
  auto code = std::make_shared<Code>();
  code->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), options, &error,
                             &at, nullptr);
  if (code->code == nullptr) {
    return invalid("the split pattern does not compile at byte {}: {}", at, message_of(error));
  }
  code->jit = pcre2_jit_compile(code->code, PCRE2_JIT_COMPLETE) == 0;
  return Regex(std::move(code));
}

Status Regex::for_each(std::string_view text,
                       const std::function<void(std::size_t, std::size_t)>& visit) const {
  const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> data(
      pcre2_match_data_create_from_pattern(code_->code, nullptr), pcre2_match_data_free);
  const std::unique_ptr<pcre2_match_context, decltype(&pcre2_match_context_free)> context(
      pcre2_match_context_create(nullptr), pcre2_match_context_free);
  const std::unique_ptr<pcre2_jit_stack, decltype(&pcre2_jit_stack_free)> stack(
      code_->jit ? pcre2_jit_stack_create(32 << 10, kJitStackMax, nullptr) : nullptr, pcre2_jit_stack_free);
  if (!data || !context || (code_->jit && !stack)) {
    return fail(ErrorCode::kResourceExhausted, "no memory to match a split pattern");
  }
  pcre2_set_match_limit(context.get(), kMatchLimit);
  pcre2_set_depth_limit(context.get(), kMatchLimit);
  pcre2_set_heap_limit(context.get(), kHeapKibibytes);
  if (stack) pcre2_jit_stack_assign(context.get(), nullptr, stack.get());
  const auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  for (std::size_t pos = 0; pos < text.size();) {
    const int found =
        pcre2_match(code_->code, subject, text.size(), pos, PCRE2_NO_UTF_CHECK, data.get(), context.get());
    if (found == PCRE2_ERROR_NOMATCH) break;
    if (found < 0) {
      return invalid("the tokenizer's split pattern gave up on this text: {}", message_of(found));
    }
    const std::size_t* ends = pcre2_get_ovector_pointer(data.get());
    if (ends[1] > ends[0] && ends[0] >= pos) {
      visit(ends[0], ends[1]);
      pos = ends[1];
    } else {
      pos = std::max(pos, ends[1]) + 1;
      while (pos < text.size() && (text[pos] & 0xC0) == 0x80) ++pos;
    }
  }
  return {};
}

}  // namespace trireme::text
