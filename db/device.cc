#include "db/device.h"

#include <algorithm>
#include <charconv>
#include <optional>

namespace msadb::db {
namespace {

constexpr std::string_view kCuda = "cuda:";
constexpr int kGpuMax = 1024;  // far above what a host has; keeps typing errors out

std::optional<int> ParseGpu(std::string_view text) {
  int number = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), number);
  if (parsed.ec != std::errc() || parsed.ptr != text.data() + text.size()) return std::nullopt;
  if (number < 0 || number > kGpuMax) return std::nullopt;
  return number;
}

}  // namespace

std::string DeviceChoice::ForModel() const {
  if (automatic) return "auto";
  return gpus.empty() ? "cpu" : std::string(kCuda) + std::to_string(gpus.front());
}

Result<DeviceChoice> ParseDevice(std::string_view text) {
  DeviceChoice choice;
  if (text == "cpu") return choice;
  if (text == "auto") {
    choice.automatic = true;
    return choice;
  }
  const Status unknown =
      Status::InvalidArgument("unknown device \"" + std::string(text) +
                              "\"; use \"auto\", \"cpu\", \"cuda:N\", or \"cuda:N,M\" for several "
                              "GPUs, each named once");
  if (!text.starts_with(kCuda)) return unknown;
  std::string_view rest = text.substr(kCuda.size());
  for (;;) {
    const size_t comma = rest.find(',');
    const std::optional<int> gpu = ParseGpu(rest.substr(0, comma));
    if (!gpu || std::ranges::find(choice.gpus, *gpu) != choice.gpus.end()) return unknown;
    choice.gpus.push_back(*gpu);
    if (comma == std::string_view::npos) return choice;
    rest.remove_prefix(comma + 1);
  }
}

}  // namespace msadb::db
