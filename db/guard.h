// No exception leaves the public API: whatever a callback, an allocation or a library throws
// becomes a Status here.
#ifndef MSADB_DB_GUARD_H_
#define MSADB_DB_GUARD_H_

#include <exception>
#include <new>
#include <system_error>
#include <type_traits>
#include <utility>

#include "msadb/status.h"

namespace msadb::db {

// Calls fn(), which returns Status or Result<T>.
template <typename Fn>
std::invoke_result_t<Fn> Guard(Fn&& fn) {
  try {
    return std::forward<Fn>(fn)();
  } catch (const std::bad_alloc&) {
    return Status::ResourceExhausted(
        "out of memory; lower Options::index_bytes_max or block_cache_bytes, or use smaller "
        "batches");
  } catch (const std::system_error& e) {
    if (e.code() == std::errc::resource_unavailable_try_again) {
      return Status::ResourceExhausted(
          "a thread could not be started; free memory, or raise the limit on processes");
    }
    return Status::Internal(e.what()).WithContext("unexpected exception");
  } catch (const std::exception& e) {
    return Status::Internal(e.what()).WithContext("unexpected exception");
  } catch (...) {
    return Status::Internal("unexpected exception of an unknown type");
  }
}

}  // namespace msadb::db

#endif  // MSADB_DB_GUARD_H_
