#include "db/conflict_tracker.h"

#include <gtest/gtest.h>

namespace msadb::db {
namespace {

TEST(ConflictTracker, RemembersOnlyWhatAnOpenTransactionNeeds) {
  ConflictTracker tracker;
  tracker.Committed({{"before"}, {}});
  EXPECT_EQ(tracker.remembered(), 0u);
  const uint64_t first = tracker.version();
  tracker.TransactionBegan();
  tracker.Committed({{"a"}, {1}});
  const uint64_t second = tracker.version();
  tracker.TransactionBegan();
  tracker.Committed({{"b"}, {2}});
  EXPECT_EQ(tracker.remembered(), 2u);

  EXPECT_FALSE(tracker.Conflicts(first, {{"before", "c"}, {3}}));
  EXPECT_TRUE(tracker.Conflicts(first, {{"a"}, {}}));
  EXPECT_TRUE(tracker.Conflicts(first, {{}, {2}}));
  EXPECT_FALSE(tracker.Conflicts(second, {{"a"}, {1}}));
  EXPECT_TRUE(tracker.Conflicts(second, {{"b"}, {}}));
  EXPECT_FALSE(tracker.Conflicts(tracker.version(), {{"b"}, {2}}));

  tracker.TransactionEnded(first);
  EXPECT_EQ(tracker.remembered(), 1u);
  EXPECT_TRUE(tracker.Conflicts(second, {{"b"}, {}}));
  tracker.TransactionEnded(second);
  EXPECT_EQ(tracker.remembered(), 0u);
}

}  // namespace
}  // namespace msadb::db
