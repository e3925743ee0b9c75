#include "text/bpe.h"

#include <algorithm>
#include <queue>

#include "text/unicode.h"

namespace trireme::text {
namespace {

// Up to here a linear scan for the best pair is faster than a heap.
constexpr std::size_t kShortWord = 40;

}  // namespace

Bpe::Bpe(BpeSpec spec) : spec_(std::move(spec)), merges_(spec_.merges.size()) {
  if (spec_.whole_word_first || spec_.alphabet == BpeAlphabet::kCharacters) {
    id_of_bytes_.reserve(spec_.token_bytes.size());
    for (std::size_t id = 0; id < spec_.token_bytes.size(); ++id) {
      if (!spec_.token_bytes[id].empty()) {
        id_of_bytes_.emplace(spec_.token_bytes[id], static_cast<TokenId>(id));
      }
    }
  }
  for (std::size_t rank = 0; rank < spec_.merges.size(); ++rank) {
    const auto& m = spec_.merges[rank];
    merges_.insert(u64{static_cast<u32>(m.left)} << 32 | static_cast<u32>(m.right),
                   u64{rank} << 32 | static_cast<u32>(m.result));
  }
  spec_.merges.clear();
  spec_.merges.shrink_to_fit();
}

Status Bpe::symbols(std::string_view word, std::vector<TokenId>& ids) const {
  if (spec_.alphabet == BpeAlphabet::kBytes) {
    for (const char c : word) {
      const TokenId id = spec_.byte_tokens[static_cast<u8>(c)];
      if (id >= 0) {
        ids.push_back(id);
      } else if (spec_.unknown >= 0) {
        ids.push_back(spec_.unknown);
      } else {
        return invalid("the tokenizer has no token for byte 0x{:02X}", static_cast<u8>(c));
      }
    }
    return {};
  }
  for (std::size_t pos = 0; pos < word.size();) {
    const std::string_view character = word.substr(pos, decode_at(word, pos).bytes);
    pos += character.size();
    if (const auto found = id_of_bytes_.find(character); found != id_of_bytes_.end()) {
      ids.push_back(found->second);
      continue;
    }
    const bool bytes = std::all_of(character.begin(), character.end(),
                                   [this](char c) { return spec_.byte_tokens[static_cast<u8>(c)] >= 0; });
    if (bytes) {
      for (const char c : character) ids.push_back(spec_.byte_tokens[static_cast<u8>(c)]);
    } else if (spec_.unknown < 0) {
      return invalid("the tokenizer has no token for the character '{}'", character);
    } else if (!spec_.fuse_unknown || ids.empty() || ids.back() != spec_.unknown) {
      ids.push_back(spec_.unknown);
    }
  }
  return {};
}

Status Bpe::encode(std::string_view word, std::vector<TokenId>& out) const {
  if (spec_.whole_word_first) {
    if (const auto found = id_of_bytes_.find(word); found != id_of_bytes_.end()) {
      out.push_back(found->second);
      return {};
    }
  }
  std::vector<TokenId> ids;
  ids.reserve(word.size());
  TRY(symbols(word, ids));
  if (ids.size() <= kShortWord) {
    merge_short(ids);
  } else {
    merge_long(ids);
  }
  out.insert(out.end(), ids.begin(), ids.end());
  return {};
}

void Bpe::merge_short(std::vector<TokenId>& ids) const {
  std::array<u64, kShortWord> ranks;  // of the pair (i, i + 1)
  std::size_t n = ids.size();
  for (std::size_t i = 0; i + 1 < n; ++i) ranks[i] = pair(ids[i], ids[i + 1]);
  while (n > 1) {
    const auto best = std::min_element(ranks.begin(), ranks.begin() + static_cast<std::ptrdiff_t>(n - 1));
    if (*best == FlatMap::kNone) break;
    const std::size_t at = static_cast<std::size_t>(best - ranks.begin());
    ids[at] = static_cast<TokenId>(*best & 0xFFFFFFFF);
    std::copy(ids.begin() + static_cast<std::ptrdiff_t>(at + 2), ids.begin() + static_cast<std::ptrdiff_t>(n),
              ids.begin() + static_cast<std::ptrdiff_t>(at + 1));
    std::copy(best + 1, ranks.begin() + static_cast<std::ptrdiff_t>(n - 1), best);
    --n;
    if (at > 0) ranks[at - 1] = pair(ids[at - 1], ids[at]);
    if (at + 1 < n) ranks[at] = pair(ids[at], ids[at + 1]);
  }
  ids.resize(n);
}

void Bpe::merge_long(std::vector<TokenId>& ids) const {
  struct Candidate {
    u32 rank, at;
    bool operator>(const Candidate& o) const { return rank != o.rank ? rank > o.rank : at > o.at; }
  };
  const u32 n = static_cast<u32>(ids.size());
  std::vector<u32> next(n), previous(n);  // n: none. A symbol that was merged away has the id -1.
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  const auto offer = [&](u32 left) {
    if (left >= n || next[left] >= n) return;
    const u64 found = pair(ids[left], ids[next[left]]);
    if (found != FlatMap::kNone) queue.push({static_cast<u32>(found >> 32), left});
  };
  for (u32 i = 0; i < n; ++i) {
    next[i] = i + 1;
    previous[i] = i == 0 ? n : i - 1;
  }
  for (u32 i = 0; i + 1 < n; ++i) offer(i);
  while (!queue.empty()) {
    const Candidate c = queue.top();
    queue.pop();
    if (ids[c.at] < 0 || next[c.at] >= n) continue;
    const u64 found = pair(ids[c.at], ids[next[c.at]]);
    if (found == FlatMap::kNone || found >> 32 != c.rank) continue;  // the pair here changed meanwhile
    const u32 gone = next[c.at];
    ids[c.at] = static_cast<TokenId>(found & 0xFFFFFFFF);
    ids[gone] = -1;
    next[c.at] = next[gone];
    if (next[gone] < n) previous[next[gone]] = c.at;
    offer(previous[c.at]);
    offer(c.at);
  }
  std::erase(ids, -1);
}

}  // namespace trireme::text
