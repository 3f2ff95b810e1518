#include "server/access.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <random>
#include <thread>
#include <utility>

namespace msadb::server {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class AccessTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "msadb-access-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    path_ = folder_ + "/tokens.json";
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string Add(const std::string& name, const std::string& collection, Right right) {
    auto token = TokenStore::Add(path_, {.name = name, .grants = {{collection, right}}});
    EXPECT_TRUE(token.ok()) << token.status().ToString();
    return token.ok() ? *token : "";
  }
  std::string Bytes() const {
    std::ifstream in(path_);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  void Write(const std::string& bytes) {
    std::ofstream(path_) << bytes;
    ASSERT_EQ(chmod(path_.c_str(), 0600), 0);
  }

  std::string folder_;
  std::string path_;
};

TEST_F(AccessTest, ATokenStandsForItsPrincipalAndNothingElseDoes) {
  const std::string reader = Add("reader", "notes", Right::kRead);
  const std::string admin = Add("admin", "*", Right::kAdmin);
  ASSERT_NE(reader, admin);
  ASSERT_EQ(reader.size(), 6 + 64u);
  auto store = TokenStore::Open(path_);
  ASSERT_TRUE(store.ok()) << store.status().ToString();
  auto principal = (*store)->Authenticate(reader);
  ASSERT_TRUE(principal.ok());
  EXPECT_EQ((*principal)->name(), "reader");

  std::string last_digit_changed = reader;
  last_digit_changed.back() = reader.back() == '0' ? '1' : '0';
  for (const std::string& bad :
       {std::string(), std::string("msadb_"), last_digit_changed, reader + "0", reader + "\n",
        reader.substr(0, reader.size() - 1), std::string(1 << 20, 'a'), std::string("\0", 1)}) {
    auto refused = (*store)->Authenticate(bad);
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.status().code(), StatusCode::kPermissionDenied);
  }
}

TEST_F(AccessTest, OfAHundredThousandBadTokensNoneIsLetIn) {
  const std::string good = Add("a", "*", Right::kAdmin);
  auto store = TokenStore::Open(path_);
  ASSERT_TRUE(store.ok());
  const auto seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  const auto below = [&](size_t n) { return random() % n; };
  for (int i = 0; i < 100'000; ++i) {
    std::string bad = good;
    switch (below(5)) {
      case 0:  // one bit
        bad[below(bad.size())] ^= static_cast<char>(1 << below(8));
        break;
      case 1:
        bad.resize(below(bad.size()));
        break;
      case 2:
        bad.insert(below(bad.size() + 1), 1, static_cast<char>(below(256)));
        break;
      case 3:  // well-formed, and nobody's
        for (size_t at = 6; at < bad.size(); ++at) bad[at] = "0123456789abcdef"[below(16)];
        break;
      default:
        std::swap(bad[6 + below(64)], bad[6 + below(64)]);
    }
    if (bad == good) continue;
    ASSERT_EQ((*store)->Authenticate(bad).status().code(), StatusCode::kPermissionDenied) << bad;
  }
  EXPECT_TRUE((*store)->Authenticate(good).ok());
}

TEST_F(AccessTest, RightsIncludeSmallerOnesAndForeignNamesDoNotExist) {
  const Principal writer("w", {{"notes", Right::kWrite}});
  EXPECT_TRUE(writer.CheckCollection("notes", Right::kRead).ok());
  EXPECT_TRUE(writer.CheckCollection("notes", Right::kWrite).ok());
  EXPECT_EQ(writer.CheckCollection("notes", Right::kAdmin).code(), StatusCode::kPermissionDenied);
  EXPECT_EQ(writer.CheckCollection("other", Right::kRead).ToString(),
            CollectionNotFound("other").ToString());
  EXPECT_EQ(writer.CheckServer(Right::kRead).code(), StatusCode::kPermissionDenied);

  const Principal mixed("m", {{"*", Right::kRead}, {"notes", Right::kWrite}});
  EXPECT_TRUE(mixed.CheckCollection("notes", Right::kWrite).ok());
  EXPECT_TRUE(mixed.CheckCollection("other", Right::kRead).ok());
  EXPECT_EQ(mixed.CheckCollection("other", Right::kWrite).code(), StatusCode::kPermissionDenied);
  EXPECT_TRUE(mixed.CheckServer(Right::kRead).ok());
  EXPECT_FALSE(mixed.CheckServer(Right::kWrite).ok());
}

TEST_F(AccessTest, TheFileIsTheOwnersAloneAndHoldsNoToken) {
  const std::string token = Add("a", "*", Right::kAdmin);
  struct stat status;
  ASSERT_EQ(stat(path_.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
  EXPECT_THAT(Bytes(), Not(HasSubstr(token.substr(6))));

  ASSERT_EQ(chmod(path_.c_str(), 0640), 0);
  auto store = TokenStore::Open(path_);
  ASSERT_FALSE(store.ok());
  EXPECT_EQ(store.status().code(), StatusCode::kPermissionDenied);
  EXPECT_THAT(store.status().message(), HasSubstr("chmod 600"));
}

TEST_F(AccessTest, NamesAreUniqueAndRevokedTokensEnd) {
  const std::string first = Add("a", "notes", Right::kRead);
  auto again = TokenStore::Add(path_, {.name = "a", .grants = {{"*", Right::kAdmin}}});
  EXPECT_EQ(again.status().code(), StatusCode::kAlreadyExists);
  EXPECT_EQ(TokenStore::Revoke(path_, "b").code(), StatusCode::kNotFound);

  auto store = TokenStore::Open(path_);
  ASSERT_TRUE(store.ok());
  ASSERT_TRUE((*store)->Authenticate(first).ok());
  ASSERT_TRUE(TokenStore::Revoke(path_, "a").ok());
  const std::string second = Add("b", "notes", Right::kRead);
  // The open store looks again after a second; asked until then, so no exact time is assumed.
  while ((*store)->Authenticate(first).ok()) std::this_thread::yield();
  EXPECT_TRUE((*store)->Authenticate(second).ok());
  ASSERT_EQ((*store)->List().size(), 1u);
  EXPECT_EQ((*store)->List()[0].name, "b");
}

TEST_F(AccessTest, AFileDamagedWhileOpenKeepsWhatWasKnown) {
  const std::string token = Add("a", "notes", Right::kRead);
  auto store = TokenStore::Open(path_);
  ASSERT_TRUE(store.ok());
  Write("{");
  std::this_thread::sleep_for(std::chrono::milliseconds(1100));
  EXPECT_TRUE((*store)->Authenticate(token).ok());
}

TEST_F(AccessTest, BadInputChangesNothing) {
  const NewToken good{.name = "a", .grants = {{"*", Right::kAdmin}}};
  for (const std::string& name : {std::string(), std::string("a b"), std::string("\x80"),
                                  std::string(kTokenNameBytesMax + 1, 'a')}) {
    NewToken bad = good;
    bad.name = name;
    EXPECT_EQ(TokenStore::Add(path_, bad).status().code(), StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(TokenStore::Add(path_, {.name = "a", .grants = {}}).status().code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(
      TokenStore::Add(path_, {.name = "a", .grants = {{"a/b", Right::kRead}}}).status().code(),
      StatusCode::kInvalidArgument);
  EXPECT_EQ(TokenStore::Open(path_).status().code(), StatusCode::kNotFound);
}

TEST_F(AccessTest, DamagedFilesAreRefusedByName) {
  Add("a", "notes", Right::kRead);
  const std::string good = Bytes();
  for (size_t size = 0; size + 3 < good.size(); size += 7) {
    Write(good.substr(0, size));
    auto store = TokenStore::Open(path_);
    ASSERT_FALSE(store.ok()) << size;
    EXPECT_EQ(store.status().code(), StatusCode::kCorruption);
    EXPECT_THAT(store.status().message(), HasSubstr(path_));
  }
  std::string newer = good;
  newer.replace(newer.find("\"version\": 1"), 12, "\"version\": 2");
  Write(newer);
  EXPECT_EQ(TokenStore::Open(path_).status().code(), StatusCode::kUnsupported);
}

TEST_F(AccessTest, ConcurrentAddsLoseNone) {
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    const std::string name(1, static_cast<char>(0x61 + i));
    threads.emplace_back([this, name] { Add(name, "*", Right::kRead); });
  }
  for (auto& thread : threads) thread.join();
  auto store = TokenStore::Open(path_);
  ASSERT_TRUE(store.ok());
  EXPECT_EQ((*store)->List().size(), 8u);
}

}  // namespace
}  // namespace msadb::server
