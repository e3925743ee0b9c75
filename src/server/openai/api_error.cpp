#include "server/openai/api_error.h"

#include "server/openai/json_text.h"

namespace trireme::server {

tl::unexpected<ApiError> bad_param(std::string_view param, std::string message, std::string code) {
  return tl::unexpected(ApiError{400, std::move(message), "invalid_request_error", std::string(param),
                                 code.empty() ? "invalid_value" : std::move(code), 0});
}

ApiError api_error(const Error& error, std::string param) {
  ApiError out{500, error.message, "server_error", std::move(param), "", 0};
  switch (error.code) {
    case ErrorCode::kInvalidArgument:
      out.status = 400;
      out.type = "invalid_request_error";
      out.code = "invalid_value";
      break;
    case ErrorCode::kNotFound:
      out.status = 404;
      out.type = "invalid_request_error";
      out.code = "not_found";
      break;
    case ErrorCode::kUnsupported:
      out.status = 400;
      out.type = "invalid_request_error";
      out.code = "unsupported";
      break;
    case ErrorCode::kResourceExhausted:
      out.status = 429;
      out.type = "rate_limit_error";
      out.code = "rate_limit_exceeded";
      break;
    case ErrorCode::kDeadlineExceeded:
      out.status = 504;
      out.code = "deadline_exceeded";
      break;
    case ErrorCode::kCancelled:
      out.status = 503;
      out.code = "cancelled";
      break;
    case ErrorCode::kUnavailable:
      out.status = 503;
      out.code = "unavailable";
      break;
    case ErrorCode::kDataLoss:
    case ErrorCode::kInternal:
      out.code = "internal_error";
      break;
  }
  return out;
}

std::string error_json(const ApiError& error) {
  std::string out = R"({"error":{"message":)";
  append_json_string(out, error.message);
  out += R"(,"type":)";
  append_json_string(out, error.type);
  out += R"(,"param":)";
  if (error.param.empty())
    out += "null";
  else
    append_json_string(out, error.param);
  out += R"(,"code":)";
  if (error.code.empty())
    out += "null";
  else
    append_json_string(out, error.code);
  out += "}}";
  return out;
}

}  // namespace trireme::server
