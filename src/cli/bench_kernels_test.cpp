#include "cli/bench_kernels.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cli/command.h"

namespace trireme::cli {
namespace {

using testing::HasSubstr;

std::string refusal(const KernelFlags& flags) {
  const Status s = judged(flags);
  return s ? "" : s.error().message;
}

TEST(BenchKernelsFlags, GoodOnesPass) {
  EXPECT_EQ(refusal({}), "");
  EXPECT_EQ(refusal({.filter = "V3", .json = "x.json", .repeats = 1}), "");
  EXPECT_EQ(refusal({.tune = true, .rows = {1, 64, 8192}}), "");
  EXPECT_EQ(refusal({.sweep = true}), "");
}

TEST(BenchKernelsFlags, WrongOnesAreNamed) {
  EXPECT_THAT(refusal({.repeats = 0}), HasSubstr("--repeats 0"));
  EXPECT_THAT(refusal({.tune = true, .sweep = true}), HasSubstr("--tune and --sweep"));
  EXPECT_THAT(refusal({.rows = {64}}), HasSubstr("--rows names the rows of --tune and --sweep"));
  EXPECT_THAT(refusal({.tune = true, .rows = {64, 0}}), HasSubstr("--rows 0"));
  EXPECT_THAT(refusal({.sweep = true, .rows = {1 << 20}}), HasSubstr("--rows 1048576"));
}

// The whole program: its exit code, and what it says.
std::pair<int, std::string> said(std::vector<const char*> args) {
  args.insert(args.begin(), {"trireme", "bench", "kernels"});
  testing::internal::CaptureStderr();
  const int code = run(static_cast<int>(args.size()), args.data());
  return {code, testing::internal::GetCapturedStderr()};
}

TEST(BenchKernelsFlags, AreJudgedBeforeAGpuIsLookedFor) {
  const auto [both, why] = said({"--tune", "--sweep"});
  EXPECT_EQ(both, 2);
  EXPECT_THAT(why, HasSubstr("ask for one"));
  const auto [list, what] = said({"--tune", "--rows", "64,0"});
  EXPECT_EQ(list, 2);
  EXPECT_THAT(what, HasSubstr("--rows 0"));
  const auto [word, who] = said({"--sweep", "--rows", "many"});
  EXPECT_EQ(word, 2);
  EXPECT_THAT(who, HasSubstr("--rows"));
}

}  // namespace
}  // namespace trireme::cli
