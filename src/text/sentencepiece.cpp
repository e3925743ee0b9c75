#include "text/sentencepiece.h"

#include <algorithm>
#include <cmath>

#include "text/byte_level.h"
#include "text/protobuf.h"
#include "text/unicode.h"

namespace trireme::text {
namespace {

constexpr std::size_t kMaxPieceBytes = 4096;
constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // U+2581

Result<SentencePieceModel::Piece> parse_piece(std::string_view bytes) {
  SentencePieceModel::Piece piece;
  ProtoReader reader(bytes);
  while (true) {
    ASSIGN(const auto field, reader.next());
    if (!field) return piece;
    if (field->number == 1 && field->wire_type == 2) {
      if (field->bytes.size() > kMaxPieceBytes || !valid_utf8(field->bytes)) {
        return invalid("tokenizer.model: a piece is not UTF-8 or longer than {} bytes", kMaxPieceBytes);
      }
      piece.text = field->bytes;
    } else if (field->number == 2 && field->wire_type == 5) {
      piece.score = field->as_float();
      if (!std::isfinite(piece.score))
        return invalid("tokenizer.model: a piece's score is not a finite number");
    } else if (field->number == 3 && field->wire_type == 0) {
      if (field->value < 1 || field->value > 6)
        return invalid("tokenizer.model: unknown piece type {}", field->value);
      piece.type = static_cast<SentencePieceModel::Type>(field->value);
    }
  }
}

Result<TokenId> id_of_value(u64 value) {
  const i64 id = static_cast<i64>(value);
  if (id < -1 || id > kMaxTokenId) return invalid("tokenizer.model: the id {} is out of range", id);
  return static_cast<TokenId>(id);
}

Status parse_trainer(std::string_view bytes, SentencePieceModel& model) {
  ProtoReader reader(bytes);
  while (true) {
    ASSIGN(const auto field, reader.next());
    if (!field) return {};
    if (field->wire_type == 2 && field->number == 44) {
      if (field->bytes.size() > kMaxPieceBytes || !valid_utf8(field->bytes)) {
        return invalid("tokenizer.model: unk_surface is not UTF-8 or too long");
      }
      model.unknown_surface = field->bytes;
    }
    if (field->wire_type != 0) continue;
    switch (field->number) {
      case 3:
        if (field->value != 1 && field->value != 2) {
          return fail(ErrorCode::kUnsupported,
                      "tokenizer.model: model type {} is not supported, only Unigram (1) and BPE (2)",
                      field->value);
        }
        model.unigram = field->value == 1;
        break;
      case 24:
        model.space_as_suffix = field->value != 0;
        break;
      case 35:
        model.byte_fallback = field->value != 0;
        break;
      case 40: {
        ASSIGN(model.unknown, id_of_value(field->value));
        break;
      }
      case 41: {
        ASSIGN(model.bos, id_of_value(field->value));
        break;
      }
      case 42: {
        ASSIGN(model.eos, id_of_value(field->value));
        break;
      }
      default:
        break;
    }
  }
}

Status parse_normalizer(std::string_view bytes, SentencePieceModel& model) {
  ProtoReader reader(bytes);
  while (true) {
    ASSIGN(const auto field, reader.next());
    if (!field) return {};
    if (field->number == 2 && field->wire_type == 2 && !field->bytes.empty()) {
      return fail(
          ErrorCode::kUnsupported,
          "tokenizer.model: a precompiled_charsmap (a normalizer other than identity) is not supported");
    }
    if (field->wire_type != 0) continue;
    if (field->number == 3) model.dummy_prefix = field->value != 0;
    if (field->number == 4) model.remove_extra_spaces = field->value != 0;
    if (field->number == 5) model.escape_spaces = field->value != 0;
  }
}

}  // namespace

Result<SentencePieceModel> SentencePieceModel::parse(std::string_view bytes) {
  SentencePieceModel model;
  model.unigram = true;  // TrainerSpec's default
  ProtoReader reader(bytes);
  while (true) {
    ASSIGN(const auto field, reader.next());
    if (!field) break;
    if (field->wire_type != 2) continue;
    if (field->number == 1) {
      ASSIGN(Piece piece, parse_piece(field->bytes));
      if (model.pieces.size() > static_cast<std::size_t>(kMaxTokenId))
        return invalid("tokenizer.model: too many pieces");
      model.pieces.push_back(std::move(piece));
    } else if (field->number == 2) {
      TRY(parse_trainer(field->bytes, model));
    } else if (field->number == 3) {
      TRY(parse_normalizer(field->bytes, model));
    }
  }
  const auto size = static_cast<TokenId>(model.pieces.size());
  if (size == 0) return invalid("tokenizer.model holds no pieces; is it a SentencePiece model?");
  // Ids past the end mean that the model has no such piece.
  if (model.bos >= size) model.bos = -1;
  if (model.eos >= size) model.eos = -1;
  if (model.unknown < 0 || model.unknown >= size ||
      model.pieces[static_cast<std::size_t>(model.unknown)].type != Type::kUnknown) {
    return invalid("tokenizer.model: the unknown piece {} is not there", model.unknown);
  }
  int byte_pieces = 0;
  for (const Piece& piece : model.pieces) {
    if (piece.text.empty()) return invalid("tokenizer.model: an empty piece");
    if (piece.type == Type::kByte && byte_fallback_value(piece.text) < 0) {
      return invalid("tokenizer.model: '{}' is not the name of a byte", piece.text);
    }
    byte_pieces += piece.type == Type::kByte;
  }
  if (model.byte_fallback && byte_pieces != 256) {
    return invalid("tokenizer.model: byte fallback needs 256 byte pieces, it has {}", byte_pieces);
  }
  return model;
}

Result<std::unique_ptr<Tokenizer>> TokenizerSentencePiece::read(std::string_view bytes) {
  using Type = SentencePieceModel::Type;
  ASSIGN(SentencePieceModel model, SentencePieceModel::parse(bytes));
  std::unique_ptr<Tokenizer> made(new Tokenizer);
  for (std::size_t i = 0; i < model.pieces.size(); ++i) {
    const auto& piece = model.pieces[i];
    const TokenId id = static_cast<TokenId>(i);
    Token token{.text = piece.text, .bytes = piece.text};
    token.special = piece.type == Type::kControl || piece.type == Type::kUnknown;
    token.added = token.special || piece.type == Type::kUserDefined;
    if (piece.type == Type::kByte) {
      token.bytes.assign(1, static_cast<char>(byte_fallback_value(piece.text)));
    } else if (piece.type == Type::kUnknown) {
      token.bytes = model.unknown_surface;
    } else if (piece.type == Type::kControl) {
      token.bytes = piece.text;
    } else if (model.escape_spaces) {
      for (std::size_t at = 0; (at = token.bytes.find(kSpaceMark, at)) != std::string::npos;) {
        token.bytes.replace(at, kSpaceMark.size(), " ");
      }
    }
    if (token.added && piece.type != Type::kUnknown) {
      // Spelled with spaces, as the text is in which it is looked for.
      made->added_.add({.content = token.bytes, .id = id});
    }
    TRY(made->vocabulary_.add(id, std::move(token)));
  }
  made->bos_ = model.bos;
  if (model.eos >= 0) made->eos_.push_back(model.eos);
  if (model.bos >= 0) made->before_.push_back(model.bos);
  made->strip_ = model.dummy_prefix && model.escape_spaces && !model.space_as_suffix ? 1 : 0;
  ASSIGN(made->model_, make_sentencepiece(std::move(model)));
  return made;
}

}  // namespace trireme::text
