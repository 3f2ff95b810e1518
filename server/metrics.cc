#include "server/metrics.h"

#include <cstdio>

namespace msadb::server {
namespace {

std::string Number(double value) {
  char buffer[32];
  std::snprintf(buffer, sizeof(buffer), "%.9g", value);
  return buffer;
}

// One metric without labels.
void Add(std::string* text, const char* name, const char* type, const char* help, double value) {
  *text += std::string("# HELP ") + name + " " + help + "\n# TYPE " + name + " " + type + "\n" +
           name + " " + Number(value) + "\n";
}

}  // namespace

void Metrics::CountRequest(std::string_view route, unsigned status,
                           std::chrono::steady_clock::duration took) {
  const double seconds = std::chrono::duration<double>(took).count();
  std::lock_guard lock(mutex_);
  ++requests_[{std::string(route), status}];
  Histogram& histogram = durations_[std::string(route)];
  size_t bucket = 0;
  while (bucket < kSeconds.size() && seconds > kSeconds[bucket]) ++bucket;
  ++histogram.counts[bucket];
  histogram.seconds += seconds;
}

void Metrics::CountBytes(uint64_t received, uint64_t sent) {
  bytes_received_ += received;
  bytes_sent_ += sent;
}

std::string Metrics::Text(const AdmissionStats& admission, const DatabaseStats& database,
                          const WireStats* wire) const {
  std::string text;
  {
    std::lock_guard lock(mutex_);
    text +=
        "# HELP msadb_http_requests_total Requests answered; code 0: the client left before.\n"
        "# TYPE msadb_http_requests_total counter\n";
    for (const auto& [labels, count] : requests_) {
      text += "msadb_http_requests_total{route=\"" + labels.first + "\",code=\"" +
              std::to_string(labels.second) + "\"} " + std::to_string(count) + "\n";
    }
    text +=
        "# HELP msadb_http_request_seconds From the head of a request to the end of its answer.\n"
        "# TYPE msadb_http_request_seconds histogram\n";
    for (const auto& [route, histogram] : durations_) {
      const std::string label = "{route=\"" + route + "\"";
      uint64_t total = 0;
      for (size_t i = 0; i < histogram.counts.size(); ++i) {
        total += histogram.counts[i];
        const std::string bound = i < kSeconds.size() ? Number(kSeconds[i]) : "+Inf";
        text += "msadb_http_request_seconds_bucket" + label + ",le=\"" + bound + "\"} " +
                std::to_string(total) + "\n";
      }
      text += "msadb_http_request_seconds_sum" + label + "} " + Number(histogram.seconds) + "\n";
      text += "msadb_http_request_seconds_count" + label + "} " + std::to_string(total) + "\n";
    }
  }
  const auto add = [&](const char* name, const char* type, const char* help, auto value) {
    Add(&text, name, type, help, static_cast<double>(value));
  };
  add("msadb_http_connections", "gauge", "Open connections.", connections.load());
  add("msadb_http_connections_total", "counter", "Connections accepted.",
      connections_accepted.load());
  add("msadb_http_connections_refused_total", "counter", "Connections over the limit.",
      connections_refused.load());
  add("msadb_http_connections_timed_out_total", "counter", "Connections cut by a deadline.",
      connections_timed_out.load());
  add("msadb_tokens_refused_total", "counter", "Requests with no token or a wrong one.",
      tokens_refused.load());
  add("msadb_http_received_bytes_total", "counter", "Bodies received.", bytes_received_.load());
  add("msadb_http_sent_bytes_total", "counter", "Bodies sent.", bytes_sent_.load());

  if (wire != nullptr) {
    add("msadb_binary_connections", "gauge", "Open connections of the binary port.",
        wire->connections);
    add("msadb_binary_connections_total", "counter", "Connections accepted.",
        wire->connections_accepted);
    add("msadb_binary_connections_cut_total", "counter",
        "Connections ended for a deadline, a limit, a token or bytes that are no protocol.",
        wire->connections_cut);
    add("msadb_binary_hellos_refused_total", "counter", "Greetings with a wrong token or version.",
        wire->hellos_refused);
    add("msadb_binary_requests_total", "counter", "Requests begun.", wire->requests);
    add("msadb_binary_request_errors_total", "counter", "Requests answered with an error.",
        wire->request_errors);
    add("msadb_binary_requests_active", "gauge", "Requests under way.", wire->requests_active);
    add("msadb_binary_handles", "gauge", "Open transactions and snapshots.", wire->handles);
    add("msadb_binary_reply_bytes", "gauge", "Replies that clients have not taken yet.",
        wire->reply_bytes);
  }

  text +=
      "# HELP msadb_calls_waiting Calls waiting for a worker.\n"
      "# TYPE msadb_calls_waiting gauge\n"
      "msadb_calls_waiting{lane=\"storage\"} " +
      std::to_string(admission.queued[0]) + "\nmsadb_calls_waiting{lane=\"model\"} " +
      std::to_string(admission.queued[1]) +
      "\n# HELP msadb_calls_running Calls on a worker.\n"
      "# TYPE msadb_calls_running gauge\n"
      "msadb_calls_running{lane=\"storage\"} " +
      std::to_string(admission.running[0]) + "\nmsadb_calls_running{lane=\"model\"} " +
      std::to_string(admission.running[1]) + "\n";
  add("msadb_calls_refused_total", "counter", "Calls that met a full queue.", admission.refused);
  add("msadb_calls_dropped_total", "counter", "Calls that waited past their deadline or client.",
      admission.dropped);

  uint64_t documents = 0;
  uint64_t tokens = 0;
  for (const CollectionStats& collection : database.collections) {
    documents += collection.documents;
    tokens += collection.tokens;
  }
  add("msadb_collections", "gauge", "Collections.", database.collections.size());
  add("msadb_documents", "gauge", "Documents of all collections.", documents);
  add("msadb_tokens", "gauge", "Tokens encoded and stored.", tokens);
  add("msadb_disk_bytes", "gauge", "The database folder.", database.disk_bytes);
  add("msadb_index_bytes", "gauge", "Memory of loaded indexes.", database.index_bytes);
  add("msadb_block_cache_bytes", "gauge", "Block cache in use.", database.block_cache_bytes);
  add("msadb_block_cache_hits_total", "counter", "Blocks found in the cache.",
      database.block_cache_hits);
  add("msadb_block_cache_misses_total", "counter", "Blocks read from disk.",
      database.block_cache_misses);
  return text;
}

}  // namespace msadb::server
