#include "cli/values.h"

#include <charconv>
#include <cmath>

#include "msadb/transfer.h"

namespace msadb::cli {

Result<std::chrono::milliseconds> ParseDuration(std::string_view text) {
  constexpr double kMillisMax = 100.0 * 366 * 24 * 3600 * 1000;
  const auto bad = [&] {
    return Status::InvalidArgument("'" + std::string(text) +
                                   "' is not a duration; write 250ms, 90s, 15m, 12h, 30d or 2w");
  };
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || !std::isfinite(number) || number < 0) return bad();
  const std::string_view unit(end, static_cast<size_t>(text.data() + text.size() - end));
  double millis = 0;
  if (unit == "ms")
    millis = number;
  else if (unit == "s" || unit.empty())
    millis = number * 1e3;
  else if (unit == "m")
    millis = number * 60e3;
  else if (unit == "h")
    millis = number * 3600e3;
  else if (unit == "d")
    millis = number * 86400e3;
  else if (unit == "w")
    millis = number * 7 * 86400e3;
  else
    return bad();
  if (millis > kMillisMax) return bad();
  return std::chrono::milliseconds(static_cast<int64_t>(millis));
}

Result<TimePoint> ParseExpiry(std::string_view text, TimePoint now) {
  if (auto duration = ParseDuration(text); duration.ok()) return now + *duration;
  std::string time(text);
  if (time.size() == std::string_view("2026-12-31").size()) time += "T00:00:00Z";
  auto parsed = ParseTime(time);
  if (!parsed.ok()) {
    return Status::InvalidArgument("'" + std::string(text) +
                                   "' is neither a duration (90s, 15m, 12h, 30d, 2w) nor a time in "
                                   "UTC (2026-12-31 or 2026-12-31T23:59:59Z)");
  }
  return *parsed;
}

TimePoint Now() {
  return std::chrono::time_point_cast<std::chrono::microseconds>(std::chrono::system_clock::now());
}

}  // namespace msadb::cli
