// Whether a computing call must give up (CallLimits in model/model.h).
#ifndef MSADB_MODEL_CALL_LIMITS_H_
#define MSADB_MODEL_CALL_LIMITS_H_

#include "model/model.h"
#include "msadb/status.h"

namespace msadb::model {

// Cancelled, DeadlineExceeded or OK. Cheap: called per layer and per token.
inline Status CheckLimits(const CallLimits& limits) {
  if (limits.stop.stop_requested()) return Status::Cancelled("the caller cancelled");
  if (limits.deadline && std::chrono::steady_clock::now() >= *limits.deadline) {
    return Status::DeadlineExceeded("the deadline passed before the work was done");
  }
  return Status::Ok();
}

}  // namespace msadb::model

#endif  // MSADB_MODEL_CALL_LIMITS_H_
