// Frames: how messages are cut out of a stream of bytes. docs/wire-protocol.md, "Frames".
//
// A connection begins with kPrefaceBytes from the client; after that both directions are frames:
//   bytes 0..3   size of the payload, little endian
//   bytes 4..5   flags: bit 0 set in the last message of a reply and in every request; others zero
//   bytes 6..7   zero
//   bytes 8..15  number of the request, little endian
//   then the payload, one FlatBuffers message
// One thread at a time per FrameReader.
#ifndef MSADB_CLIENT_FRAME_H_
#define MSADB_CLIENT_FRAME_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "msadb/status.h"

namespace msadb::wire {

inline constexpr uint16_t kProtocolVersion = 1;
inline constexpr size_t kPrefaceBytes = 8;
inline constexpr size_t kHeaderBytes = 16;
// A Hello is never larger; nobody sends more before the server knows who it is.
inline constexpr size_t kHelloBytesMax = 4096;

// "MSADB\n" and the version, little endian. The line feed tells a text protocol from ours.
std::array<uint8_t, kPrefaceBytes> Preface(uint16_t version = kProtocolVersion);
// The version. InvalidArgument: it is no preface.
Result<uint16_t> ParsePreface(std::span<const uint8_t, kPrefaceBytes> bytes);

struct FrameHeader {
  uint32_t payload_bytes = 0;
  bool last = true;
  uint64_t request = 0;
};

struct Frame {
  uint64_t request = 0;
  bool last = true;
  bool refused = false;          // FrameReader's `admit` said no; the payload was thrown away
  std::vector<uint8_t> payload;  // aligned as FlatBuffers needs it
};

// Header and payload, ready to be sent.
std::string EncodeFrame(uint64_t request, bool last, std::span<const uint8_t> payload);

// Finds frames in bytes that arrive in pieces of any size. Allocates as bytes arrive, never by what
// a header promises.
class FrameReader {
 public:
  explicit FrameReader(size_t payload_bytes_max) : payload_bytes_max_(payload_bytes_max) {}

  void set_payload_bytes_max(size_t bytes) { payload_bytes_max_ = bytes; }
  // Asked once for every header. False: the payload is skipped and the frame comes `refused`.
  void set_admit(std::function<bool(const FrameHeader&)> admit) { admit_ = std::move(admit); }

  // Takes bytes from the front of `bytes` up to the end of at most one frame, and removes them.
  // True: `*frame` is complete; call again, more may follow. False: all bytes were taken.
  // InvalidArgument: this is not our protocol or a limit was exceeded; nothing after it can be
  // read.
  Result<bool> Next(std::span<const uint8_t>* bytes, Frame* frame);

  // A frame has begun and is not complete.
  bool in_frame() const { return header_filled_ > 0; }
  // Of the frame begun, 0 until its header is complete.
  uint32_t frame_payload_bytes() const { return in_payload_ ? header_.payload_bytes : 0; }

 private:
  Status ParseHeader();

  size_t payload_bytes_max_;
  std::function<bool(const FrameHeader&)> admit_;
  std::array<uint8_t, kHeaderBytes> header_bytes_{};
  size_t header_filled_ = 0;
  bool in_payload_ = false;
  bool refused_ = false;
  FrameHeader header_;
  size_t payload_taken_ = 0;
  std::vector<uint8_t> payload_;
};

}  // namespace msadb::wire

#endif  // MSADB_CLIENT_FRAME_H_
