#include "tensor/device.h"

#include "base/clock.h"

namespace trireme {
namespace {

class HostTimeline final : public Timeline {
 public:
  void clear() override { marks_.clear(); }
  Status mark(Stream& stream, const char* name) override {
    TRY(stream.synchronize());
    marks_.emplace_back(name, SteadyClock().now());
    return {};
  }
  Result<std::vector<Span>> read() override {
    std::vector<Span> spans;
    for (std::size_t i = 0; i + 1 < marks_.size(); ++i) {
      spans.push_back({marks_[i].first, seconds(marks_[i].second - marks_[0].second),
                       seconds(marks_[i + 1].second - marks_[i].second)});
    }
    return spans;
  }

 private:
  std::vector<std::pair<const char*, Time>> marks_;
};

}  // namespace

Result<Buffer> Device::allocate_host(i64 bytes) {
  auto data = std::make_shared<std::vector<u64>>(static_cast<std::size_t>(ceil_div(bytes, 8)));
  return Buffer(data, data->data(), bytes);
}

Status Device::copy_in_rows(void* device, const void* host, i64 stride, i64 row_bytes, i64 rows,
                            Stream& stream) {
  for (i64 r = 0; r < rows; ++r) {
    TRY(copy_in(static_cast<char*>(device) + r * stride, static_cast<const char*>(host) + r * stride,
                row_bytes, stream));
  }
  return {};
}

Result<std::unique_ptr<Graph>> Device::capture(Stream&, const std::function<Status()>&) {
  return fail(ErrorCode::kUnsupported, "{} has no graphs", chip().name);
}

std::unique_ptr<Timeline> Device::make_timeline() { return std::make_unique<HostTimeline>(); }

}  // namespace trireme
