// Flipped bits, cut-off and zeroed stretches, exchanged and missing files: never a wrong answer,
// and the damage is found.
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <sstream>

#include "../storage/testing.h"
#include "workload.h"

namespace msadb::storage {
namespace {

namespace stdfs = std::filesystem;

std::string ReadAll(const stdfs::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream content;
  content << in.rdbuf();
  return content.str();
}

void WriteAll(const stdfs::path& path, const std::string& content) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << content;
}

// sst, blob, log, MANIFEST, CURRENT, MSADB, COMMITS; "" for files that hold no data (LOCK,
// IDENTITY, OPTIONS).
std::string KindOf(const stdfs::path& path) {
  const std::string name = path.filename().string();
  if (path.extension() == ".sst" || path.extension() == ".blob" || path.extension() == ".log") {
    return path.extension().string().substr(1);
  }
  if (name.starts_with("MANIFEST")) return "MANIFEST";
  if (name == "CURRENT" || name == "MSADB" || name == "COMMITS") return name;
  return "";
}

struct Damaged {
  std::string what;  // empty: nothing changed
  std::string kind;
  stdfs::path path;
};

Damaged DamageOne(const stdfs::path& folder, std::mt19937_64& rng) {
  std::map<std::string, std::vector<stdfs::path>> by_kind;
  for (const auto& entry : stdfs::recursive_directory_iterator(folder)) {
    const std::string kind = entry.is_regular_file() ? KindOf(entry.path()) : "";
    if (!kind.empty() && entry.file_size() > 0) by_kind[kind].push_back(entry.path());
  }
  // Kinds alike, or the many table files would be all that is tried.
  auto chosen = by_kind.begin();
  std::advance(chosen, rng() % by_kind.size());
  auto& [kind, paths] = *chosen;
  std::sort(paths.begin(), paths.end());
  const stdfs::path path = paths[rng() % paths.size()];
  const std::string name = path.filename().string();
  std::string content = ReadAll(path);
  const std::string original = content;
  const size_t at = rng() % content.size();
  Damaged damaged;
  damaged.kind = kind;
  damaged.path = path;
  switch (rng() % 6) {
    case 0:
    case 1: {
      const int bit = static_cast<int>(rng() % 8);
      content[at] ^= static_cast<char>(1 << bit);
      damaged.what = name + ": bit " + std::to_string(bit) + " of byte " + std::to_string(at);
      break;
    }
    case 2:
      content.resize(at);
      damaged.what = name + ": cut off at " + std::to_string(at);
      break;
    case 3: {
      const size_t length = std::min<size_t>(content.size() - at, 1 + rng() % 4096);
      std::fill_n(content.begin() + static_cast<ptrdiff_t>(at), length, '\0');
      damaged.what = name + ": " + std::to_string(length) + " zeros at " + std::to_string(at);
      break;
    }
    case 4: {
      const stdfs::path other = paths[rng() % paths.size()];
      content = ReadAll(other);
      WriteAll(other, original);
      damaged.what = name + " and " + other.filename().string() + " exchanged";
      break;
    }
    case 5:
      stdfs::remove(path);
      damaged.what = name + " removed";
      return damaged;
  }
  if (content == original) {
    damaged.what.clear();
  } else {
    WriteAll(path, content);
  }
  return damaged;
}

TEST(StorageDamage, NeverAWrongAnswer) {
  const uint64_t seed = TestSeed();
  std::mt19937_64 rng(seed);
  const size_t wanted = Scaled(300);
  struct Tally {
    size_t refused = 0, verified = 0, harmless = 0;
  };
  std::map<std::string, Tally> tallies;
  size_t done = 0;
  while (done < wanted) {
    // A life that leaves files of every kind: tables, blobs, and a log with its newest commits.
    TempFolder folder;
    Workload workload(rng());
    {
      const auto store = Store::Open(folder / "db", SmallOptions());
      ASSERT_OK(store);
      for (int i = 0; i < 30; ++i) ASSERT_OK(workload.Step(**store));
      ASSERT_OK((*store)->Verify());
      for (int i = 0; i < 12; ++i) ASSERT_OK(workload.Step(**store));
    }
    for (int copy = 0; copy < 40 && done < wanted; ++copy) {
      const std::string victim = folder / ("copy" + std::to_string(copy));
      stdfs::copy(folder / "db", victim, stdfs::copy_options::recursive);
      const Damaged damaged = DamageOne(victim, rng);
      if (damaged.what.empty()) continue;
      ++done;
      SCOPED_TRACE("seed " + std::to_string(seed) + ": " + damaged.what);
      Tally& tally = tallies[damaged.kind];
      auto store = Store::Open(victim, SmallOptions());
      if (!store.ok()) {
        // Named for what it is; a damaged version number may look like a newer format.
        EXPECT_TRUE(store.status().code() == StatusCode::kCorruption ||
                    (damaged.kind == "MSADB" && store.status().code() == StatusCode::kUnsupported))
            << store.status().ToString();
        ++tally.refused;
        stdfs::remove_all(victim);
        continue;
      }
      const Comparison answers = Compare(**store, workload.state());
      EXPECT_TRUE(answers.wrong.empty()) << answers.ToString();
      const auto report = (*store)->Verify();
      const bool found = !report.ok() || !report->ok();
      EXPECT_TRUE(found || answers.errors.empty()) << "verify missed:" << answers.ToString();
      ++(found ? tally.verified : tally.harmless);
      // Every byte of tables and blobs in use is under a checksum; those left over from before are
      // deleted by an open. (A log, the MANIFEST and CURRENT have been
      // read and replaced by the time anyone can ask, and COMMITS has padding; all answers were
      // right.)
      if ((damaged.kind == "sst" || damaged.kind == "blob") && stdfs::exists(damaged.path)) {
        EXPECT_TRUE(found) << damaged.what;
      }
      store = Status::Cancelled("");
      stdfs::remove_all(victim);
      if (::testing::Test::HasFailure()) return;
    }
  }
  for (const auto& [kind, tally] : tallies) {
    std::cout << kind << ": open refused " << tally.refused << ", verify found " << tally.verified
              << ", all answers right " << tally.harmless << "\n";
  }
  for (const char* kind : {"sst", "blob", "log", "MANIFEST", "CURRENT", "MSADB", "COMMITS"}) {
    EXPECT_TRUE(tallies.contains(kind)) << kind;
  }
}

}  // namespace
}  // namespace msadb::storage
