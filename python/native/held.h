// What a Python object holds of msadb, so that close() works while other threads use it: a call
// takes its own reference under the GIL, and the last reference closes.
#ifndef MSADB_PYTHON_HELD_H_
#define MSADB_PYTHON_HELD_H_

#include <pybind11/pybind11.h>

#include <memory>
#include <mutex>
#include <utility>

#include "python/native/convert.h"

namespace msadb::python {

// Runs fn() without the GIL. Nothing in fn may touch Python.
template <typename Fn>
auto Unlocked(Fn&& fn) {
  const py::gil_scoped_release release;
  return std::forward<Fn>(fn)();
}

// Every method needs the GIL.
template <typename T>
class Held {
 public:
  explicit Held(std::shared_ptr<T> object) : object_(std::move(object)) {}
  ~Held() { Close(); }
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;

  // Raises Unavailable when closed. Keep it until the call is done, and drop it without the GIL.
  std::shared_ptr<T> get() const {
    if (!object_) Raise(Status::Unavailable("it is closed; open it again"));
    return object_;
  }
  void Close() {
    if (!object_) return;
    std::shared_ptr<T> object = std::exchange(object_, nullptr);
    Unlocked([&] { object.reset(); });
  }

  // fn(T&) without the GIL.
  template <typename Fn>
  auto Call(Fn&& fn) const {
    std::shared_ptr<T> object = get();
    return Unlocked([&] {
      const std::shared_ptr<T> mine = std::move(object);
      return fn(*mine);
    });
  }

 private:
  std::shared_ptr<T> object_;
};

}  // namespace msadb::python

#endif  // MSADB_PYTHON_HELD_H_
