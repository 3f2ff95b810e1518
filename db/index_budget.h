// Options::index_bytes_max: how much memory the loaded indexes of all collections may take
// together. When one needs room, the least recently used idle others are dropped; their storage
// rebuilds them at the next use.
#ifndef MSADB_DB_INDEX_BUDGET_H_
#define MSADB_DB_INDEX_BUDGET_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>

#include "msadb/status.h"

namespace msadb::db {

class IndexBudget {
 public:
  // A collection as the budget sees it. Removed from the budget before it is destroyed.
  class Holder {
   public:
    virtual ~Holder() = default;
    // Drops the index unless somebody uses it. Never waits. Called with the budget locked.
    virtual bool TryEvict() = 0;

   private:
    friend class IndexBudget;
    std::atomic<uint64_t> last_used_{0};
  };

  explicit IndexBudget(size_t bytes_max) : bytes_max_(bytes_max) {}

  // Adds `bytes` to what `holder` has, dropping idle indexes of others if need be.
  // ResourceExhausted when that is not enough; nothing is charged then (though others may have been
  // dropped).
  Status Charge(Holder* holder, size_t bytes);
  // Corrects what `holder` has to the measured size. 0 removes it.
  void Set(Holder* holder, size_t bytes);
  void Remove(Holder* holder) { Set(holder, 0); }
  // Marks it as used just now.
  void Touch(Holder* holder) {
    holder->last_used_.store(clock_.fetch_add(1, std::memory_order_relaxed) + 1,
                             std::memory_order_relaxed);
  }

  size_t bytes_used() const;
  size_t BytesOf(Holder* holder) const;

 private:
  const size_t bytes_max_;
  std::atomic<uint64_t> clock_{0};
  mutable std::mutex mutex_;
  std::map<Holder*, size_t> holders_;
  size_t bytes_used_ = 0;
};

}  // namespace msadb::db

#endif  // MSADB_DB_INDEX_BUDGET_H_
