// Errors as values. Every public call of msadb returns a Status or a Result<T>; none throws.
//
// A Status is a code plus a message. The code is for programs (it also travels over the wire), the
// message for people: it names what was wrong and says what to do about it.
#ifndef MSADB_STATUS_H_
#define MSADB_STATUS_H_

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace msadb {

// The numeric values are part of the wire format: never renumber, only append.
enum class StatusCode : uint8_t {
  kOk = 0,
  kNotFound = 1,            // the document, key or collection does not exist
  kInvalidArgument = 2,     // the caller's input is wrong; the same call will fail again
  kAlreadyExists = 3,       // the name or key is taken
  kCorruption = 4,          // stored or supplied bytes are damaged; nothing was read from them
  kIOError = 5,             // the operating system refused a read or a write
  kResourceExhausted = 6,   // memory, device memory, disk or a configured limit is used up
  kUnavailable = 7,         // cannot serve now (folder locked, closed, stopped after a failed commit)
  kConflict = 8,            // another transaction changed the same key or document first; retry
  kCancelled = 9,           // the caller cancelled
  kDeadlineExceeded = 10,   // the caller's deadline passed
  kUnsupported = 11,        // this build, model or format version cannot do it
  kFailedPrecondition = 12, // the database is not in the needed state (other model, read-only, ...)
  kInternal = 13,           // a defect in msadb
  kPermissionDenied = 14,   // the credentials do not allow it (remote use)
};

// "NotFound", "InvalidArgument", ...; never null.
const char* StatusCodeName(StatusCode code);

class [[nodiscard]] Status {
 public:
  Status() = default;  // OK
  // Never throws: when there is no memory for the message, the code stays and message() says so.
  Status(StatusCode code, std::string_view message) noexcept;
  Status(const Status& other) noexcept;
  Status& operator=(const Status& other) noexcept;
  Status(Status&& other) noexcept
      : code_(std::exchange(other.code_, StatusCode::kOk)), message_(std::move(other.message_)) {}
  Status& operator=(Status&& other) noexcept {
    message_ = std::move(other.message_);
    code_ = std::exchange(other.code_, StatusCode::kOk);
    return *this;
  }
  ~Status() = default;

  bool ok() const { return code_ == StatusCode::kOk; }
  StatusCode code() const { return code_; }
  // Empty when OK. Valid until this Status is assigned to or destroyed.
  std::string_view message() const;
  // "OK", or "NotFound: no document 17 in collection 'notes'".
  std::string ToString() const;
  // The same code with "context: " put before the message. OK stays OK.
  Status WithContext(std::string_view context) const noexcept;

  static Status Ok() { return Status(); }
  static Status NotFound(std::string_view m) { return {StatusCode::kNotFound, m}; }
  static Status InvalidArgument(std::string_view m) { return {StatusCode::kInvalidArgument, m}; }
  static Status AlreadyExists(std::string_view m) { return {StatusCode::kAlreadyExists, m}; }
  static Status Corruption(std::string_view m) { return {StatusCode::kCorruption, m}; }
  static Status IOError(std::string_view m) { return {StatusCode::kIOError, m}; }
  static Status ResourceExhausted(std::string_view m) {
    return {StatusCode::kResourceExhausted, m};
  }
  static Status Unavailable(std::string_view m) { return {StatusCode::kUnavailable, m}; }
  static Status Conflict(std::string_view m) { return {StatusCode::kConflict, m}; }
  static Status Cancelled(std::string_view m) { return {StatusCode::kCancelled, m}; }
  static Status DeadlineExceeded(std::string_view m) { return {StatusCode::kDeadlineExceeded, m}; }
  static Status Unsupported(std::string_view m) { return {StatusCode::kUnsupported, m}; }
  static Status FailedPrecondition(std::string_view m) {
    return {StatusCode::kFailedPrecondition, m};
  }
  static Status Internal(std::string_view m) { return {StatusCode::kInternal, m}; }
  static Status PermissionDenied(std::string_view m) { return {StatusCode::kPermissionDenied, m}; }

 private:
  StatusCode code_ = StatusCode::kOk;
  std::unique_ptr<const std::string> message_;  // null: OK, or no memory for it
};

// Either a T or a Status that is not OK. Reading the value of a failed Result ends the process:
// check ok() first.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}  // NOLINT: implicit by intent
  Result(Status status) : status_(std::move(status)) {  // NOLINT: implicit by intent
    if (status_.ok()) status_ = Status::Internal("a Result was made from an OK status");
  }
  Result(Result&&) noexcept = default;
  Result& operator=(Result&&) noexcept = default;

  bool ok() const { return value_.has_value(); }
  const Status& status() const { return status_; }

  T& value() & { return Checked(); }
  const T& value() const& { return const_cast<Result*>(this)->Checked(); }
  T&& value() && { return std::move(Checked()); }
  T& operator*() & { return Checked(); }
  const T& operator*() const& { return const_cast<Result*>(this)->Checked(); }
  T&& operator*() && { return std::move(Checked()); }
  T* operator->() { return &Checked(); }
  const T* operator->() const { return &const_cast<Result*>(this)->Checked(); }

 private:
  T& Checked() {
    if (!value_) std::abort();
    return *value_;
  }
  std::optional<T> value_;
  Status status_;
};

}  // namespace msadb

// Returns from the enclosing function when `expr` (a Status) is not OK.
#define MSADB_RETURN_IF_ERROR(expr)                       \
  do {                                                    \
    ::msadb::Status msadb_status_ = (expr);               \
    if (!msadb_status_.ok()) return msadb_status_;        \
  } while (0)

// MSADB_ASSIGN_OR_RETURN(auto x, F()); moves the value of F() into x or returns its Status.
#define MSADB_ASSIGN_OR_RETURN(lhs, expr) \
  MSADB_ASSIGN_OR_RETURN_(MSADB_CONCAT_(msadb_result_, __LINE__), lhs, expr)
#define MSADB_CONCAT_INNER_(a, b) a##b
#define MSADB_CONCAT_(a, b) MSADB_CONCAT_INNER_(a, b)
#define MSADB_ASSIGN_OR_RETURN_(tmp, lhs, expr) \
  auto tmp = (expr);                            \
  if (!tmp.ok()) return tmp.status();           \
  lhs = std::move(tmp).value()

#endif  // MSADB_STATUS_H_
