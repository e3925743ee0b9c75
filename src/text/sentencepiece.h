// SentencePiece's tokenizer.model: BPE (Llama-2, Mixtral) and Unigram, with byte fallback, dummy prefix and
// white space as U+2581. Models that normalize text by a character map are refused. Kudo, Richardson 2018;
// Kudo 2018.
#pragma once
#include "text/tokenizer.h"

namespace trireme::text {

struct SentencePieceModel {
  enum class Type : u8 { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };
  struct Piece {
    std::string text;
    float score = 0;
    Type type = Type::kNormal;
  };
  std::vector<Piece> pieces;
  bool unigram = false;
  bool byte_fallback = false;
  bool dummy_prefix = true, remove_extra_spaces = true, escape_spaces = true, space_as_suffix = false;
  TokenId unknown = 0, bos = 1, eos = 2;           // -1: none
  std::string unknown_surface = " \xE2\x81\x87 ";  // what the unknown token decodes to

  static Result<SentencePieceModel> parse(std::string_view bytes);
};

// The text model of `model`. `guarded` pieces (control, user-defined) are never made from text.
Result<std::unique_ptr<const TextModel>> make_sentencepiece(SentencePieceModel model);

struct TokenizerSentencePiece {
  static Result<std::unique_ptr<Tokenizer>> read(std::string_view bytes);
};

}  // namespace trireme::text
