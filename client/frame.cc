#include "client/frame.h"

#include <algorithm>
#include <utility>

namespace msadb::wire {
namespace {

constexpr std::string_view kMagic = "MSADB\n";
constexpr uint16_t kFlagLast = 1;

template <typename T>
void Store(T value, uint8_t* out) {
  for (size_t i = 0; i < sizeof(T); ++i) out[i] = static_cast<uint8_t>(value >> (8 * i));
}

template <typename T>
T Load(const uint8_t* bytes) {
  T value = 0;
  for (size_t i = 0; i < sizeof(T); ++i)
    value |= static_cast<T>(static_cast<T>(bytes[i]) << (8 * i));
  return value;
}

}  // namespace

std::array<uint8_t, kPrefaceBytes> Preface(uint16_t version) {
  std::array<uint8_t, kPrefaceBytes> bytes;
  std::copy(kMagic.begin(), kMagic.end(), bytes.begin());
  Store(version, bytes.data() + kMagic.size());
  return bytes;
}

Result<uint16_t> ParsePreface(std::span<const uint8_t, kPrefaceBytes> bytes) {
  if (!std::equal(kMagic.begin(), kMagic.end(), bytes.begin())) {
    return Status::InvalidArgument("not msadb's binary protocol; is this the HTTP port?");
  }
  return Load<uint16_t>(bytes.data() + kMagic.size());
}

std::string EncodeFrame(uint64_t request, bool last, std::span<const uint8_t> payload) {
  uint8_t header[kHeaderBytes] = {};
  Store(static_cast<uint32_t>(payload.size()), header);
  Store(last ? kFlagLast : uint16_t{0}, header + 4);
  Store(request, header + 8);
  std::string frame;
  frame.reserve(kHeaderBytes + payload.size());
  frame.append(reinterpret_cast<const char*>(header), kHeaderBytes);
  frame.append(reinterpret_cast<const char*>(payload.data()), payload.size());
  return frame;
}

Status FrameReader::ParseHeader() {
  const uint8_t* bytes = header_bytes_.data();
  constexpr std::string_view kHttp = "HTTP/";
  if (std::equal(kHttp.begin(), kHttp.end(), bytes)) {
    return Status::InvalidArgument(
        "it answers with HTTP; give the address of its binary port (msadb serve --binary-listen)");
  }
  header_.payload_bytes = Load<uint32_t>(bytes);
  const uint16_t flags = Load<uint16_t>(bytes + 4);
  header_.last = (flags & kFlagLast) != 0;
  header_.request = Load<uint64_t>(bytes + 8);
  if ((flags & ~kFlagLast) != 0 || Load<uint16_t>(bytes + 6) != 0) {
    return Status::InvalidArgument("a frame has flags that this version does not know");
  }
  if (header_.payload_bytes == 0) return Status::InvalidArgument("a frame has no payload");
  if (header_.payload_bytes > payload_bytes_max_) {
    return Status::InvalidArgument("a frame announces " + std::to_string(header_.payload_bytes) +
                                   " bytes, the limit is " + std::to_string(payload_bytes_max_));
  }
  return Status::Ok();
}

Result<bool> FrameReader::Next(std::span<const uint8_t>* bytes, Frame* frame) {
  if (!in_payload_) {
    const size_t n = std::min(bytes->size(), kHeaderBytes - header_filled_);
    std::copy_n(bytes->begin(), n, header_bytes_.begin() + static_cast<ptrdiff_t>(header_filled_));
    header_filled_ += n;
    *bytes = bytes->subspan(n);
    if (header_filled_ < kHeaderBytes) return false;
    MSADB_RETURN_IF_ERROR(ParseHeader());
    refused_ = admit_ && !admit_(header_);
    in_payload_ = true;
    payload_taken_ = 0;
  }
  const size_t n = std::min<size_t>(bytes->size(), header_.payload_bytes - payload_taken_);
  if (!refused_) {
    payload_.insert(payload_.end(), bytes->begin(), bytes->begin() + static_cast<ptrdiff_t>(n));
  }
  payload_taken_ += n;
  *bytes = bytes->subspan(n);
  if (payload_taken_ < header_.payload_bytes) return false;
  frame->request = header_.request;
  frame->last = header_.last;
  frame->refused = refused_;
  frame->payload = std::exchange(payload_, {});
  in_payload_ = false;
  header_filled_ = 0;
  return true;
}

}  // namespace msadb::wire
