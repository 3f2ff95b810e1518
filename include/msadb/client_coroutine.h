// The asynchronous client in coroutines: co_await instead of callbacks.
//
//   client::Task<void> Recall(std::shared_ptr<client::AsyncCollection> notes) {
//     auto hits = co_await client::Search(*notes, "spare key");
//     if (hits.ok()) std::cout << (*hits)[0].text;
//   }
//   client::Wait(Recall(notes));
//
// Each function returns an Awaitable, which any coroutine type can await. It resumes on a thread of
// the client: what follows must not block, and blocking calls of the same connection end with
// FailedPrecondition. Arguments must live until the co_await is over, as in any coroutine.
// Needs a compiler with C++20 coroutines (g++ 12, clang 16).
#ifndef MSADB_CLIENT_COROUTINE_H_
#define MSADB_CLIENT_COROUTINE_H_

#include <condition_variable>
#include <coroutine>
#include <exception>
#include <functional>
#include <mutex>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "msadb/client.h"

namespace msadb::client {

// Begins when it is awaited and gives what the callback of `start` gets: Result<T> or Status.
template <typename Outcome>
class [[nodiscard]] Awaitable {
 public:
  using Start = std::function<void(std::function<void(Outcome)>)>;
  explicit Awaitable(Start start) : start_(std::move(start)) {}

  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> waiting) {
    // The coroutine may go on, and this object end, before `start` returns.
    const Start start = std::move(start_);
    start([this, waiting](Outcome outcome) {
      outcome_.emplace(std::move(outcome));
      waiting.resume();
    });
  }
  Outcome await_resume() { return std::move(*outcome_); }

 private:
  Start start_;
  std::optional<Outcome> outcome_;
};

inline Awaitable<Result<Document>> Get(AsyncCollection& collection, DocumentId id) {
  return Awaitable<Result<Document>>(
      [&collection, id](auto done) { collection.Get(id, std::move(done)); });
}
inline Awaitable<Result<Document>> GetByKey(AsyncCollection& collection, std::string_view key) {
  return Awaitable<Result<Document>>(
      [&collection, key](auto done) { collection.GetByKey(key, std::move(done)); });
}
inline Awaitable<Result<DocumentPage>> List(AsyncCollection& collection, ListOptions options = {}) {
  return Awaitable<Result<DocumentPage>>(
      [&collection, options](auto done) { collection.List(options, std::move(done)); });
}
inline Awaitable<Result<uint64_t>> Count(AsyncCollection& collection) {
  return Awaitable<Result<uint64_t>>(
      [&collection](auto done) { collection.Count(std::move(done)); });
}
inline Awaitable<Result<std::vector<SearchHit>>> Search(AsyncCollection& collection,
                                                        std::string_view query,
                                                        SearchOptions options = {}) {
  return Awaitable<Result<std::vector<SearchHit>>>([&collection, query, options](auto done) {
    collection.Search(query, options, std::move(done));
  });
}
inline Awaitable<Result<Answer>> Ask(AsyncCollection& collection, std::string_view question,
                                     AskOptions options = {}) {
  return Awaitable<Result<Answer>>([&collection, question, options](auto done) {
    collection.Ask(question, options, std::move(done));
  });
}
inline Awaitable<Result<DocumentId>> Insert(AsyncCollection& collection,
                                            const NewDocument& document) {
  return Awaitable<Result<DocumentId>>(
      [&collection, &document](auto done) { collection.Insert(document, std::move(done)); });
}
inline Awaitable<Result<DocumentId>> Upsert(AsyncCollection& collection,
                                            const NewDocument& document) {
  return Awaitable<Result<DocumentId>>(
      [&collection, &document](auto done) { collection.Upsert(document, std::move(done)); });
}
inline Awaitable<Status> Delete(AsyncCollection& collection, DocumentId id) {
  return Awaitable<Status>(
      [&collection, id](auto done) { collection.Delete(id, std::move(done)); });
}
inline Awaitable<Status> DeleteByKey(AsyncCollection& collection, std::string_view key) {
  return Awaitable<Status>(
      [&collection, key](auto done) { collection.DeleteByKey(key, std::move(done)); });
}

// A small coroutine type for programs that have none. It begins when awaited or waited for.
template <typename T>
class [[nodiscard]] Task;

namespace internal {

struct TaskPromiseBase {
  std::coroutine_handle<> continuation = std::noop_coroutine();
  std::exception_ptr thrown;

  struct Final {
    bool await_ready() const noexcept { return false; }
    template <typename Promise>
    std::coroutine_handle<> await_suspend(std::coroutine_handle<Promise> ended) const noexcept {
      return ended.promise().continuation;
    }
    void await_resume() const noexcept {}
  };
  std::suspend_always initial_suspend() const noexcept { return {}; }
  Final final_suspend() const noexcept { return {}; }
  void unhandled_exception() { thrown = std::current_exception(); }
};

template <typename T>
struct TaskPromise : TaskPromiseBase {
  std::optional<T> value;
  Task<T> get_return_object();
  template <typename U>
  void return_value(U&& result) {
    value.emplace(std::forward<U>(result));
  }
  T Take() {
    if (thrown) std::rethrow_exception(thrown);
    return std::move(*value);
  }
};

template <>
struct TaskPromise<void> : TaskPromiseBase {
  Task<void> get_return_object();
  void return_void() const noexcept {}
  void Take() const {
    if (thrown) std::rethrow_exception(thrown);
  }
};

}  // namespace internal

template <typename T>
class [[nodiscard]] Task {
 public:
  using promise_type = internal::TaskPromise<T>;

  explicit Task(std::coroutine_handle<promise_type> handle) : handle_(handle) {}
  Task(Task&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Task& operator=(Task&&) = delete;
  ~Task() {
    if (handle_) handle_.destroy();
  }

  bool await_ready() const noexcept { return false; }
  std::coroutine_handle<> await_suspend(std::coroutine_handle<> waiting) {
    handle_.promise().continuation = waiting;
    return handle_;
  }
  T await_resume() { return handle_.promise().Take(); }

 private:
  std::coroutine_handle<promise_type> handle_;
};

namespace internal {

template <typename T>
Task<T> TaskPromise<T>::get_return_object() {
  return Task<T>(std::coroutine_handle<TaskPromise<T>>::from_promise(*this));
}
inline Task<void> TaskPromise<void>::get_return_object() {
  return Task<void>(std::coroutine_handle<TaskPromise<void>>::from_promise(*this));
}

// Awaits a task from outside any coroutine. The waiter, not the coroutine, owns the frame.
struct Waiter {
  struct promise_type {
    std::mutex mutex;
    std::condition_variable over;
    bool done = false;
    Waiter get_return_object() {
      return Waiter{std::coroutine_handle<promise_type>::from_promise(*this)};
    }
    std::suspend_never initial_suspend() const noexcept { return {}; }
    struct Final {
      bool await_ready() const noexcept { return false; }
      void await_suspend(std::coroutine_handle<promise_type> ended) const noexcept {
        std::lock_guard lock(ended.promise().mutex);
        ended.promise().done = true;
        ended.promise().over.notify_one();
      }
      void await_resume() const noexcept {}
    };
    Final final_suspend() const noexcept { return {}; }
    void return_void() const noexcept {}
    void unhandled_exception() const noexcept { std::terminate(); }
  };
  std::coroutine_handle<promise_type> handle;
};

}  // namespace internal

// Runs `task` to its end on this and the client's threads, and waits. Throws what the task threw.
template <typename T>
T Wait(Task<T> task) {
  struct Body {
    // Ends when the task has, whether or not it threw; await_resume tells later.
    struct Ended {
      Task<T>& task;
      bool await_ready() const noexcept { return false; }
      std::coroutine_handle<> await_suspend(std::coroutine_handle<> waiting) {
        return task.await_suspend(waiting);
      }
      void await_resume() const noexcept {}
    };
    static internal::Waiter Run(Task<T>& task) { co_await Ended{task}; }
  };
  const internal::Waiter waiter = Body::Run(task);
  {
    auto& promise = waiter.handle.promise();
    std::unique_lock lock(promise.mutex);
    promise.over.wait(lock, [&] { return promise.done; });
  }
  waiter.handle.destroy();
  return task.await_resume();
}

}  // namespace msadb::client

#endif  // MSADB_CLIENT_COROUTINE_H_
