// Every kind of file operation failing at every place, once or from then on, with EIO or ENOSPC:
// the store says so, keeps answering reads rightly, takes no more writes, and is whole after a
// reopen.
#include <gtest/gtest.h>

#include "../storage/testing.h"
#include "fault_fs.h"
#include "workload.h"

namespace msadb::storage {
namespace {

constexpr int kSteps = 40;

StoreOptions OptionsOver(const std::shared_ptr<FaultFs>& fs) {
  StoreOptions options = SmallOptions();
  options.hooks = HooksOver(fs);
  return options;
}

struct Outcome {
  bool fired = false;
  bool open_failed = false;
  bool step_failed = false;
};

// Lives with `fault`, then reopens without it.
Outcome Live(uint64_t seed, const Fault& fault) {
  Outcome outcome;
  TempFolder folder;
  const auto fs = std::make_shared<FaultFs>();
  Workload workload(seed);
  fs->Arm(fault);
  {
    const auto store = Store::Open(folder / "db", OptionsOver(fs));
    if (!store.ok()) {
      outcome.open_failed = true;
    } else {
      Status status;
      for (int i = 0; i < kSteps && status.ok(); ++i) status = workload.Step(**store);
      outcome.step_failed = !status.ok();
      if (!status.ok()) {
        // What was committed is still there to read; only the fault itself may get in the way.
        if (fault.op != FaultOp::kRead) {
          std::string differences;
          EXPECT_TRUE(workload.Settle(**store, &differences)) << differences;
        }
        // A background job may meet the fault and stop the store at any moment from here on.
        const bool stopped = !(*store)->write_status().ok();
        const Status later = (*store)->CreateCollection("one more").status();
        if (stopped) {
          EXPECT_EQ(later.code(), StatusCode::kUnavailable) << later.ToString();
        }
        if (later.ok()) {
          const auto added = (*store)->FindCollection("one more");
          EXPECT_OK(added);
          const Status dropped = (*store)->DropCollection(added->id);
          // The drop may be what meets the fault; then the store has stopped.
          EXPECT_TRUE(dropped.ok() || !(*store)->write_status().ok()) << dropped.ToString();
        }
      }
    }
  }
  outcome.fired = fs->fired();
  fs->Arm({});
  const auto store = Store::Open(folder / "db", OptionsOver(fs));
  EXPECT_OK(store);
  if (!store.ok()) return outcome;
  // The failed create above may have reached the disk, as any failed commit may.
  const auto added = (*store)->FindCollection("one more");
  if (added.ok()) EXPECT_OK((*store)->DropCollection(added->id));
  std::string differences;
  EXPECT_TRUE(workload.Settle(**store, &differences)) << differences;
  const auto report = (*store)->Verify();
  EXPECT_OK(report);
  if (report.ok()) {
    EXPECT_TRUE(report->ok()) << report->damages[0].what;
  }
  for (int i = 0; i < 5; ++i) EXPECT_OK(workload.Step(**store));
  return outcome;
}

TEST(StorageFaultPoints, NothingAcknowledgedIsLost) {
  const uint64_t seed = TestSeed();
  std::mt19937_64 rng(seed);
  // How many operations of each kind a life without faults has.
  std::array<uint64_t, kFaultOps> counts;
  {
    TempFolder folder;
    const auto fs = std::make_shared<FaultFs>();
    const auto store = Store::Open(folder / "db", OptionsOver(fs));
    ASSERT_OK(store);
    Workload workload(seed);
    for (int i = 0; i < kSteps; ++i) ASSERT_OK(workload.Step(**store));
    counts = fs->counts();
  }
  size_t lives = 0, fired = 0, opens_failed = 0, steps_failed = 0;
  const size_t points = Scaled(4);  // of each kind and mode
  for (size_t op = 0; op < kFaultOps; ++op) {
    for (const bool forever : {false, true}) {
      for (const bool no_space : {false, true}) {
        for (size_t p = 0; p < std::min<size_t>(points, counts[op]); ++p) {
          Fault fault;
          fault.op = static_cast<FaultOp>(op);
          // All of them when there is room for all, else a random one in each stretch.
          const uint64_t begin = counts[op] * p / points, end = counts[op] * (p + 1) / points;
          fault.at = points >= counts[op] ? p + 1 : 1 + begin + rng() % (end - begin);
          fault.forever = forever;
          fault.no_space = no_space;
          SCOPED_TRACE(std::string(FaultOpName(*fault.op)) + " " + std::to_string(fault.at) +
                       (forever ? " forever" : " once") + (no_space ? " ENOSPC" : " EIO") +
                       " seed " + std::to_string(seed));
          const Outcome outcome = Live(seed, fault);
          ++lives;
          fired += outcome.fired;
          opens_failed += outcome.open_failed;
          steps_failed += outcome.step_failed;
          if (::testing::Test::HasFailure()) return;
        }
      }
    }
  }
  std::cout << lives << " lives, " << fired << " faults fired, " << opens_failed
            << " opens failed, " << steps_failed << " steps failed\n";
  EXPECT_GT(fired, lives / 2);
  EXPECT_GT(steps_failed, lives / 5);
}

TEST(StorageFaultPoints, AfterOneFailedSyncWritesStopAndReadsGoOn) {
  TempFolder folder;
  const auto fs = std::make_shared<FaultFs>();
  auto opened = Store::Open(folder / "db", OptionsOver(fs));
  ASSERT_OK(opened);
  std::shared_ptr<Store> store = *opened;
  opened = Status::Cancelled("");
  const CollectionId notes = *store->CreateCollection("notes");
  ASSERT_OK(Insert(*store, notes, 1));
  Fault fault;
  fault.op = FaultOp::kSync;
  fault.at = 1;
  fs->Arm(fault);
  EXPECT_ERROR(Insert(*store, notes, 2), kIOError, "no more writes");
  // The disk is well again, but what the failed sync left is unknown.
  for (int i = 0; i < 3; ++i) {
    EXPECT_ERROR(Insert(*store, notes, 3), kUnavailable, "open it again");
    EXPECT_ERROR(Delete(*store, notes, 1), kUnavailable, "Input/output error");
    EXPECT_ERROR(store->CreateCollection("x"), kUnavailable, "");
    EXPECT_ERROR(store->Purge(), kUnavailable, "");
    EXPECT_ERROR(store->Sync(), kUnavailable, "");
  }
  EXPECT_EQ(store->write_status().code(), StatusCode::kUnavailable);
  EXPECT_EQ(store->ReadPart(notes, 1)->text, MakePart(1, 1).record.text);
  EXPECT_OK(store->TakeSnapshot());
  EXPECT_TRUE(store->Verify()->ok());
  store.reset();
  store = *Store::Open(folder / "db", OptionsOver(fs));
  EXPECT_OK(store->ReadPart(notes, 1));
  EXPECT_OK(Insert(*store, notes, 4));
}

}  // namespace
}  // namespace msadb::storage
