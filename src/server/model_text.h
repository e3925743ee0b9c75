// TextFrontend over a checkpoint's own tokenizer and chat template.
#pragma once
#include <memory>
#include <optional>

#include "server/text_frontend.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace trireme::server {

// Without a template, chats are refused with kUnsupported.
std::unique_ptr<TextFrontend> make_text_frontend(std::shared_ptr<const text::Tokenizer> tokenizer,
                                                 std::optional<text::ChatTemplate> chat);

// Reads both from a model's folder. `chat_template`: a file that takes the place of the checkpoint's own.
Result<std::unique_ptr<TextFrontend>> load_text_frontend(const std::string& model_dir,
                                                         const std::string& chat_template = {});

}  // namespace trireme::server
