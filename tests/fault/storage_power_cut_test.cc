// Power cuts at random places of a store's life: what is left opens, holds every acknowledged
// synced commit, and is the state after one of the commits.
#include <gtest/gtest.h>

#include "../storage/testing.h"
#include "fault_fs.h"
#include "workload.h"

namespace msadb::storage {
namespace {

StoreOptions OptionsOver(const std::shared_ptr<FaultFs>& fs, CommitDurability durability) {
  StoreOptions options = SmallOptions();
  options.durability = durability;
  options.hooks = HooksOver(fs);
  return options;
}

TEST(StoragePowerCut, SyncedCommitsSurvive) {
  const uint64_t seed = TestSeed();
  std::mt19937_64 rng(seed);
  size_t cuts = 0, cut_while_opening = 0;
  const size_t wanted = Scaled(60);
  while (cuts < wanted) {
    SCOPED_TRACE("seed " + std::to_string(seed) + ", after " + std::to_string(cuts) + " cuts");
    // One folder lives through several cuts.
    TempFolder folder;
    Workload workload(rng());
    for (int life = 0; life < 8 && cuts < wanted; ++life) {
      const auto fs = std::make_shared<FaultFs>();
      fs->CutPowerAt(1 + rng() % (rng() % 3 == 0 ? 40 : 400));
      {
        const auto store = Store::Open(folder / "db", OptionsOver(fs, CommitDurability::kSync));
        if (store.ok()) {
          while (workload.Step(**store).ok()) {
          }
        } else {
          ++cut_while_opening;
        }
      }
      fs->LosePower(rng);
      ++cuts;
      const auto store = Store::Open(folder / "db", OptionsOver(fs, CommitDurability::kSync));
      ASSERT_OK(store);
      std::string differences;
      ASSERT_TRUE(workload.Settle(**store, &differences)) << differences;
      const auto report = (*store)->Verify();
      ASSERT_OK(report);
      ASSERT_TRUE(report->ok()) << report->damages[0].what;
    }
  }
  std::cout << cuts << " power cuts, " << cut_while_opening << " of them while opening\n";
  EXPECT_GT(cut_while_opening, 0u);
}

TEST(StoragePowerCut, BufferedCommitsLeaveAPrefix) {
  const uint64_t seed = TestSeed();
  std::mt19937_64 rng(seed);
  const size_t wanted = Scaled(20);
  size_t lost = 0;
  for (size_t cut = 0; cut < wanted; ++cut) {
    SCOPED_TRACE("seed " + std::to_string(seed) + ", cut " + std::to_string(cut));
    TempFolder folder;
    const uint64_t workload_seed = rng();
    Workload workload(workload_seed);
    const auto fs = std::make_shared<FaultFs>();
    uint64_t synced_steps = 0;
    {
      const auto store = Store::Open(folder / "db", OptionsOver(fs, CommitDurability::kBuffered));
      ASSERT_OK(store);
      fs->CutPowerAt(1 + rng() % 300);
      while (workload.Step(**store).ok()) {
        if (rng() % 10 == 0 && (*store)->Sync().ok()) synced_steps = workload.steps_done();
      }
    }
    fs->LosePower(rng);
    const auto store = Store::Open(folder / "db", OptionsOver(fs, CommitDurability::kBuffered));
    ASSERT_OK(store);
    // Some step at or after the last synced one, and no later than the interrupted one.
    Workload replay(workload_seed);
    while (replay.steps_done() < synced_steps) replay.Skip();
    bool found = Compare(**store, replay.state()).exact();
    while (!found && replay.steps_done() <= workload.steps_done()) {
      replay.Skip();
      found = Compare(**store, replay.state()).exact();
    }
    ASSERT_TRUE(found) << "no state from step " << synced_steps << " to "
                       << workload.steps_done() + 1 << " is what is there";
    lost += replay.steps_done() < workload.steps_done();
    ASSERT_TRUE((*store)->Verify()->ok());
  }
  std::cout << lost << " of " << wanted << " cuts lost unsynced commits\n";
  EXPECT_GT(lost, 0u);  // else the simulation loses nothing, and the test above proves nothing
}

}  // namespace
}  // namespace msadb::storage
