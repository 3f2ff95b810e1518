#include "db/index_budget.h"

#include <set>
#include <string>

namespace msadb::db {

Status IndexBudget::Charge(Holder* holder, size_t bytes) {
  std::lock_guard lock(mutex_);
  std::set<Holder*> tried = {holder};
  while (bytes > bytes_max_ || bytes_used_ > bytes_max_ - bytes) {
    Holder* oldest = nullptr;
    for (const auto& [other, size] : holders_) {
      if (!tried.contains(other) && (oldest == nullptr || other->last_used_ < oldest->last_used_)) {
        oldest = other;
      }
    }
    if (oldest == nullptr) {
      return Status::ResourceExhausted(
          "the index needs " + std::to_string(bytes) + " more bytes, but " +
          std::to_string(bytes_used_) +
          " of Options::index_bytes_max = " + std::to_string(bytes_max_) +
          " are in use; raise it, or divide the documents among more collections");
    }
    tried.insert(oldest);
    if (oldest->TryEvict()) {
      bytes_used_ -= holders_[oldest];
      holders_.erase(oldest);
    }
  }
  holders_[holder] += bytes;
  bytes_used_ += bytes;
  return Status::Ok();
}

void IndexBudget::Set(Holder* holder, size_t bytes) {
  std::lock_guard lock(mutex_);
  const auto it = holders_.find(holder);
  if (it == holders_.end()) {
    if (bytes == 0) return;
    holders_.emplace(holder, bytes);
    bytes_used_ += bytes;
    return;
  }
  // A known holder is corrected in place: after a commit this must not need memory.
  bytes_used_ += bytes - it->second;
  it->second = bytes;
  if (bytes == 0) holders_.erase(it);
}

size_t IndexBudget::bytes_used() const {
  std::lock_guard lock(mutex_);
  return bytes_used_;
}

size_t IndexBudget::BytesOf(Holder* holder) const {
  std::lock_guard lock(mutex_);
  const auto it = holders_.find(holder);
  return it == holders_.end() ? 0 : it->second;
}

}  // namespace msadb::db
