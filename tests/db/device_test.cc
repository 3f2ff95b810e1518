#include "db/device.h"

#include <gmock/gmock.h>

#include "tests/db/db_test_util.h"

namespace msadb::db {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(DeviceTest, ReadsEveryForm) {
  ASSERT_OK_AND(const DeviceChoice automatic, ParseDevice("auto"));
  EXPECT_TRUE(automatic.automatic);
  EXPECT_THAT(automatic.gpus, IsEmpty());
  EXPECT_EQ(automatic.ForModel(), "auto");

  ASSERT_OK_AND(const DeviceChoice cpu, ParseDevice("cpu"));
  EXPECT_FALSE(cpu.automatic);
  EXPECT_THAT(cpu.gpus, IsEmpty());
  EXPECT_EQ(cpu.ForModel(), "cpu");

  ASSERT_OK_AND(const DeviceChoice one, ParseDevice("cuda:3"));
  EXPECT_THAT(one.gpus, ElementsAre(3));
  EXPECT_EQ(one.ForModel(), "cuda:3");

  ASSERT_OK_AND(const DeviceChoice several, ParseDevice("cuda:1,0,12"));
  EXPECT_FALSE(several.automatic);
  EXPECT_THAT(several.gpus, ElementsAre(1, 0, 12));
  EXPECT_EQ(several.ForModel(), "cuda:1");
}

TEST(DeviceTest, RefusesEverythingElse) {
  for (const char* text : {"", "gpu", "CPU", "cuda", "cuda:", "cuda:x", "cuda:-1", "cuda:0x1",
                           "cuda: 1", "cuda:1 ", "cuda:0,", "cuda:,0", "cuda:0,,1", "cuda:0,0",
                           "cuda:0;1", "cuda:99999999999999999999", "cuda:2000", "auto,cpu"}) {
    SCOPED_TRACE(text);
    EXPECT_CODE(ParseDevice(text), StatusCode::kInvalidArgument);
  }
}

// Said before anything is made.
TEST(DeviceTest, OpeningWithAnUnknownDeviceChangesNothing) {
  TempFolder folder;
  Options options = TestOptions();
  options.device = "cuda:0,0";
  EXPECT_CODE(Database::Open(folder / "db", options), StatusCode::kInvalidArgument);
  EXPECT_FALSE(std::filesystem::exists(folder / "db"));
}

}  // namespace
}  // namespace msadb::db
