#include "db/index_budget.h"

#include <gtest/gtest.h>

namespace msadb::db {
namespace {

struct FakeHolder : IndexBudget::Holder {
  bool idle = true;
  int evictions = 0;
  bool TryEvict() override {
    evictions += idle;
    return idle;
  }
};

TEST(IndexBudget, DropsTheLeastRecentlyUsedIdleOnes) {
  IndexBudget budget(100);
  FakeHolder a, b, c;
  for (FakeHolder* holder : {&a, &b, &c}) {
    budget.Touch(holder);
    ASSERT_TRUE(budget.Charge(holder, 30).ok());
  }
  budget.Touch(&a);
  b.idle = false;
  FakeHolder d;
  ASSERT_TRUE(budget.Charge(&d, 40).ok());
  EXPECT_EQ(a.evictions + b.evictions, 0);
  EXPECT_EQ(c.evictions, 1);
  EXPECT_EQ(budget.bytes_used(), 100u);
  EXPECT_EQ(budget.BytesOf(&c), 0u);
  // Nothing idle is left but a: not enough, and d itself is never dropped for d.
  EXPECT_EQ(budget.Charge(&d, 40).code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(d.evictions, 0);
  EXPECT_EQ(budget.BytesOf(&d), 40u);
  EXPECT_EQ(budget.Charge(&d, SIZE_MAX).code(), StatusCode::kResourceExhausted);
  budget.Set(&d, 10);
  EXPECT_EQ(budget.bytes_used(), 40u);
  budget.Remove(&d);
  budget.Remove(&d);
  EXPECT_EQ(budget.bytes_used(), 30u);
}

}  // namespace
}  // namespace msadb::db
