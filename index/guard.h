// The one place where exceptions of FAISS, of the allocator and of a GPU become a Status.
#ifndef MSADB_INDEX_GUARD_H_
#define MSADB_INDEX_GUARD_H_

#include <faiss/impl/FaissException.h>

#include <exception>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

#include "index/device_memory.h"
#include "msadb/status.h"

namespace msadb::index {

// Calls `body`, which returns a Status or a Result<T>, and translates what it throws. `doing` says
// what was going on, as in "cannot search the index".
template <typename Body>
auto Guard(const char* doing, Body&& body) noexcept -> decltype(body()) {
  const auto out_of_memory = [doing] {
    return Status::ResourceExhausted(std::string(doing) +
                                     ": out of memory; free memory or close other collections");
  };
  try {
    return std::forward<Body>(body)();
  } catch (const std::bad_alloc&) {
    return out_of_memory();
  } catch (const std::length_error&) {  // a container asked for more than the address space
    return out_of_memory();
  } catch (const internal::DeviceFailure& e) {
    return Status(e.status().code(), std::string(doing) + ": " + std::string(e.status().message()));
  } catch (const faiss::FaissException& e) {
    return Status::Internal(std::string(doing) + ": FAISS: " + e.what());
  } catch (const std::exception& e) {
    return Status::Internal(std::string(doing) + ": " + e.what());
  }
}

}  // namespace msadb::index

#endif  // MSADB_INDEX_GUARD_H_
