#include <chrono>
#include <cstdio>

#include "msadb/transfer.h"

namespace msadb {
namespace {

constexpr char kExpected[] =
    "a time must look like 2026-11-22T10:00:00Z or 2026-11-22T10:00:00.123456Z (UTC)";

// Reads exactly `digits` decimal digits at `text` + *at.
bool ReadNumber(std::string_view text, size_t* at, int digits, int* value) {
  *value = 0;
  for (int i = 0; i < digits; ++i, ++*at) {
    if (*at >= text.size() || text[*at] < '0' || text[*at] > '9') return false;
    *value = *value * 10 + (text[*at] - '0');
  }
  return true;
}

bool ReadCharacter(std::string_view text, size_t* at, char c) {
  if (*at >= text.size() || text[*at] != c) return false;
  ++*at;
  return true;
}

// ".123456": up to six digits, as microseconds. Absent: 0.
bool ReadFraction(std::string_view text, size_t* at, int* microseconds) {
  *microseconds = 0;
  if (*at >= text.size() || text[*at] != '.') return true;
  ++*at;
  int scale = 1'000'000;
  const size_t begin = *at;
  while (*at < text.size() && text[*at] >= '0' && text[*at] <= '9') {
    if (*at - begin == 6) return false;
    scale /= 10;
    *microseconds += (text[*at] - '0') * scale;
    ++*at;
  }
  return *at > begin;
}

}  // namespace

std::string FormatTime(TimePoint time) {
  using namespace std::chrono;
  const auto day = floor<days>(time);
  const year_month_day date(day);
  const hh_mm_ss clock(time - day);
  char text[64];
  std::snprintf(
      text, sizeof(text), "%04d-%02u-%02uT%02d:%02d:%02d.%06dZ", static_cast<int>(date.year()),
      static_cast<unsigned>(date.month()), static_cast<unsigned>(date.day()),
      static_cast<int>(clock.hours().count()), static_cast<int>(clock.minutes().count()),
      static_cast<int>(clock.seconds().count()), static_cast<int>(clock.subseconds().count()));
  return text;
}

Result<TimePoint> ParseTime(std::string_view text) {
  using namespace std::chrono;
  size_t at = 0;
  int year_n, month_n, day_n, hour_n, minute_n, second_n, micro_n;
  const bool read = ReadNumber(text, &at, 4, &year_n) && ReadCharacter(text, &at, '-') &&
                    ReadNumber(text, &at, 2, &month_n) && ReadCharacter(text, &at, '-') &&
                    ReadNumber(text, &at, 2, &day_n) && ReadCharacter(text, &at, 'T') &&
                    ReadNumber(text, &at, 2, &hour_n) && ReadCharacter(text, &at, ':') &&
                    ReadNumber(text, &at, 2, &minute_n) && ReadCharacter(text, &at, ':') &&
                    ReadNumber(text, &at, 2, &second_n) && ReadFraction(text, &at, &micro_n) &&
                    ReadCharacter(text, &at, 'Z') && at == text.size();
  if (!read) return Status::InvalidArgument(kExpected);
  const year_month_day date{year(year_n), month(static_cast<unsigned>(month_n)),
                            day(static_cast<unsigned>(day_n))};
  if (!date.ok() || year_n < 1970 || hour_n > 23 || minute_n > 59 || second_n > 59) {
    return Status::InvalidArgument(kExpected);
  }
  return TimePoint(sys_days(date).time_since_epoch() + hours(hour_n) + minutes(minute_n) +
                   seconds(second_n) + microseconds(micro_n));
}

}  // namespace msadb
