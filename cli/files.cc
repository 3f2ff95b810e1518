#include "cli/files.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <system_error>

namespace msadb::cli {

Status InputStream::Open(const std::string& path) {
  if (path == "-") {
    stream_ = &std::cin;
    return Status::Ok();
  }
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) {
    return Status::InvalidArgument("'" + path + "' is a folder; `msadb ingest` reads folders");
  }
  errno = 0;
  file_.open(path, std::ios::binary);
  if (!file_) {
    const std::string message = "cannot read '" + path + "': " + std::strerror(errno);
    return errno == ENOENT ? Status::NotFound(message) : Status::IOError(message);
  }
  stream_ = &file_;
  return Status::Ok();
}

Result<std::string> ReadAll(const std::string& path, size_t bytes_max) {
  InputStream input;
  MSADB_RETURN_IF_ERROR(input.Open(path));
  std::string content;
  char buffer[1 << 16];
  do {
    input.stream().read(buffer, sizeof(buffer));
    content.append(buffer, static_cast<size_t>(input.stream().gcount()));
  } while (input.stream() && content.size() <= bytes_max);
  if (input.stream().bad()) return Status::IOError("reading '" + path + "' failed");
  if (content.size() > bytes_max) {
    return Status::InvalidArgument("'" + path + "' is longer than " + std::to_string(bytes_max) +
                                   " bytes; divide it");
  }
  return content;
}

}  // namespace msadb::cli
