// What the server counts, and the text that Prometheus reads. Holds no name of a collection, token
// or document. Every method may be called from any thread.
#ifndef MSADB_SERVER_METRICS_H_
#define MSADB_SERVER_METRICS_H_

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>

#include "msadb/database.h"
#include "server/admission.h"
#include "server/wire_server.h"

namespace msadb::server {

class Metrics {
 public:
  void CountRequest(std::string_view route, unsigned status,
                    std::chrono::steady_clock::duration took);
  void CountBytes(uint64_t received, uint64_t sent);

  std::atomic<int64_t> connections{0};
  std::atomic<uint64_t> connections_accepted{0};
  std::atomic<uint64_t> connections_refused{0};  // over the limit
  std::atomic<uint64_t> connections_timed_out{0};
  std::atomic<uint64_t> tokens_refused{0};

  // The exposition format 0.0.4. `wire`: of the binary port; null when there is none.
  std::string Text(const AdmissionStats& admission, const DatabaseStats& database,
                   const WireStats* wire = nullptr) const;

 private:
  static constexpr std::array<double, 14> kSeconds = {
      0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60};
  struct Histogram {
    std::array<uint64_t, kSeconds.size() + 1> counts{};
    double seconds = 0;
  };
  std::atomic<uint64_t> bytes_received_{0};
  std::atomic<uint64_t> bytes_sent_{0};
  mutable std::mutex mutex_;  // guards what follows
  std::map<std::pair<std::string, unsigned>, uint64_t, std::less<>> requests_;
  std::map<std::string, Histogram, std::less<>> durations_;
};

}  // namespace msadb::server

#endif  // MSADB_SERVER_METRICS_H_
