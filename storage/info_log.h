// RocksDB's own log, kept in memory. Not a file: RocksDB 7.8's file logger asserts that its writes
// succeed, so that a full disk would end the host process. Internal to storage.
#ifndef MSADB_STORAGE_INFO_LOG_H_
#define MSADB_STORAGE_INFO_LOG_H_

#include <rocksdb/env.h>

#include <cstdarg>
#include <deque>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

namespace msadb::storage {

// Remembers the newest kLinesMax warnings and errors, each cut to kLineBytesMax.
class InfoLog : public rocksdb::Logger {
 public:
  static constexpr size_t kLinesMax = 256;
  static constexpr size_t kLineBytesMax = 512;

  InfoLog() : Logger(rocksdb::InfoLogLevel::WARN_LEVEL) {}

  using Logger::Logv;
  void Logv(const char* format, va_list arguments) override;
  void Add(std::string_view line);
  std::vector<std::string> Lines() const;

 private:
  mutable std::mutex mutex_;
  std::deque<std::string> lines_;  // guarded by mutex_; oldest first
};

}  // namespace msadb::storage

#endif  // MSADB_STORAGE_INFO_LOG_H_
