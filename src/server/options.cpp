#include "server/options.h"

namespace trireme::server {

Result<ServerOptions> validated(ServerOptions o) {
  if (o.port < 0 || o.port > 65535) return invalid("--port {}: a port is a number from 0 to 65535", o.port);
  if (o.io_threads < 1 || o.io_threads > 64) return invalid("--http-threads {}: give 1 to 64", o.io_threads);
  for (const auto& key : o.api_keys) {
    if (key.empty()) return invalid("--api-key is empty; leave the flag out to serve without keys");
    if (key.size() > 512) return invalid("--api-key is longer than 512 bytes");
    for (const char c : key) {
      if (c <= 0x20 || c > 0x7e) {
        return invalid(
            "--api-key may hold printable ASCII without spaces only: it travels in an HTTP header");
      }
    }
  }
  for (const auto& name : o.served_model_names) {
    if (name.empty()) return invalid("--served-model-name is empty");
  }
  for (const char c : o.allow_origin) {
    if (c <= 0x20 || c > 0x7e) return invalid("--allow-origin: not an origin; give * or https://host");
  }
  if (o.max_body_bytes < 1024) return invalid("--max-body-bytes {}: give at least 1024", o.max_body_bytes);
  if (o.max_header_bytes < 1024 || o.max_header_bytes > (1u << 20)) {
    return invalid("--max-header-bytes {}: give 1024 to 1048576", o.max_header_bytes);
  }
  for (const auto& [flag, value] : std::initializer_list<std::pair<const char*, milliseconds>>{
           {"--header-timeout", o.header_timeout},
           {"--body-timeout", o.body_timeout},
           {"--keep-alive-timeout", o.idle_timeout},
           {"--slow-reader-timeout", o.slow_reader_timeout},
           {"the heartbeat of streams", o.sse_heartbeat},
           {"the timeout of /ready", o.ready_canary_timeout}}) {
    if (value < milliseconds(1) || value > std::chrono::hours(24)) {
      return invalid("{}: give a time from a millisecond to a day", flag);
    }
  }
  if (o.drain_timeout < milliseconds(0) || o.drain_timeout > std::chrono::hours(24)) {
    return invalid("--drain-timeout: give a time from 0 to a day");
  }
  if (o.slow_reader_bytes < 4096)
    return invalid("--slow-reader-bytes {}: give at least 4096", o.slow_reader_bytes);
  if (o.max_bodies_bytes < o.max_body_bytes) o.max_bodies_bytes = o.max_body_bytes;
  if (o.max_connections < 1) return invalid("--max-connections {}: give at least 1", o.max_connections);
  if (o.max_generations < 1) return invalid("--max-streams {}: give at least 1", o.max_generations);
  if (o.max_choices < 1 || o.max_choices > 4096)
    return invalid("--max-choices {}: give 1 to 4096", o.max_choices);
  return o;
}

}  // namespace trireme::server
