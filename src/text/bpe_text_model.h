// The text model of tokenizer.json: normalize, cut into words, BPE with a cache of words.
#pragma once
#include "text/bpe.h"
#include "text/normalizer.h"
#include "text/pre_tokenizer.h"
#include "text/tokenizer.h"
#include "text/word_cache.h"

namespace trireme::text {

class BpeTextModel final : public TextModel {
 public:
  BpeTextModel(Normalizer normalizer, PreTokenizer pre_tokenizer, Bpe bpe)
      : normalizer_(std::move(normalizer)), pre_tokenizer_(std::move(pre_tokenizer)), bpe_(std::move(bpe)) {}

  Status encode(std::string_view chunk, bool first, std::vector<TokenId>& out) const override;

 private:
  Status encode_scanned(std::string_view text, ScannerKind kind, std::vector<TokenId>& out) const;
  Status encode_word(std::string_view word, WordCache& cache, std::vector<TokenId>& out) const;

  Normalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  Bpe bpe_;
  mutable WordCachePool caches_;
};

}  // namespace trireme::text
