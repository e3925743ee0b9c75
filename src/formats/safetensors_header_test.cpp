#include "formats/safetensors_header.h"

#include <gmock/gmock.h>

#include <cstring>

#include "base/rng.h"
#include "formats/shard_index.h"
#include "formats/test_files.h"

namespace trireme::formats {
namespace {

using ::testing::HasSubstr;

auto parse(std::string_view file) {
  return parse_safetensors_header({reinterpret_cast<const std::byte*>(file.data()), file.size()},
                                  "m.safetensors");
}

constexpr std::string_view kGood =
    R"({"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[8,20]},)"
    R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"z":{"dtype":"U8","shape":[0,7],"data_offsets":[20,20]}})";

TEST(SafetensorsHeader, EntriesComeInTheOrderOfTheirBytes) {
  const auto entries = parse(raw_file(kGood, 20));
  ASSERT_TRUE(entries) << entries.error().message;
  ASSERT_EQ(entries->size(), 3u);
  EXPECT_EQ((*entries)[0].name, "a");
  EXPECT_EQ((*entries)[1].name, "b");
  EXPECT_EQ((*entries)[1].dtype, DType::kBF16);
  EXPECT_EQ((*entries)[1].shape, (Shape{2, 3}));
  EXPECT_EQ((*entries)[1].begin, 8 + kGood.size() + 8);
  EXPECT_EQ((*entries)[2].begin, (*entries)[2].end);
}

TEST(SafetensorsHeader, AHeaderPaddedWithSpacesAndAScalarAreRead) {
  EXPECT_TRUE(parse(raw_file(R"({"a":{"dtype":"I64","shape":[],"data_offsets":[0,8]}}   )", 8)));
  EXPECT_TRUE(parse(raw_file("{}", 0)));
}

struct Hostile {
  const char* name;
  std::string file;
  const char* message;
  ErrorCode code = ErrorCode::kDataLoss;
};

std::string one(std::string_view dtype, std::string_view shape, std::string_view offsets, std::size_t data) {
  return raw_file(
      fmt::format(R"({{"w":{{"dtype":{},"shape":{},"data_offsets":{}}}}})", dtype, shape, offsets), data);
}
std::string two(std::string_view first, std::string_view second, std::size_t data) {
  return raw_file(fmt::format(R"({{"a":{{"dtype":"U8","shape":[4],"data_offsets":{}}},)"
                              R"("b":{{"dtype":"U8","shape":[4],"data_offsets":{}}}}})",
                              first, second),
                  data);
}

std::vector<Hostile> hostile_files() {
  return {
      {"empty", "", "has at least 8"},
      {"only a length", std::string(8, '\0'), "does not start with"},
      {"huge header", raw_file("{}", 0, i64{1} << 62), "at most 100000000 are allowed"},
      {"header just above the bound", raw_file("{}", 0, 100'000'001), "at most 100000000 are allowed"},
      {"header beyond the file", raw_file("{}", 0, 3), "cut short"},
      {"not JSON", raw_file("{oops}", 0), "not valid JSON"},
      {"text after the JSON", raw_file("{} x", 0), "not valid JSON"},
      {"an array", raw_file("[1]", 0), "does not start with '{'"},
      {"deep", raw_file(R"({"a":[[[[[[[[[[)", 0), "nested deeper"},
      {"duplicate tensor", raw_file(R"({"a":{},"a":{}})", 0), "\"a\" stands twice"},
      {"too many values", raw_file("{" + std::string(3'300'000, ','), 0), "more than 3200000 values"},
      {"entry is a number", raw_file(R"({"w":3})", 0), "\"w\": its header entry must be an object"},
      {"metadata is a list", raw_file(R"({"__metadata__":[1]})", 0),
       "__metadata__ must be an object of strings"},
      {"metadata holds a number", raw_file(R"({"__metadata__":{"a":1}})", 0), "__metadata__ must be"},
      {"no dtype", raw_file(R"({"w":{"shape":[1],"data_offsets":[0,1]}})", 1), "\"dtype\" must be a string"},
      {"unknown dtype", one(R"("F99")", "[1]", "[0,4]", 4), "\"F99\" is not a dtype"},
      {"dtype of the format that is not supported", one(R"("F64")", "[1]", "[0,8]", 8),
       "dtype F64 is not supported", ErrorCode::kUnsupported},
      {"negative dimension", one(R"("F32")", "[-1]", "[0,4]", 4), "the dimension -1 is not"},
      {"fractional dimension", one(R"("F32")", "[1.5]", "[0,4]", 4), "the dimension 1.5 is not"},
      {"dimension of 2^63", one(R"("U8")", "[9223372036854775808]", "[0,4]", 4), "is not an integer"},
      {"dimension as text", one(R"("F32")", R"(["1"])", "[0,4]", 4), "is not an integer"},
      {"five dimensions", one(R"("F32")", "[1,1,1,1,1]", "[0,4]", 4), "5 dimensions; at most 4",
       ErrorCode::kUnsupported},
      {"product that wraps to 4", one(R"("F32")", "[4611686018427387905,4]", "[0,4]", 4), "overflows"},
      {"elements that fit but bytes that do not", one(R"("F32")", "[4611686018427387904]", "[0,0]", 0),
       "overflows"},
      {"reversed offsets", one(R"("F32")", "[1]", "[4,0]", 4), "are reversed"},
      {"negative offset", one(R"("F32")", "[1]", "[-4,0]", 4), "must be two integers"},
      {"three offsets", one(R"("F32")", "[1]", "[0,4,4]", 4), "must be two integers"},
      {"offset beyond 64 bits", one(R"("F32")", "[1]", "[0,18446744073709551620]", 4),
       "must be two integers"},
      {"offset at the end of 64 bits", one(R"("F32")", "[1]", "[0,18446744073709551615]", 4),
       "reach past the file"},
      {"truncated data", one(R"("F32")", "[2]", "[0,8]", 7), "cut short"},
      {"size against shape", one(R"("F32")", "[3]", "[0,8]", 8), "takes 12"},
      {"overlap", two("[0,4]", "[2,6]", 6), "\"b\" overlaps tensor \"a\""},
      {"the same bytes twice", two("[0,4]", "[0,4]", 4), "\"b\" overlaps tensor \"a\""},
      {"hole between", two("[0,4]", "[5,9]", 9), "\"b\" leaves a hole after tensor \"a\""},
      {"hole at the start", one(R"("U8")", "[4]", "[1,5]", 5), "leaves a hole after the header"},
      {"bytes at the end", one(R"("U8")", "[4]", "[0,4]", 5), "1 bytes at its end belong to no tensor"},
      {"a name that forges a log line", raw_file(R"({"a\n[error] x":3})", 0), "a\\x0a[error] x"},
  };
}

TEST(SafetensorsHeader, HostileFilesAreRefusedWithAMessageThatNamesTheFileAndTheFault) {
  for (const auto& hostile : hostile_files()) {
    SCOPED_TRACE(hostile.name);
    const auto entries = parse(hostile.file);
    ASSERT_FALSE(entries);
    EXPECT_EQ(entries.error().code, hostile.code) << entries.error().message;
    EXPECT_THAT(entries.error().message, HasSubstr("m.safetensors"));
    EXPECT_THAT(entries.error().message, HasSubstr(hostile.message));
    EXPECT_LT(entries.error().message.size(), 1000u);
  }
}

TEST(SafetensorsHeader, MoreTensorsThanTheBoundAreRefused) {
  std::string header = "{";
  for (u64 i = 0; i <= kMaxTensorsPerFile; ++i) header += fmt::format(R"({}"{}":0)", i ? "," : "", i);
  const auto entries = parse(raw_file(header + "}", 0));
  ASSERT_FALSE(entries);
  EXPECT_THAT(entries.error().message, HasSubstr("200001 tensors; at most 200000"));
}

// What it accepts, whatever the bytes were.
void expect_sound(const std::vector<TensorEntry>& entries, std::size_t file_bytes) {
  for (const auto& entry : entries) {
    ASSERT_LE(entry.begin, entry.end);
    ASSERT_LE(entry.end, file_bytes);
    ASSERT_EQ(entry.end - entry.begin, static_cast<u64>(entry.shape.elements() * size_of(entry.dtype)));
  }
}

// A few random edits: a byte, a piece of grammar, a number, a cut or a copied stretch.
std::string mutated(std::string text, Rng& rng) {
  static constexpr std::string_view kPieces[] = {"{",
                                                 "}",
                                                 "[",
                                                 "]",
                                                 ",",
                                                 ":",
                                                 "\"",
                                                 "\\",
                                                 "-1",
                                                 "0",
                                                 "4",
                                                 "1e9",
                                                 "null",
                                                 "9223372036854775807",
                                                 "18446744073709551615",
                                                 "\"F32\"",
                                                 "\"shape\"",
                                                 "..",
                                                 "/",
                                                 "\xff"};
  for (u64 edits = 1 + rng.below(4); edits > 0 && !text.empty(); --edits) {
    const auto at = static_cast<std::size_t>(rng.below(text.size()));
    switch (rng.below(5)) {
      case 0:
        text[at] = static_cast<char>(rng.below(256));
        break;
      case 1:
        text.insert(at, kPieces[rng.below(std::size(kPieces))]);
        break;
      case 2:
        text.erase(at, 1 + rng.below(8));
        break;
      case 3:
        text[at] = static_cast<char>('0' + rng.below(10));
        break;
      default:
        text.insert(at, text.substr(rng.below(text.size()), rng.below(40)));
    }
  }
  return text;
}

TEST(SafetensorsHeader, TwentyThousandMutationsOfAFileNeitherCrashNorBreakAPromise) {
  Rng rng(1);
  const std::string good = raw_file(kGood, 20);
  int accepted = 0;
  for (int i = 0; i < 20'000; ++i) {
    // Half of them keep a header length that fits, so that the mutation gets as far as the JSON.
    const auto file = i % 2 ? mutated(good, rng) : raw_file(mutated(std::string(kGood), rng), 20);
    const auto entries = parse(file);
    accepted += entries.has_value();
    if (entries) expect_sound(*entries, file.size());
    if (HasFatalFailure()) return;
  }
  // Some change only a name or the data: a reader that refuses everything would pass nothing here.
  EXPECT_GT(accepted, 100);
  EXPECT_LT(accepted, 10'000);
}

TEST(WeightMap, TwentyThousandMutationsOfAnIndexGiveOnlyPlainNames) {
  Rng rng(2);
  const std::string good =
      R"({"metadata":{"total_size":8},"weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors"}})";
  int accepted = 0;
  for (int i = 0; i < 20'000; ++i) {
    const auto map = parse_weight_map(mutated(good, rng), "index");
    if (!map) continue;
    ++accepted;
    for (const auto& [tensor, file] : *map) {
      ASSERT_EQ(file.find('/'), std::string::npos);
      ASSERT_TRUE(file.ends_with(".safetensors"));
    }
  }
  EXPECT_GT(accepted, 100);
  EXPECT_LT(accepted, 15'000);
}

}  // namespace
}  // namespace trireme::formats
