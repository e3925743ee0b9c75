#include "text/bpe_text_model.h"

#include <algorithm>

namespace trireme::text {
namespace {

constexpr std::size_t kBatch = 128;  // words: their cache slots are fetched together

}  // namespace

Status BpeTextModel::encode(std::string_view chunk, bool first, std::vector<TokenId>& out) const {
  std::string normal;
  if (!normalizer_.identity()) {
    ASSIGN(normal, normalizer_.apply(chunk));
    chunk = normal;
  }
  if (const auto kind = pre_tokenizer_.scanner()) return encode_scanned(chunk, *kind, out);
  Pieces pieces;
  TRY(pre_tokenizer_.split(chunk, first, pieces));
  const auto cache = caches_.borrow();
  for (const std::string_view word : pieces.words) TRY(encode_word(word, *cache, out));
  return {};
}

Status BpeTextModel::encode_word(std::string_view word, WordCache& cache, std::vector<TokenId>& out) const {
  const std::size_t before = out.size();
  if (word.size() > WordCache::kLongWord) return bpe_.encode(word, out);
  if (word.size() > WordCache::kShortWord) {
    const auto known = cache.find_long(word);
    if (!known.empty()) {
      out.insert(out.end(), known.begin(), known.end());
      return {};
    }
    TRY(bpe_.encode(word, out));
    cache.keep_long(word, std::span(out).subspan(before));
    return {};
  }
  const WordCache::Key key = WordCache::key_of(word.data(), word.size(), 0);
  const WordCache::Slot& slot = cache.slot(key);
  if (WordCache::equal(slot.key, key)) {
    if (slot.ids[0] == WordCache::kSpilled) {
      const auto ids = cache.spilled(slot);
      out.insert(out.end(), ids.begin(), ids.end());
    } else {
      for (const TokenId id : slot.ids) {
        if (id >= 0) out.push_back(id);
      }
    }
    return {};
  }
  TRY(bpe_.encode(word, out));
  cache.keep(key, std::span(out).subspan(before));
  return {};
}

Status BpeTextModel::encode_scanned(std::string_view text, ScannerKind kind,
                                    std::vector<TokenId>& out) const {
  const auto lease = caches_.borrow();
  WordCache& cache = *lease;
  std::size_t ends[kBatch], pos = 0, begin = 0;
  WordCache::Key keys[kBatch];
  std::size_t used = out.size();
  while (const std::size_t n = scan(kind, text, pos, ends)) {
    std::size_t from = begin;
    for (std::size_t i = 0; i < n; ++i) {
      const std::size_t size = ends[i] - from;
      if (size <= WordCache::kShortWord) {
        keys[i] = WordCache::key_of(text.data() + from, size, text.size() - from);
        __builtin_prefetch(&cache.slot(keys[i]));
      }
      from = ends[i];
    }
    // Room for the usual word, written without asking; an unusual one goes through the vector.
    out.resize(used + n * WordCache::kInlineIds);
    for (std::size_t i = 0; i < n; ++i) {
      const std::string_view word = text.substr(begin, ends[i] - begin);
      begin = ends[i];
      if (word.size() <= WordCache::kShortWord) [[likely]] {
        const WordCache::Slot& slot = cache.slot(keys[i]);
        if (WordCache::equal(slot.key, keys[i]) && slot.ids[0] >= 0) [[likely]] {
          std::memcpy(out.data() + used, slot.ids.data(), sizeof(slot.ids));
          used += 1 + static_cast<std::size_t>((slot.ids[1] >= 0) + (slot.ids[2] >= 0) + (slot.ids[3] >= 0));
          continue;
        }
      }
      out.resize(used);
      TRY(encode_word(word, cache, out));
      used = out.size();
      out.resize(used + (n - i) * WordCache::kInlineIds);
    }
  }
  out.resize(used);
  return {};
}

}  // namespace trireme::text
