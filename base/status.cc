#include "msadb/status.h"

#include <new>

namespace msadb {
namespace {

std::unique_ptr<const std::string> TryCopy(std::string_view text) noexcept try {
  return std::make_unique<const std::string>(text);
} catch (const std::bad_alloc&) {
  return nullptr;
}

}  // namespace

const char* StatusCodeName(StatusCode code) {
  switch (code) {
    case StatusCode::kOk: return "OK";
    case StatusCode::kNotFound: return "NotFound";
    case StatusCode::kInvalidArgument: return "InvalidArgument";
    case StatusCode::kAlreadyExists: return "AlreadyExists";
    case StatusCode::kCorruption: return "Corruption";
    case StatusCode::kIOError: return "IOError";
    case StatusCode::kResourceExhausted: return "ResourceExhausted";
    case StatusCode::kUnavailable: return "Unavailable";
    case StatusCode::kConflict: return "Conflict";
    case StatusCode::kCancelled: return "Cancelled";
    case StatusCode::kDeadlineExceeded: return "DeadlineExceeded";
    case StatusCode::kUnsupported: return "Unsupported";
    case StatusCode::kFailedPrecondition: return "FailedPrecondition";
    case StatusCode::kInternal: return "Internal";
    case StatusCode::kPermissionDenied: return "PermissionDenied";
  }
  return "Unknown";
}

Status::Status(StatusCode code, std::string_view message) noexcept
    : code_(code), message_(code == StatusCode::kOk ? nullptr : TryCopy(message)) {}

Status::Status(const Status& other) noexcept
    : code_(other.code_), message_(other.message_ ? TryCopy(*other.message_) : nullptr) {}

Status& Status::operator=(const Status& other) noexcept {
  if (this != &other) *this = Status(other);
  return *this;
}

std::string_view Status::message() const {
  if (ok()) return {};
  return message_ ? std::string_view(*message_)
                  : std::string_view("there was no memory for the message");
}

std::string Status::ToString() const {
  if (ok()) return "OK";
  return std::string(StatusCodeName(code())) + ": " + std::string(message());
}

Status Status::WithContext(std::string_view context) const noexcept try {
  if (ok()) return *this;
  return Status(code(), std::string(context) + ": " + std::string(message()));
} catch (const std::bad_alloc&) {
  return *this;
}

}  // namespace msadb
