// Reading what the user names: a file, or "-" for standard input.
#ifndef MSADB_CLI_FILES_H_
#define MSADB_CLI_FILES_H_

#include <fstream>
#include <istream>
#include <string>

#include "msadb/status.h"

namespace msadb::cli {

// The whole of `path` ("-": standard input). NotFound, IOError, or InvalidArgument for a folder or
// when it is longer than `bytes_max`.
Result<std::string> ReadAll(const std::string& path, size_t bytes_max);

// A stream over a file or standard input.
class InputStream {
 public:
  Status Open(const std::string& path);  // errors as of ReadAll
  std::istream& stream() { return *stream_; }

 private:
  std::ifstream file_;
  std::istream* stream_ = nullptr;
};

}  // namespace msadb::cli

#endif  // MSADB_CLI_FILES_H_
