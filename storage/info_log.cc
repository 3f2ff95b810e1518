#include "storage/info_log.h"

#include <cstdio>
#include <new>

namespace msadb::storage {

void InfoLog::Logv(const char* format, va_list arguments) {
  char line[kLineBytesMax];
  const int length = std::vsnprintf(line, sizeof(line), format, arguments);
  if (length > 0) Add(line);
}

void InfoLog::Add(std::string_view line) {
  // RocksDB calls from threads where an exception would end the process; a lost line is the lesser
  // evil.
  try {
    const std::lock_guard lock(mutex_);
    if (lines_.size() == kLinesMax) lines_.pop_front();
    lines_.emplace_back(line.substr(0, kLineBytesMax));
  } catch (const std::bad_alloc&) {
  }
}

std::vector<std::string> InfoLog::Lines() const {
  const std::lock_guard lock(mutex_);
  return {lines_.begin(), lines_.end()};
}

}  // namespace msadb::storage
