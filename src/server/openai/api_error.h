// An error as the OpenAI API shows it: {"error":{"message","type","param","code"}} and an HTTP status.
#pragma once
#include <string>

#include "base/result.h"

namespace trireme::server {

struct ApiError {
  int status = 400;
  std::string message;
  std::string type = "invalid_request_error";
  std::string param;  // empty: null
  std::string code;   // empty: null
  int retry_after_s = 0;
};

template <class T>
using ApiResult = tl::expected<T, ApiError>;

// 400 that names the parameter.
tl::unexpected<ApiError> bad_param(std::string_view param, std::string message, std::string code = {});
ApiError api_error(const Error& error, std::string param = {});
// The body of the answer.
std::string error_json(const ApiError& error);

}  // namespace trireme::server
