#include <algorithm>
#include <array>
#include <limits>
#include <queue>

#include "text/byte_level.h"
#include "text/sentencepiece.h"
#include "text/unicode.h"

namespace trireme::text {
namespace {

using Type = SentencePieceModel::Type;
constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // U+2581
constexpr double kUnknownPenalty = 10;                   // below the lowest score

class SentencePieceText final : public TextModel {
 public:
  explicit SentencePieceText(SentencePieceModel model) : model_(std::move(model)) {
    byte_ids_.fill(-1);
    for (std::size_t i = 0; i < model_.pieces.size(); ++i) {
      const auto& piece = model_.pieces[i];
      const u32 id = static_cast<u32>(i);
      if (piece.type == Type::kByte)
        byte_ids_[static_cast<std::size_t>(byte_fallback_value(piece.text))] = static_cast<TokenId>(i);
      if (piece.type == Type::kNormal || (piece.type == Type::kUnused && !model_.unigram))
        pieces_.insert(piece.text, id);
      if (piece.type == Type::kNormal) lowest_ = std::min(lowest_, static_cast<double>(piece.score));
    }
    if (lowest_ == std::numeric_limits<double>::max()) lowest_ = 0;
  }

  Status encode(std::string_view chunk, bool, std::vector<TokenId>& out) const override {
    const std::string text = spelled(chunk);
    if (text.empty()) return {};
    bool was_unknown = false;
    const auto emit = [&](TokenId id, std::string_view surface) {
      const bool unknown = id < 0;
      if (unknown && model_.byte_fallback) {
        for (const char c : surface) out.push_back(byte_ids_[static_cast<u8>(c)]);
      } else if (!unknown) {
        out.push_back(id);
      } else if (!was_unknown) {
        out.push_back(model_.unknown);
      }
      was_unknown = unknown;
    };
    if (model_.unigram) {
      unigram(text, emit);
    } else {
      bpe(text, emit);
    }
    return {};
  }

 private:
  // The text as pieces spell it: white space marked, with the dummy prefix.
  std::string spelled(std::string_view chunk) const {
    std::string clean(chunk);
    if (model_.remove_extra_spaces) {
      const auto twice = [](char a, char b) { return a == ' ' && b == ' '; };
      clean.erase(std::unique(clean.begin(), clean.end(), twice), clean.end());
      if (clean.starts_with(' ')) clean.erase(0, 1);
      if (clean.ends_with(' ')) clean.pop_back();
      if (clean.empty()) return clean;
    }
    if (model_.dummy_prefix) model_.space_as_suffix ? clean.push_back(' ') : void(clean.insert(0, " "));
    if (!model_.escape_spaces) return clean;
    std::string out;
    for (const char c : clean) {
      if (c == ' ') {
        out += kSpaceMark;
      } else {
        out.push_back(c);
      }
    }
    return out;
  }

  // The best-scored neighbours are joined, leftmost first. Calls emit(id or -1, surface) for every piece.
  template <class Emit>
  void bpe(std::string_view text, Emit&& emit) const {
    struct Symbol {
      u32 begin, end, previous, next;  // begin == end: joined into another
    };
    struct Join {
      float score;
      u32 left;
      u32 bytes;  // of the joined surface: tells whether the join is still possible
      bool operator<(const Join& o) const { return score != o.score ? score < o.score : left > o.left; }
    };
    std::vector<Symbol> symbols;
    for (std::size_t at = 0; at < text.size();) {
      const u32 i = static_cast<u32>(symbols.size());
      const std::size_t end = at + decode_at(text, at).bytes;
      symbols.push_back({static_cast<u32>(at), static_cast<u32>(end), i - 1, i + 1});
      at = end;
    }
    const u32 n = static_cast<u32>(symbols.size());
    std::priority_queue<Join> queue;
    const auto surface = [&](u32 begin, u32 end) { return text.substr(begin, end - begin); };
    const auto offer = [&](u32 left) {
      if (left >= n || symbols[left].next >= n) return;
      const u32 begin = symbols[left].begin, end = symbols[symbols[left].next].end;
      const TokenId id = piece_of(surface(begin, end));
      if (id >= 0) queue.push({model_.pieces[static_cast<std::size_t>(id)].score, left, end - begin});
    };
    for (u32 i = 0; i + 1 < n; ++i) offer(i);
    while (!queue.empty()) {
      const Join join = queue.top();
      queue.pop();
      Symbol& left = symbols[join.left];
      if (left.begin == left.end || left.next >= n) continue;
      Symbol& right = symbols[left.next];
      if (right.end - left.begin != join.bytes) continue;
      left.end = right.end;
      right.begin = right.end;
      left.next = right.next;
      if (left.next < n) symbols[left.next].previous = join.left;
      offer(left.previous);
      offer(join.left);
    }
    for (u32 i = 0; i < n; i = symbols[i].next) resegment(surface(symbols[i].begin, symbols[i].end), emit);
  }

  // A piece marked unused only serves joins: it falls back into what it was joined from, here its best
  // two-part cut by score, and so on.
  template <class Emit>
  void resegment(std::string_view surface, Emit&& emit) const {
    std::vector<std::string_view> stack{surface};
    while (!stack.empty()) {
      const std::string_view part = stack.back();
      stack.pop_back();
      const TokenId id = piece_of(part);
      if (id < 0 || model_.pieces[static_cast<std::size_t>(id)].type != Type::kUnused) {
        emit(id, part);
        continue;
      }
      std::size_t best = 0;
      float best_score = -std::numeric_limits<float>::infinity();
      for (std::size_t cut = decode_at(part, 0).bytes; cut < part.size(); cut += decode_at(part, cut).bytes) {
        const TokenId a = piece_of(part.substr(0, cut)), b = piece_of(part.substr(cut));
        if (a < 0 || b < 0) continue;
        const float score = std::min(model_.pieces[static_cast<std::size_t>(a)].score,
                                     model_.pieces[static_cast<std::size_t>(b)].score);
        if (score > best_score) best = cut, best_score = score;
      }
      if (best == 0) {
        emit(-1, part);
      } else {
        stack.push_back(part.substr(best));
        stack.push_back(part.substr(0, best));
      }
    }
  }

  TokenId piece_of(std::string_view surface) const {
    const Trie::Match match = pieces_.longest(surface);
    return match.length == surface.size() ? static_cast<TokenId>(match.value) : -1;
  }

  // The cut with the highest sum of scores, by Viterbi; of equal ones the first found, from the left.
  template <class Emit>
  void unigram(std::string_view text, Emit&& emit) const {
    struct Best {
      double score = -std::numeric_limits<double>::infinity();
      u32 from = 0;
      TokenId id = -1;
    };
    std::vector<Best> best(text.size() + 1);
    best[0].score = 0;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t one = decode_at(text, at).bytes;
      bool single = false;
      const auto relax = [&](std::size_t bytes, double score, TokenId id) {
        Best& end = best[at + bytes];
        if (best[at].score + score > end.score) end = {best[at].score + score, static_cast<u32>(at), id};
      };
      pieces_.prefixes(text.substr(at), [&](std::size_t bytes, u32 id) {
        single |= bytes == one;
        relax(bytes, static_cast<double>(model_.pieces[id].score), static_cast<TokenId>(id));
      });
      if (!single) relax(one, lowest_ - kUnknownPenalty, -1);
      at += one;
    }
    std::vector<u32> ends;
    for (u32 at = static_cast<u32>(text.size()); at > 0; at = best[at].from) ends.push_back(at);
    for (auto end = ends.rbegin(); end != ends.rend(); ++end) {
      emit(best[*end].id, text.substr(best[*end].from, *end - best[*end].from));
    }
  }

  SentencePieceModel model_;
  Trie pieces_;
  std::array<TokenId, 256> byte_ids_;
  double lowest_ = std::numeric_limits<double>::max();
};

}  // namespace

Result<std::unique_ptr<const TextModel>> make_sentencepiece(SentencePieceModel model) {
  return std::make_unique<const SentencePieceText>(std::move(model));
}

}  // namespace trireme::text
