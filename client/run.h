// Runs a Call over a Channel: waiting for its end, or telling a callback.
#ifndef MSADB_CLIENT_RUN_H_
#define MSADB_CLIENT_RUN_H_

#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <stop_token>
#include <type_traits>
#include <utility>

#include "client/calls.h"

namespace msadb::client {

inline Status StoppedByCaller() { return Status::Cancelled("stopped by the caller"); }

template <typename T>
std::shared_ptr<Exchange> MakeExchange(const Channel& channel, Call<T>* call, Status* refused) {
  const size_t bytes_max = channel.info().frame_bytes_max;
  if (call->payload.size() > bytes_max) {
    *refused = Status::InvalidArgument("the request has " + std::to_string(call->payload.size()) +
                                       " bytes, the server takes at most " +
                                       std::to_string(bytes_max) + "; send less at a time");
    return nullptr;
  }
  // Time left goes over the wire in whole milliseconds, so that none cannot be said there.
  if (call->deadline && *call->deadline <= std::chrono::steady_clock::now()) {
    *refused = Status::DeadlineExceeded("the deadline had passed before the request was sent");
    return nullptr;
  }
  auto exchange = std::make_shared<Exchange>();
  exchange->payload = std::move(call->payload);
  exchange->changes = call->changes;
  exchange->epoch = call->epoch;
  exchange->deadline = call->deadline;
  return exchange;
}

// Reads one message. A value: the call is over, well or not.
template <typename T>
std::optional<Status> TakeFrame(const wire::Frame& frame, Call<T>* call) {
  try {
    const auto reply = wire::VerifyReply(frame.payload);
    if (!reply.ok()) {
      return Status(StatusCode::kCorruption, reply.status().message());
    }
    if (const auto* error = (*reply)->body_as_Error()) return wire::ReadError(*error);
    wire::Decoder decoder(frame.payload.size());
    Status status = call->take(**reply, decoder, &call->value);
    if (!status.ok() || frame.last) return status;
    return std::nullopt;
  } catch (const std::bad_alloc&) {
    return Status::ResourceExhausted("out of memory while reading the server's answer");
  } catch (const std::exception& e) {
    return Status::Internal(std::string("unexpected exception: ") + e.what());
  }
}

template <typename T>
void NoteEpoch(const Exchange& exchange, T* value) {
  if constexpr (std::is_same_v<T, Handle>) value->epoch = exchange.progress.epoch;
}

// Messages on their way from the channel's thread to the one that waits.
struct Inbox {
  std::mutex mutex;
  std::condition_variable arrived;
  std::deque<wire::Frame> frames;
  std::optional<Status> failed;

  void Put(wire::Frame frame) {
    std::lock_guard lock(mutex);
    frames.push_back(std::move(frame));
    arrived.notify_one();
  }
  void Fail(const Status& status) {
    std::lock_guard lock(mutex);
    failed = status;
    arrived.notify_one();
  }
  // Frames first: what arrived before a failure counts.
  std::optional<wire::Frame> Take() {
    std::unique_lock lock(mutex);
    arrived.wait(lock, [&] { return !frames.empty() || failed; });
    if (frames.empty()) return std::nullopt;
    wire::Frame frame = std::move(frames.front());
    frames.pop_front();
    return frame;
  }
};

// Waits for the end of `call`. Messages are read on this thread, so callbacks inside run on it.
// `started` gets the exchange once it is under way, for RequestCancel; may be null.
template <typename T>
Result<T> Run(Channel& channel, Call<T> call, std::stop_token stop = {},
              std::shared_ptr<Exchange>* started = nullptr) {
  if (channel.on_own_thread()) {
    return Status::FailedPrecondition(
        "a blocking call from a callback of the same connection would wait for itself; use the "
        "asynchronous one");
  }
  Status refused;
  const std::shared_ptr<Exchange> exchange = MakeExchange(channel, &call, &refused);
  if (exchange == nullptr) return refused;
  auto inbox = std::make_shared<Inbox>();
  exchange->on_frame = [inbox](wire::Frame frame) { inbox->Put(std::move(frame)); };
  exchange->on_failed = [inbox](const Status& status) { inbox->Fail(status); };
  if (started != nullptr) *started = exchange;
  channel.Start(exchange);
  const std::stop_callback on_stop(stop, [&] { channel.Abort(exchange, StoppedByCaller()); });
  for (;;) {
    const auto frame = inbox->Take();
    if (!frame) return *inbox->failed;
    const std::optional<Status> over = TakeFrame(*frame, &call);
    if (!over) continue;
    if (!frame->last) channel.Abort(exchange, *over);
    if (!over->ok()) return *over;
    NoteEpoch(*exchange, &call.value);
    return std::move(call.value);
  }
}

// Starts `call`; `done` gets its end on the channel's thread.
template <typename T>
void StartCall(const std::shared_ptr<Channel>& channel, Call<T> call,
               std::function<void(Result<T>)> done, std::stop_token stop = {}) {
  struct State {
    Call<T> call;
    std::function<void(Result<T>)> done;
    std::optional<std::stop_callback<std::function<void()>>> on_stop;

    void Finish(Result<T> result) {
      if (!done) return;
      on_stop.reset();
      try {
        std::exchange(done, nullptr)(std::move(result));
      } catch (...) {
        // Documented: nobody is there to take it.
      }
    }
  };
  Status refused;
  const std::shared_ptr<Exchange> exchange = MakeExchange(*channel, &call, &refused);
  if (exchange == nullptr) return done(refused);
  auto state = std::make_shared<State>();
  state->call = std::move(call);
  state->done = std::move(done);
  // The exchange does not own itself: the channel holds it until it ends.
  exchange->on_frame = [state, channel = std::weak_ptr(channel),
                        weak = std::weak_ptr(exchange)](wire::Frame frame) {
    if (!state->done) return;
    const std::optional<Status> over = TakeFrame(frame, &state->call);
    if (!over) return;
    if (!frame.last) {
      const auto open = channel.lock();
      const auto exchange = weak.lock();
      if (open != nullptr && exchange != nullptr) open->Abort(exchange, *over);
    }
    state->Finish(over->ok() ? Result<T>(std::move(state->call.value)) : Result<T>(*over));
  };
  exchange->on_failed = [state](const Status& status) { state->Finish(status); };
  if (stop.stop_possible()) {
    state->on_stop.emplace(stop,
                           [channel = std::weak_ptr(channel), weak = std::weak_ptr(exchange)] {
                             const auto open = channel.lock();
                             const auto exchange = weak.lock();
                             if (open != nullptr && exchange != nullptr)
                               open->Abort(exchange, StoppedByCaller());
                           });
  }
  channel->Start(exchange);
}

}  // namespace msadb::client

#endif  // MSADB_CLIENT_RUN_H_
