// Reading JSONL into a collection, as `import` and `insert --jsonl` do.
#ifndef MSADB_CLI_IMPORT_LINES_H_
#define MSADB_CLI_IMPORT_LINES_H_

#include <optional>
#include <string>

#include "cli/verb.h"

namespace msadb::cli {

struct ImportLinesOptions {
  bool replace = false;     // what has the same key; else such lines are skipped
  uint64_t skip_lines = 0;  // at the start
  std::optional<std::string> written_by;  // instead of what the lines say
};

// Reads `path` ("-": standard input) into the collection of `args`, shows progress and prints the
// counts. An error after the first batch says how to go on.
Result<int> ImportLines(const DatabaseArgs& args, const std::string& path,
                        const ImportLinesOptions& options, Printer& out);

}  // namespace msadb::cli

#endif  // MSADB_CLI_IMPORT_LINES_H_
