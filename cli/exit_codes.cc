#include "cli/exit_codes.h"

namespace msadb::cli {

ExitCode ExitCodeOf(StatusCode code) {
  switch (code) {
    case StatusCode::kOk:
      return kExitOk;
    case StatusCode::kNotFound:
      return kExitNotFound;
    case StatusCode::kInvalidArgument:
      return kExitUsage;
    case StatusCode::kAlreadyExists:
    case StatusCode::kConflict:
    case StatusCode::kFailedPrecondition:
    case StatusCode::kPermissionDenied:
      return kExitState;
    case StatusCode::kCorruption:
      return kExitCorruption;
    case StatusCode::kIOError:
    case StatusCode::kResourceExhausted:
      return kExitResources;
    case StatusCode::kUnavailable:
      return kExitUnavailable;
    case StatusCode::kDeadlineExceeded:
      return kExitDeadline;
    case StatusCode::kUnsupported:
      return kExitUnsupported;
    case StatusCode::kInternal:
      return kExitInternal;
    case StatusCode::kCancelled:
      return kExitCancelled;
  }
  return kExitInternal;
}

}  // namespace msadb::cli
