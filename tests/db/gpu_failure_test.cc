// What a caller sees when the GPU has no memory left or is lost: a clear error or, where the
// options ask for it, the same answers from host memory; and everything committed is there
// afterwards. Skipped where there is no GPU. The last test breaks the GPU for its process.
#include "index/device_memory.h"
#include "kernels/cuda_backend.h"
#include "tests/db/db_test_util.h"
#include "tests/db/lose_gpu.h"

namespace msadb::db {
namespace {

bool RefuseAll(size_t) { return false; }

class GpuFailureTest : public testing::Test {
 protected:
  void SetUp() override {
    if (kernels::CudaDeviceCount() == 0) GTEST_SKIP() << "no GPU";
  }
  void TearDown() override { index::internal::SetDeviceAllocationHook(nullptr); }

  static void FillGpu() { index::internal::SetDeviceAllocationHook(&RefuseAll); }
  static void FreeGpu() { index::internal::SetDeviceAllocationHook(nullptr); }

  static Options On(const std::string& device) {
    Options options = TestOptions();
    options.device = device;
    return options;
  }

  // A closed database whose collection "notes" has three documents.
  void MakeDatabase() {
    ASSERT_OK_AND(auto db, Database::Open(path(), On("cpu")));
    ASSERT_OK_AND(auto notes, db->CreateCollection("notes"));
    for (const char* text : {"alpha beta", "gamma delta", "epsilon zeta"}) {
      ASSERT_OK(notes->Insert(Doc(text)));
    }
  }
  static void ExpectAllThere(Collection& notes, size_t documents = 3) {
    for (const char* text : {"alpha beta", "gamma delta", "epsilon zeta"}) {
      ASSERT_OK_AND(const auto hits, notes.Search(text));
      ASSERT_EQ(hits.size(), documents);
      EXPECT_EQ(hits[0].text, text);
    }
  }
  std::string path() const { return folder_ / "db"; }

  TempFolder folder_;
};

TEST_F(GpuFailureTest, AnInsertIntoAFullGpuChangesNothing) {
  MakeDatabase();
  {
    ASSERT_OK_AND(auto db, Database::Open(path(), On("cuda:0")));
    ASSERT_OK_AND(auto notes, db->OpenCollection("notes"));
    ExpectAllThere(*notes);
    ASSERT_OK_AND(auto more, db->CreateCollection("more"));
    ASSERT_OK(more->Search("anything"));  // loads its index, empty so far
    FillGpu();
    const Status refused = ToStatus(more->Insert(Doc("one too many")));
    EXPECT_EQ(refused.code(), StatusCode::kResourceExhausted) << refused.ToString();
    EXPECT_NE(refused.message().find("memory"), std::string::npos) << refused.ToString();
    ExpectAllThere(*notes);
    FreeGpu();
    ASSERT_OK(more->Insert(Doc("now it fits")));
    ASSERT_OK_AND(const auto hits, more->Search("now it fits"));
    ASSERT_EQ(hits.size(), 1u);
  }
  ASSERT_OK_AND(auto db, Database::Open(path(), On("cpu")));
  ASSERT_OK_AND(auto notes, db->OpenCollection("notes"));
  ExpectAllThere(*notes);
  ASSERT_OK_AND(auto more, db->OpenCollection("more"));
  ASSERT_OK_AND(const auto hits, more->Search("one too many"));
  ASSERT_EQ(hits.size(), 1u);
  EXPECT_EQ(hits[0].text, "now it fits");
}

TEST_F(GpuFailureTest, AFullGpuAtOpeningIsSaidAndPasses) {
  MakeDatabase();
  ASSERT_OK_AND(auto db, Database::Open(path(), On("cuda:0")));
  ASSERT_OK_AND(auto notes, db->OpenCollection("notes"));
  FillGpu();
  EXPECT_CODE(notes->Search("alpha beta"), StatusCode::kResourceExhausted);
  FreeGpu();
  ExpectAllThere(*notes);
}

TEST_F(GpuFailureTest, AutoGoesOnInHostMemory) {
  MakeDatabase();
  FillGpu();
  ASSERT_OK_AND(auto db, Database::Open(path(), On("auto")));
  ASSERT_OK_AND(auto notes, db->OpenCollection("notes"));
  ExpectAllThere(*notes);
  ASSERT_OK(notes->Insert(Doc("eta theta")));
  ASSERT_OK_AND(const auto hits, notes->Search("eta theta"));
  ASSERT_EQ(hits.size(), 4u);
  EXPECT_EQ(hits[0].text, "eta theta");
}

// Nothing of this process can use the GPU afterwards.
TEST_F(GpuFailureTest, NothingIsLostWithTheGpu) {
  MakeDatabase();
  {
    ASSERT_OK_AND(auto db, Database::Open(path(), On("cuda:0")));
    ASSERT_OK_AND(auto notes, db->OpenCollection("notes"));
    ExpectAllThere(*notes);
    LoseGpu(0);
    const Status lost = ToStatus(notes->Search("alpha beta"));
    EXPECT_EQ(lost.code(), StatusCode::kUnavailable) << lost.ToString();
    EXPECT_NE(lost.message().find("GPU"), std::string::npos) << lost.ToString();
    // An index that cannot be written is given up, not the insert: storage has it.
    ASSERT_OK(notes->Insert(Doc("eta theta")));
    EXPECT_CODE(notes->Search("eta theta"), StatusCode::kUnavailable);
    // What needs no GPU still works.
    ASSERT_OK_AND(const auto document, notes->Get(1));
    EXPECT_EQ(document.text, "alpha beta");
  }
  for (const char* device : {"auto", "cpu"}) {
    SCOPED_TRACE(device);
    ASSERT_OK_AND(auto db, Database::Open(path(), On(device)));
    ASSERT_OK_AND(auto notes, db->OpenCollection("notes"));
    ExpectAllThere(*notes, 4);
    ASSERT_OK_AND(const auto hits, notes->Search("eta theta"));
    EXPECT_EQ(hits[0].text, "eta theta");
  }
}

}  // namespace
}  // namespace msadb::db
