// Everything the program prints. Results go to stdout, remarks and progress to stderr.
//
// With --json exactly one JSON value goes to stdout, also for an error:
//   {"error": {"code": "NotFound", "message": "no document 17 in collection 'default'"}}
#ifndef MSADB_CLI_PRINTER_H_
#define MSADB_CLI_PRINTER_H_

#include <chrono>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "msadb/status.h"

namespace msadb::cli {

using Json = nlohmann::ordered_json;

class Printer {
 public:
  explicit Printer(bool json) : json_(json) {}

  bool json() const { return json_; }
  // Prints `value`: indented on a terminal, else on one line.
  void Value(const Json& value);
  // Prints to stdout as it is.
  void Text(std::string_view text);
  // Prints a line to stderr, unless --json is given.
  void Remark(std::string_view line);
  void Error(const Status& status);
  // Flushes stdout; false when something did not arrive (a full disk, a closed pipe).
  bool Finish();

 private:
  bool json_;
};

// One line on stderr that shows how far long work has come. Draws nothing when stderr is not a
// terminal or --json is given.
class ProgressBar {
 public:
  ProgressBar(const Printer& printer, std::string label);
  ~ProgressBar();  // erases the line
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  // `total` 0: not known. `tokens` 0: not shown.
  void Update(uint64_t done, uint64_t total, uint64_t tokens = 0);

 private:
  using Clock = std::chrono::steady_clock;
  std::string label_;
  bool enabled_;
  bool drawn_ = false;
  Clock::time_point started_ = Clock::now();
  Clock::time_point last_draw_{};
};

// "1.5 MiB"
std::string HumanBytes(uint64_t bytes);
// `text` on one line, cut at a character boundary to at most `width` bytes; runs of white space and
// control characters become single spaces.
std::string Preview(std::string_view text, size_t width);

}  // namespace msadb::cli

#endif  // MSADB_CLI_PRINTER_H_
