#include "db/catalog.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

namespace msadb::db {
namespace {

TimePoint At(int64_t us) { return TimePoint(std::chrono::microseconds(us)); }

DocumentInfo Info(DocumentId id, uint32_t parts, int64_t expires_us) {
  DocumentInfo info;
  info.id = id;
  info.part_count = parts;
  if (expires_us > 0) info.expires_at = At(expires_us);
  info.metadata["n"] = static_cast<int64_t>(id);
  return info;
}

using Oracle = std::map<DocumentId, DocumentInfo>;

void ExpectSame(const Catalog& catalog, const Oracle& oracle, std::mt19937_64& random) {
  ASSERT_EQ(catalog.document_count(), oracle.size());
  size_t parts = 0;
  auto expected = oracle.begin();
  TimePoint earliest = kNeverExpires;
  catalog.ForEach([&](const DocumentInfo& info) {
    ASSERT_NE(expected, oracle.end());
    ASSERT_EQ(info.id, expected->first);
    ASSERT_EQ(info.metadata, expected->second.metadata);
    parts += info.part_count;
    earliest = std::min(earliest, info.expires_at);
    ++expected;
  });
  ASSERT_EQ(expected, oracle.end());
  ASSERT_EQ(catalog.part_count(), parts);
  ASSERT_EQ(catalog.earliest_expiry(), earliest);

  const TimePoint now = At(random() % 1000);
  std::vector<DocumentId> expired, expired_expected;
  catalog.ForEachExpired(now, [&](const DocumentInfo& info) { expired.push_back(info.id); });
  for (const auto& [id, info] : oracle) {
    if (info.expires_at <= now) expired_expected.push_back(id);
  }
  ASSERT_EQ(expired, expired_expected);

  for (int i = 0; i < 50; ++i) {
    const DocumentId number = random() % 12000;
    const auto after = oracle.upper_bound(number);
    const DocumentInfo* owner = nullptr;
    if (after != oracle.begin()) {
      const DocumentInfo& before = std::prev(after)->second;
      if (number < before.id + before.part_count) owner = &before;
    }
    const DocumentInfo* found = catalog.FindByPart(number);
    ASSERT_EQ(found == nullptr, owner == nullptr) << number;
    if (found != nullptr) {
      ASSERT_EQ(found->id, owner->id);
    }
    ASSERT_EQ(catalog.Find(number) != nullptr, oracle.contains(number));
  }
}

TEST(Catalog, AgreesWithAMapThroughRandomVersions) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    std::shared_ptr<const Catalog> catalog = std::make_shared<Catalog>();
    Oracle oracle;
    std::vector<std::pair<std::shared_ptr<const Catalog>, Oracle>> old;
    DocumentId next = 1;
    for (int step = 0; step < 40; ++step) {
      std::vector<DocumentInfo> added;
      std::vector<DocumentId> removed;
      const size_t n_added = random() % (step % 10 == 0 ? 1500 : 20);
      for (size_t i = 0; i < n_added; ++i) {
        const uint32_t parts = 1 + random() % 3;
        // Gaps, and now and then an id that was left out earlier.
        next += random() % 3;
        added.push_back(Info(next, parts, random() % 4 ? 0 : 1 + random() % 1000));
        next += parts;
      }
      std::shuffle(added.begin(), added.end(), random);
      for (const auto& [id, info] : oracle) {
        if (random() % (step % 7 == 3 ? 2 : 50) == 0) removed.push_back(id);
      }
      removed.push_back(next + 5);  // unknown
      std::shuffle(removed.begin(), removed.end(), random);
      // Concurrent commits publish out of order: sometimes hold back the first half of the new ids.
      std::vector<DocumentInfo> late;
      if (step % 5 == 4) {
        late.assign(added.begin(), added.begin() + added.size() / 2);
        added.erase(added.begin(), added.begin() + added.size() / 2);
      }
      for (const DocumentId id : removed) oracle.erase(id);
      for (const DocumentInfo& info : added) oracle[info.id] = info;
      catalog = catalog->With(added, removed);
      for (const DocumentInfo& info : late) oracle[info.id] = info;
      if (!late.empty()) catalog = catalog->With(late, {});
      ExpectSame(*catalog, oracle, random);
      if (step % 8 == 0) old.emplace_back(catalog, oracle);
    }
    for (const auto& [version, expected] : old) ExpectSame(*version, expected, random);
  }
}

TEST(Catalog, EmptyAnswersEverything) {
  const Catalog empty;
  EXPECT_EQ(empty.document_count(), 0u);
  EXPECT_EQ(empty.Find(1), nullptr);
  EXPECT_EQ(empty.FindByPart(1), nullptr);
  EXPECT_EQ(empty.earliest_expiry(), kNeverExpires);
  EXPECT_EQ(Catalog::Build({Info(7, 3, 0)})->FindByPart(9)->id, 7u);
  EXPECT_EQ(Catalog::Build({Info(7, 3, 0)})->FindByPart(10), nullptr);
  EXPECT_EQ(Catalog::Build({Info(7, 3, 0)})->FindByPart(6), nullptr);
}

}  // namespace
}  // namespace msadb::db
