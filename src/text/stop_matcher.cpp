#include "text/stop_matcher.h"

#include <algorithm>
#include <utility>

#include "text/unicode.h"

namespace trireme::text {

Status StopOptions::validate() const {
  if (strings.size() > kMaxStrings)
    return invalid("{} stop strings; at most {} are allowed", strings.size(), kMaxStrings);
  for (const auto& s : strings) {
    if (s.empty()) return invalid("a stop string must not be empty");
    if (s.size() > kMaxBytes)
      return invalid("a stop string of {} bytes; at most {} are allowed", s.size(), kMaxBytes);
    if (!valid_utf8(s)) return invalid("a stop string is not valid UTF-8");
  }
  return {};
}

StopMatcher::StopMatcher(StopOptions options)
    : options_(std::move(options)), matched_(options_.strings.size()) {
  for (const auto& s : options_.strings) {
    std::vector<std::size_t> border(s.size() + 1, 0);
    for (std::size_t i = 1, k = 0; i < s.size(); ++i) {
      while (k > 0 && s[i] != s[k]) k = border[k];
      if (s[i] == s[k]) ++k;
      border[i + 1] = k;
    }
    borders_.push_back(std::move(border));
  }
}

std::string StopMatcher::push(std::string_view text) {
  if (stopped_by_) return {};
  if (options_.strings.empty()) return std::string(text);
  for (std::size_t at = 0; at < text.size(); ++at) {
    std::size_t longest = 0;  // of the strings that end here, the longest starts first
    for (std::size_t i = 0; i < options_.strings.size(); ++i) {
      const std::string& s = options_.strings[i];
      std::size_t& k = matched_[i];
      while (k > 0 && s[k] != text[at]) k = borders_[i][k];
      if (s[k] == text[at]) ++k;
      if (k == s.size()) {
        if (k > longest) {
          longest = k;
          stopped_by_ = s;
        }
        k = borders_[i][k];
      }
    }
    if (longest == 0) continue;
    held_.append(text.substr(0, at + 1));
    if (!options_.include_in_output) held_.resize(held_.size() - longest);
    return std::exchange(held_, {});
  }
  held_.append(text);
  const std::size_t keep = *std::max_element(matched_.begin(), matched_.end());
  std::string out = held_.substr(0, held_.size() - keep);
  held_.erase(0, out.size());
  return out;
}

std::string StopMatcher::flush() { return std::exchange(held_, {}); }

}  // namespace trireme::text
