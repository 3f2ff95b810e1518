#include "python/native/ask_stream.h"

#include <string_view>
#include <utility>

namespace msadb::python {

AskStream::AskStream(std::shared_ptr<CollectionReader> memory, std::string question,
                     AskOptions options, std::stop_token cancel)
    : forward_(std::move(cancel), [stop = stop_]() mutable { stop.request_stop(); }) {
  options.stop = stop_.get_token();
  options.on_text = [this](std::string_view piece) {
    {
      std::lock_guard lock(mutex_);
      pieces_.emplace_back(piece);
    }
    changed_.notify_one();
    return true;
  };
  thread_ = std::thread([this, memory = std::move(memory), question = std::move(question),
                         options = std::move(options)]() mutable {
    auto result = memory->Ask(question, options);
    // This may close the database; whoever waits for the end must find it closed.
    memory.reset();
    {
      std::lock_guard lock(mutex_);
      result_ = std::move(result);
    }
    changed_.notify_one();
  });
}

AskStream::~AskStream() {
  Cancel();
  thread_.join();
}

AskStream::Event AskStream::Next(std::chrono::milliseconds wait_max) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, wait_max, [&] { return !pieces_.empty() || result_.has_value(); });
  Event event;
  if (!pieces_.empty()) {
    event.piece = std::move(pieces_.front());
    pieces_.pop_front();
  } else if (result_) {
    event.ended = true;
  } else {
    event.waited = true;
  }
  return event;
}

const Result<Answer>* AskStream::result() {
  std::lock_guard lock(mutex_);
  return result_ && pieces_.empty() ? &*result_ : nullptr;
}

}  // namespace msadb::python
