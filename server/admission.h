// Who is served next. Calls of the database block, so they run on a fixed number of workers, and
// what waits for one is bounded: a full queue is answered Unavailable at once, instead of by a
// timeout later.
//
// There are two lanes with workers of their own, so that looking up a document never waits behind
// answers being generated. In each lane the collections take turns: one with a thousand questions
// waiting delays another's first question by one turn, not by a thousand. Questions that run at the
// same time share the model's passes; that happens below Collection::Ask, so here they simply run
// on several workers.
//
// Nothing here throws. Every method may be called from any thread.
#ifndef MSADB_SERVER_ADMISSION_H_
#define MSADB_SERVER_ADMISSION_H_

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "msadb/status.h"

namespace msadb::server {

enum class Lane : uint8_t {
  kStorage,  // get, list, delete, statistics: no model
  kModel,    // insert, search, ask
};
inline constexpr size_t kLanes = 2;

struct AdmissionOptions {
  std::array<size_t, kLanes> workers = {4, 8};             // 1..256 each
  std::array<size_t, kLanes> queued_max = {1024, 256};     // waiting, of all collections together
  size_t queued_per_collection_max = 128;
  // Of one collection's calls, this share of a lane's workers at most run at a time (at least one),
  // so that a worker is free soon for a collection that comes later.
  double running_per_collection_share = 0.75;
};

struct Job {
  std::string collection;  // whose turn it counts against; empty: the server's own
  Lane lane = Lane::kStorage;
  // When it makes no sense any more to begin. A running job has to watch the clock itself.
  std::optional<std::chrono::steady_clock::time_point> deadline;
  // request_stop() by the caller (its client is gone) or by Drain. A job that waits is then
  // dropped; a running one has to watch the token itself (AskOptions::stop).
  std::stop_source stop;
  // Called exactly once if Submit returned OK: with OK on a worker, to do the work; or with
  // DeadlineExceeded, Cancelled or Unavailable because the work will not be done. Must not throw.
  std::function<void(const Status& admitted)> run;
};

struct AdmissionStats {
  std::array<size_t, kLanes> queued{};
  std::array<size_t, kLanes> running{};
  uint64_t refused = 0;  // Submits answered Unavailable
  uint64_t dropped = 0;  // waiting jobs whose deadline passed or that were cancelled
};

class Admission {
 public:
  explicit Admission(const AdmissionOptions& options);
  // Drains without patience.
  ~Admission();
  Admission(const Admission&) = delete;
  Admission& operator=(const Admission&) = delete;

  // Never blocks. Unavailable: the queue is full, or the server is stopping; `job.run` is then
  // never called.
  Status Submit(Job job);

  // From now on Submit refuses. Waits until every job has run, at most `patience`; then asks those
  // left to stop and waits for them. True when none had to be asked. Repeating it is harmless.
  bool Drain(std::chrono::milliseconds patience);
  bool draining() const { return draining_.load(); }

  AdmissionStats stats() const;

 private:
  struct CollectionQueue {
    std::deque<Job> waiting;
    size_t running = 0;
    bool in_turn = false;  // its name is in Queue::turns
  };
  struct Queue {
    std::unordered_map<std::string, CollectionQueue> collections;  // none without work
    std::deque<std::string> turns;  // collections with work that may start, in order
    size_t queued = 0;
    size_t running = 0;
    size_t running_per_collection_max = 1;
    std::condition_variable work;
  };

  void Work(size_t lane);
  void Reap();
  // With the lock held: puts the collection in line if it has work that may start.
  void OfferTurn(Queue& queue, const std::string& name, CollectionQueue& collection);
  std::vector<std::pair<Job, Status>> TakeHopeless(std::chrono::steady_clock::time_point now);

  const AdmissionOptions options_;
  mutable std::mutex mutex_;  // guards everything below; never held while a job runs
  std::array<Queue, kLanes> queues_;
  std::list<std::stop_source> running_stops_;
  std::condition_variable idle_;    // a job ended
  std::condition_variable reaper_;  // stopping
  uint64_t refused_ = 0;
  uint64_t dropped_ = 0;
  bool stopped_ = false;
  bool abandon_ = false;  // patience is over: jobs taken from a queue are not begun
  std::atomic<bool> draining_{false};
  std::vector<std::thread> threads_;
};

}  // namespace msadb::server

#endif  // MSADB_SERVER_ADMISSION_H_
