#include "server/admission.h"

#include <algorithm>
#include <utility>

namespace msadb::server {
namespace {

using Clock = std::chrono::steady_clock;

// How late a waiting job may notice that its deadline passed or its client went away.
constexpr std::chrono::milliseconds kReapInterval{50};

}  // namespace

Admission::Admission(const AdmissionOptions& options) : options_(options) {
  for (size_t lane = 0; lane < kLanes; ++lane) {
    const size_t workers = std::clamp<size_t>(options.workers[lane], 1, 256);
    queues_[lane].running_per_collection_max = std::max<size_t>(
        1, static_cast<size_t>(static_cast<double>(workers) * options.running_per_collection_share));
    for (size_t i = 0; i < workers; ++i) threads_.emplace_back([this, lane] { Work(lane); });
  }
  threads_.emplace_back([this] { Reap(); });
}

Admission::~Admission() {
  Drain(std::chrono::milliseconds(0));
  {
    std::lock_guard lock(mutex_);
    stopped_ = true;
    for (Queue& queue : queues_) queue.work.notify_all();
    reaper_.notify_all();
  }
  for (std::thread& thread : threads_) thread.join();
}

Status Admission::Submit(Job job) {
  std::lock_guard lock(mutex_);
  Queue& queue = queues_[static_cast<size_t>(job.lane)];
  if (draining_) {
    ++refused_;
    return Status::Unavailable("the server is stopping");
  }
  const auto known = queue.collections.find(job.collection);
  const size_t waiting = known == queue.collections.end() ? 0 : known->second.waiting.size();
  if (queue.queued >= options_.queued_max[static_cast<size_t>(job.lane)] ||
      waiting >= options_.queued_per_collection_max) {
    ++refused_;
    return Status::Unavailable("too many calls are waiting; try again later");
  }
  const std::string name = job.collection;
  CollectionQueue& collection = queue.collections[name];
  collection.waiting.push_back(std::move(job));
  ++queue.queued;
  OfferTurn(queue, name, collection);
  return Status::Ok();
}

void Admission::OfferTurn(Queue& queue, const std::string& name, CollectionQueue& collection) {
  if (collection.in_turn || collection.waiting.empty() ||
      collection.running >= queue.running_per_collection_max) {
    return;
  }
  collection.in_turn = true;
  queue.turns.push_back(name);
  queue.work.notify_one();
}

void Admission::Work(size_t lane) {
  Queue& queue = queues_[lane];
  std::unique_lock lock(mutex_);
  while (true) {
    queue.work.wait(lock, [&] { return stopped_ || !queue.turns.empty(); });
    if (queue.turns.empty()) return;
    const std::string name = std::move(queue.turns.front());
    queue.turns.pop_front();
    CollectionQueue& collection = queue.collections.at(name);
    collection.in_turn = false;
    // The reaper may have taken what was waiting here.
    if (!collection.waiting.empty()) {
      Job job = std::move(collection.waiting.front());
      collection.waiting.pop_front();
      --queue.queued;
      ++collection.running;
      ++queue.running;
      OfferTurn(queue, name, collection);
      const auto stop = running_stops_.insert(running_stops_.end(), job.stop);
      Status admitted;
      if (abandon_) {
        admitted = Status::Unavailable("the server is stopping");
      } else if (job.stop.stop_requested()) {
        admitted = Status::Cancelled("the caller went away");
      } else if (job.deadline && Clock::now() >= *job.deadline) {
        admitted = Status::DeadlineExceeded("the deadline passed while the call was waiting");
      }
      if (!admitted.ok()) ++dropped_;

      lock.unlock();
      job.run(admitted);
      job.run = nullptr;  // what it holds may take long to destroy: not under the lock
      lock.lock();

      running_stops_.erase(stop);
      --queue.running;
      --queue.collections.at(name).running;
    }
    CollectionQueue& left = queue.collections.at(name);
    OfferTurn(queue, name, left);
    if (left.waiting.empty() && left.running == 0 && !left.in_turn) queue.collections.erase(name);
    idle_.notify_all();
  }
}

std::vector<std::pair<Job, Status>> Admission::TakeHopeless(Clock::time_point now) {
  std::vector<std::pair<Job, Status>> hopeless;
  for (Queue& queue : queues_) {
    for (auto& [name, collection] : queue.collections) {
      std::deque<Job> rest;
      for (Job& job : collection.waiting) {
        if (job.stop.stop_requested()) {
          hopeless.emplace_back(std::move(job), Status::Cancelled("the caller went away"));
        } else if (job.deadline && now >= *job.deadline) {
          hopeless.emplace_back(
              std::move(job),
              Status::DeadlineExceeded("the deadline passed while the call was waiting"));
        } else {
          rest.push_back(std::move(job));
        }
      }
      queue.queued -= collection.waiting.size() - rest.size();
      collection.waiting = std::move(rest);
    }
    // A collection left without work goes when a worker takes its turn, or here if none will.
    std::erase_if(queue.collections, [](const auto& item) {
      const CollectionQueue& collection = item.second;
      return collection.waiting.empty() && collection.running == 0 && !collection.in_turn;
    });
  }
  dropped_ += hopeless.size();
  return hopeless;
}

void Admission::Reap() {
  std::unique_lock lock(mutex_);
  while (!stopped_) {
    if (queues_[0].queued + queues_[1].queued > 0) {
      auto hopeless = TakeHopeless(Clock::now());
      lock.unlock();
      for (auto& [job, status] : hopeless) job.run(status);
      hopeless.clear();
      lock.lock();
      idle_.notify_all();
    }
    reaper_.wait_for(lock, kReapInterval, [this] { return stopped_; });
  }
}

bool Admission::Drain(std::chrono::milliseconds patience) {
  std::unique_lock lock(mutex_);
  draining_ = true;
  const auto nothing_left = [this] {
    for (const Queue& queue : queues_) {
      if (queue.queued + queue.running > 0) return false;
    }
    return true;
  };
  if (idle_.wait_for(lock, patience, nothing_left)) return true;
  abandon_ = true;
  const std::vector<std::stop_source> stops(running_stops_.begin(), running_stops_.end());
  lock.unlock();
  // Outside the lock: a stop callback of the caller may do anything.
  for (std::stop_source stop : stops) stop.request_stop();
  lock.lock();
  idle_.wait(lock, nothing_left);
  return false;
}

AdmissionStats Admission::stats() const {
  std::lock_guard lock(mutex_);
  AdmissionStats stats{.refused = refused_, .dropped = dropped_};
  for (size_t lane = 0; lane < kLanes; ++lane) {
    stats.queued[lane] = queues_[lane].queued;
    stats.running[lane] = queues_[lane].running;
  }
  return stats;
}

}  // namespace msadb::server
