// Questions and answers out of a ShareGPT file, read as a stream: the usual one has 640 MB.
#pragma once
#include <istream>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/types.h"

namespace trireme::cli {

struct ShareGptPair {
  std::string question, answer;
};

// The first two turns of `count` conversations, a random sample that depends on the seed alone; all of them
// when the file has fewer. Left out are, as in vLLM's bench and by estimate: questions or answers below 4
// tokens, questions above 1024, both together above 2048.
Result<std::vector<ShareGptPair>> sharegpt_pairs(const std::string& path, int count, u64 seed);
Result<std::vector<ShareGptPair>> sharegpt_pairs(std::istream& in, const std::string& name, int count,
                                                 u64 seed);

// English in a common vocabulary: four bytes a token.
int estimated_tokens(std::string_view text);

}  // namespace trireme::cli
