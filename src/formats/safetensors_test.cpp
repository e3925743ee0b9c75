#include "formats/safetensors.h"

#include <gmock/gmock.h>
#include <sys/stat.h>

#include <chrono>

#include "formats/safetensors_writer.h"
#include "formats/test_files.h"

namespace trireme::formats {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class CheckpointTest : public FolderTest {
 protected:
  void write_shard(const std::string& file, const std::string& tensor) const {
    const float value = 1.5f;
    const auto status = write_safetensors(path(file), {{tensor, ConstView(&value, DType::kF32, Shape{1})}});
    ASSERT_TRUE(status) << status.error().message;
  }
  void write_index(std::string_view map) const {
    write("model.safetensors.index.json", fmt::format(R"({{"metadata":{{}},"weight_map":{}}})", map));
  }
  void expect_refused(const std::string& message, ErrorCode code = ErrorCode::kDataLoss) const {
    const auto checkpoint = Checkpoint::open(dir_.string());
    ASSERT_FALSE(checkpoint);
    EXPECT_EQ(checkpoint.error().code, code);
    EXPECT_THAT(checkpoint.error().message, HasSubstr(message));
  }
};

TEST_F(CheckpointTest, WhatIsWrittenIsReadBackAligned) {
  const float f[4] = {1, 2, 3, 4};
  const u8 bytes[3] = {7, 8, 9};
  const BF16 b[2] = {BF16(1.0f), BF16(-2.0f)};
  ASSERT_TRUE(write_safetensors(path("model.safetensors"),
                                {{"bytes", ConstView(bytes, DType::kU8, Shape{3})},
                                 {"half", ConstView(b, DType::kBF16, Shape{1, 2})},
                                 {"none", ConstView(bytes, DType::kF32, Shape{0, 5})},
                                 {"padded", ConstView(f, DType::kF32, Shape{2, 1}, 2)}},
                                {{"format", "pt"}}));
  const auto checkpoint = Checkpoint::open(dir_.string());
  ASSERT_TRUE(checkpoint) << checkpoint.error().message;
  EXPECT_EQ(checkpoint->tensors().size(), 4u);
  EXPECT_EQ(checkpoint->total_bytes(), 3 + 4 + 8);
  EXPECT_EQ(checkpoint->find("absent"), nullptr);
  const auto* padded = checkpoint->find("padded");
  ASSERT_TRUE(padded);
  EXPECT_EQ(padded->as<float>()[0], 1);
  EXPECT_EQ(padded->as<float>()[1], 3);
  EXPECT_EQ(checkpoint->find("none")->bytes(), 0);
  EXPECT_EQ(checkpoint->find("bytes")->as<u8>()[2], 9);
  EXPECT_EQ(static_cast<float>(checkpoint->find("half")->as<BF16>()[1]), -2.0f);
  for (const auto& [name, view] : checkpoint->tensors()) {
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(view.data) % static_cast<u64>(size_of(view.dtype)), 0u)
        << name;
  }
  EXPECT_FALSE(fs::exists(path("model.safetensors.part")));
}

TEST_F(CheckpointTest, ViewsOutliveTheCheckpointThroughKeepAlive) {
  write_shard("model.safetensors", "w");
  auto checkpoint = Checkpoint::open(dir_.string());
  ASSERT_TRUE(checkpoint);
  const auto keep = checkpoint->keep_alive();
  const ConstView view = *checkpoint->find("w");
  checkpoint = fail(ErrorCode::kNotFound, "gone");
  EXPECT_EQ(view.as<float>()[0], 1.5f);
}

TEST_F(CheckpointTest, MisalignedTensorsAreCopiedAndReadRight) {
  const std::string header = R"({"w":{"dtype":"I32","shape":[1],"data_offsets":[0,4]}})";
  for (std::size_t pad = 0; pad < 4; ++pad) {
    write("model.safetensors", raw_file(header + std::string(pad, ' '), 4));
    const auto checkpoint = Checkpoint::open(dir_.string());
    ASSERT_TRUE(checkpoint) << checkpoint.error().message;
    const auto* w = checkpoint->find("w");
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(w->data) % 4, 0u);
    EXPECT_EQ(w->as<i32>()[0], 0x03020100);
  }
}

TEST_F(CheckpointTest, ShardsAreJoinedThroughTheIndex) {
  write_shard("m-1.safetensors", "a");
  write_shard("m-2.safetensors", "b");
  write_index(R"({"a":"m-1.safetensors","b":"m-2.safetensors"})");
  const auto checkpoint = Checkpoint::open(dir_.string());
  ASSERT_TRUE(checkpoint) << checkpoint.error().message;
  EXPECT_TRUE(checkpoint->find("a") && checkpoint->find("b"));
}

TEST_F(CheckpointTest, WithoutAnIndexAllSafetensorsFilesAreRead) {
  write_shard("x.safetensors", "a");
  write_shard("y.safetensors", "b");
  const auto checkpoint = Checkpoint::open(dir_.string());
  ASSERT_TRUE(checkpoint) << checkpoint.error().message;
  EXPECT_EQ(checkpoint->tensors().size(), 2u);
}

TEST_F(CheckpointTest, NothingToReadIsNotFound) {
  expect_refused("no .safetensors file", ErrorCode::kNotFound);
  const auto none = Checkpoint::open(path("absent"));
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, ErrorCode::kNotFound);
}

TEST_F(CheckpointTest, AnIndexMayNameOnlyPlainFilesOfItsFolder) {
  write_shard("m-1.safetensors", "a");
  for (const auto* name : {"/etc/passwd", "/etc/x.safetensors", "../m-1.safetensors", "..",
                           "sub/m.safetensors", "sub\\\\m.safetensors", "m-1.bin", ".hidden.safetensors", "",
                           "a\\u0000.safetensors", "a\\n.safetensors", ".safetensors"}) {
    SCOPED_TRACE(name);
    write_index(fmt::format(R"({{"a":"{}"}})", name));
    expect_refused("tensor \"a\" is said to be in");
  }
  write_index(R"({"a":7})");
  expect_refused("tensor \"a\" is said to be in 7");
  write_index("{}");
  expect_refused("\"weight_map\" must be an object");
  write_index(R"({"a":"m-1.safetensors","a":"m-2.safetensors"})");
  expect_refused("stands twice");
}

TEST_F(CheckpointTest, AnIndexThatIsAtOddsWithItsShardsIsRefused) {
  write_shard("m-1.safetensors", "a");
  write_shard("m-2.safetensors", "b");
  write_index(R"({"a":"m-1.safetensors","c":"m-2.safetensors"})");
  expect_refused("tensor \"c\" is not in m-2.safetensors, where the index says it is; it is in no shard");
  write_index(R"({"a":"m-2.safetensors","b":"m-1.safetensors"})");
  expect_refused(
      "tensor \"a\" is not in m-2.safetensors, where the index says it is; it is in m-1.safetensors");
  write_index(R"({"a":"m-1.safetensors","b":"m-3.safetensors"})");
  expect_refused("m-3.safetensors", ErrorCode::kNotFound);
}

TEST_F(CheckpointTest, ATensorInTwoShardsIsRefused) {
  write_shard("m-1.safetensors", "a");
  write_shard("m-2.safetensors", "a");
  expect_refused("tensor \"a\" is also in m-1.safetensors");
}

TEST_F(CheckpointTest, ALinkThatLeavesTheFolderIsRefused) {
  fs::create_directory(path("outside"));
  fs::create_directory(path("model"));
  write_shard("outside/m.safetensors", "a");
  fs::create_symlink(path("outside/m.safetensors"), path("model/model.safetensors"));
  const auto checkpoint = Checkpoint::open(path("model"));
  ASSERT_FALSE(checkpoint);
  EXPECT_EQ(checkpoint.error().code, ErrorCode::kDataLoss);
  EXPECT_THAT(checkpoint.error().message, HasSubstr("leaves the model's folder"));

  fs::remove(path("model/model.safetensors"));
  write("index", R"({"weight_map":{"a":"m.safetensors"}})");
  fs::create_symlink(path("index"), path("model/model.safetensors.index.json"));
  const auto through_index = Checkpoint::open(path("model"));
  ASSERT_FALSE(through_index);
  EXPECT_THAT(through_index.error().message, HasSubstr("leaves the model's folder"));
}

TEST_F(CheckpointTest, LinksInsideTheFolderAndOfTheHubsCacheAreFollowed) {
  write_shard("real.safetensors", "a");
  fs::create_symlink("real.safetensors", path("model.safetensors"));
  EXPECT_TRUE(Checkpoint::open(dir_.string()));

  const auto repo = dir_ / "models--x--y";
  fs::create_directories(repo / "snapshots" / "0123");
  fs::create_directories(repo / "blobs");
  fs::rename(path("real.safetensors"), repo / "blobs" / "abcdef");
  fs::create_symlink("../../blobs/abcdef", repo / "snapshots" / "0123" / "model.safetensors");
  const auto cached = Checkpoint::open((repo / "snapshots" / "0123").string());
  EXPECT_TRUE(cached) << cached.error().message;

  // The same layout is no licence to go elsewhere.
  fs::rename(repo / "blobs" / "abcdef", repo / "elsewhere");
  fs::remove(repo / "snapshots" / "0123" / "model.safetensors");
  fs::create_symlink("../../elsewhere", repo / "snapshots" / "0123" / "model.safetensors");
  EXPECT_FALSE(Checkpoint::open((repo / "snapshots" / "0123").string()));
}

TEST_F(CheckpointTest, PipesFoldersAndEmptyFilesAreRefusedWithoutWaiting) {
  const auto begin = std::chrono::steady_clock::now();
  ASSERT_EQ(::mkfifo(path("model.safetensors").c_str(), 0600), 0);
  expect_refused("is a pipe, not a regular file");
  fs::remove(path("model.safetensors"));
  ASSERT_EQ(::mkfifo(path("model.safetensors.index.json").c_str(), 0600), 0);
  expect_refused("is a pipe, not a regular file");
  fs::create_directory(path("model.safetensors"));
  expect_refused("is a folder, not a regular file");
  fs::remove(path("model.safetensors"));
  write("model.safetensors", "");
  expect_refused("has at least 8");
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(10));
}

TEST_F(CheckpointTest, TheWriterRefusesNamesThatCannotBeReadBack) {
  const float value = 0;
  const ConstView view(&value, DType::kF32, Shape{1});
  EXPECT_FALSE(write_safetensors(path("x"), {{"a", view}, {"a", view}}));
  EXPECT_FALSE(write_safetensors(path("x"), {{"__metadata__", view}}));
  const auto nowhere = write_safetensors(path("no/such/folder"), {{"a", view}});
  ASSERT_FALSE(nowhere);
  EXPECT_EQ(nowhere.error().code, ErrorCode::kUnavailable);
}

TEST(Checkpoint, TheDemoModelsOpen) {
  const auto demo = Checkpoint::open(TRIREME_SOURCE_DIR "/models/trireme-demo");
  ASSERT_TRUE(demo) << demo.error().message;
  const auto* codes = demo->find("model.layers.0.self_attn.kv_a_proj_with_mqa.weight");
  const auto* scale = demo->find("model.layers.0.self_attn.kv_a_proj_with_mqa.weight_scale_inv");
  ASSERT_TRUE(codes && scale);
  EXPECT_EQ(codes->dtype, DType::kF8E4M3);
  EXPECT_EQ(codes->shape, (Shape{576, 512}));
  EXPECT_EQ(scale->shape, (Shape{5, 4}));
  EXPECT_TRUE(Checkpoint::open(TRIREME_SOURCE_DIR "/models/trireme-demo-draft"));
}

}  // namespace
}  // namespace trireme::formats
