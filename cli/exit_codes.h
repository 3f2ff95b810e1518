// What the msadb program returns to the shell. Documented in `msadb --help` and docs/embedding.md;
// scripts rely on the numbers: never renumber.
#ifndef MSADB_CLI_EXIT_CODES_H_
#define MSADB_CLI_EXIT_CODES_H_

#include "msadb/status.h"

namespace msadb::cli {

enum ExitCode : int {
  kExitOk = 0,
  kExitNotFound = 1,     // no such document, key, collection, database or file
  kExitUsage = 2,        // the command line or the input is wrong
  kExitState = 3,        // taken, in conflict, read-only, or made with another model
  kExitCorruption = 4,   // damaged bytes; also `verify` that found problems
  kExitResources = 5,    // input/output error, disk or memory used up
  kExitUnavailable = 6,  // another process has the database open: try again
  kExitDeadline = 7,     // --deadline passed
  kExitUnsupported = 8,  // this build or format version cannot do it
  kExitInternal = 9,     // a defect in msadb
  kExitCancelled = 130,  // ctrl-C
};

ExitCode ExitCodeOf(StatusCode code);

}  // namespace msadb::cli

#endif  // MSADB_CLI_EXIT_CODES_H_
