// A database whose routing keys are on one GPU, or spread over two, answers as one in host memory does,
// through inserts, deletes, compaction and opening again. Skipped where there are too few GPUs.
#include <random>
#include <vector>

#include "kernels/cuda_backend.h"
#include "tests/db/db_test_util.h"

namespace msadb::db {
namespace {

class GpuDatabaseTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const std::string device = GetParam();
    const int wanted = device == "cuda:0,1" ? 2 : 1;
    if (kernels::CudaDeviceCount() < wanted) GTEST_SKIP() << "no " << wanted << " GPUs";
  }

  void Open(const std::string& device, std::shared_ptr<Database>* db,
            std::shared_ptr<Collection>* notes) {
    Options options = TestOptions();
    options.device = device;
    ASSERT_OK_AND(*db, Database::Open(folder_ / (device == "cpu" ? "cpu" : "gpu"), options));
    ASSERT_OK_AND(*notes, (*db)->GetOrCreateCollection("notes"));
  }

  TempFolder folder_;
};

TEST_P(GpuDatabaseTest, AnswersAsInHostMemory) {
  std::mt19937 random(5);
  const auto text = [&] {
    std::string words;
    for (size_t i = 0, n = 1 + random() % 30; i < n; ++i) {
      words += (i ? " w" : "w") + std::to_string(random() % 200);
    }
    return words;
  };
  std::shared_ptr<Database> db[2];
  std::shared_ptr<Collection> notes[2];
  const char* const devices[2] = {"cpu", GetParam()};
  std::vector<DocumentId> ids;
  for (int round = 0; round < 4; ++round) {
    for (int i : {0, 1}) ASSERT_NO_FATAL_FAILURE(Open(devices[i], &db[i], &notes[i]));
    std::vector<NewDocument> documents;
    for (int i = 0; i < 40; ++i) {
      documents.push_back(Doc(text(), {}, {{"round", int64_t{round}}}));
    }
    for (int i : {0, 1}) ASSERT_OK(notes[i]->InsertMany(documents));
    for (const NewDocument& document : documents) {
      ASSERT_OK_AND(const DocumentId first, notes[0]->Insert(document));
      ASSERT_OK_AND(const DocumentId second, notes[1]->Insert(document));
      ASSERT_EQ(first, second);
      ids.push_back(first);
    }
    for (int i = 0; i < 25; ++i) {
      const size_t victim = random() % ids.size();
      for (int j : {0, 1}) ASSERT_OK(notes[j]->Delete(ids[victim]));
      ids.erase(ids.begin() + static_cast<ptrdiff_t>(victim));
    }
    if (round == 2) {
      for (int i : {0, 1}) ASSERT_OK(db[i]->Compact());
    }
    for (int question = 0; question < 8; ++question) {
      SearchOptions options;
      options.top_k = 1 + random() % 20;
      if (question % 4 == 3) {
        ASSERT_OK_AND(options.where, Filter::Parse("{\"round\": " + std::to_string(round) + "}"));
      }
      const std::string query = text();
      ASSERT_OK_AND(const auto expected, notes[0]->Search(query, options));
      ASSERT_OK_AND(const auto got, notes[1]->Search(query, options));
      ASSERT_EQ(got.size(), expected.size());
      for (size_t i = 0; i < got.size(); ++i) {
        EXPECT_EQ(got[i].id, expected[i].id) << query;
        EXPECT_EQ(got[i].score, expected[i].score) << query;
      }
    }
    for (int i : {0, 1}) {
      notes[i].reset();
      db[i].reset();
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, GpuDatabaseTest, testing::Values("cuda:0", "cuda:0,1"),
                         [](const auto& info) {
                           return info.param == std::string("cuda:0") ? "OneGpu" : "TwoGpus";
                         });

}  // namespace
}  // namespace msadb::db
