// Runs every fuzz entry over its seeds and over deterministic mutations of them, in every build.
// A violated promise or a sanitizer report ends the process; the input is then in
// last_<entry>.bin of the temporary folder named at the start.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <random>
#include <string>
#include <vector>

#include "tests/fuzz/entries.h"
#include "tests/fuzz/http_entry.h"

namespace msadb::fuzz {
namespace {

// One random change of the kinds that break parsers: bits, bytes, cuts, repeats, and numbers and
// punctuation that matter to JSON.
void Mutate(std::mt19937_64* random, const std::string& other, std::string* input) {
  static const std::string kTokens[] = {"0",
                                        "-1",
                                        "1e999",
                                        "18446744073709551615",
                                        "18446744073709551616",
                                        "4294967296",
                                        "null",
                                        "{",
                                        "}",
                                        "[",
                                        "]",
                                        "\"",
                                        ",",
                                        ":",
                                        "\\",
                                        "\\u0000",
                                        "\\ud800",
                                        "\xff",
                                        "\xf0\x9f\x98\x80",
                                        "{}",
                                        "[]",
                                        "\"\"",
                                        "true"};
  const auto below = [&](size_t n) { return static_cast<size_t>((*random)() % n); };
  if (input->empty()) {
    *input = kTokens[below(std::size(kTokens))];
    return;
  }
  const size_t at = below(input->size());
  switch (below(8)) {
    case 0:
      (*input)[at] = static_cast<char>((*input)[at] ^ (1 << below(8)));
      break;
    case 1:
      (*input)[at] = static_cast<char>(below(256));
      break;
    case 2:
      input->resize(at);
      break;
    case 3:
      input->erase(at, 1 + below(16));
      break;
    case 4:
      input->insert(at, kTokens[below(std::size(kTokens))]);
      break;
    case 5:
      input->insert(at, input->substr(below(input->size()), 1 + below(64)));
      break;
    case 6: {
      // Replaces the number at or after this place.
      const size_t digit = input->find_first_of("0123456789", at);
      if (digit == std::string::npos) break;
      const size_t end = std::min(input->find_first_not_of("0123456789", digit), input->size());
      input->replace(digit, end - digit, kTokens[below(6)]);
      break;
    }
    default:
      if (!other.empty()) input->replace(at, std::string::npos, other, below(other.size()));
  }
}

class Replay : public testing::TestWithParam<Entry> {};

std::string EntryName(const testing::TestParamInfo<Entry>& info) { return info.param.name; }

TEST_P(Replay, SeedsAndMutations) {
  constexpr uint64_t kSeed = 20231105;
  constexpr size_t kMutations = 10000;
  // Bytes mutated in all: entries with large seeds get fewer mutations instead of more time.
  constexpr size_t kBytesMax = 48u << 20;
  const Entry& entry = GetParam();
  const std::vector<std::string> seeds = entry.seeds();
  ASSERT_FALSE(seeds.empty());
  const std::string last = testing::TempDir() + "/last_" + entry.name + ".bin";
  std::cout << "seed " << kSeed << ", last input in " << last << "\n";
  const int file = ::open(last.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  ASSERT_GE(file, 0);
  const auto run = [&](const std::string& input) {
    ASSERT_EQ(::pwrite(file, input.data(), input.size(), 0), static_cast<ssize_t>(input.size()));
    ASSERT_EQ(::ftruncate(file, static_cast<off_t>(input.size())), 0);
    entry.run(input);
  };
  for (const std::string& seed : seeds) run(seed);

  std::mt19937_64 random(kSeed);
  size_t bytes = 0;
  size_t done = 0;
  while (done < kMutations && bytes < kBytesMax) {
    std::string input = seeds[random() % seeds.size()];
    const std::string& other = seeds[random() % seeds.size()];
    for (uint64_t changes = 1 + random() % 4; changes > 0; --changes) {
      Mutate(&random, other, &input);
    }
    run(input);
    bytes += input.size();
    ++done;
  }
  EXPECT_GE(done, 1000u);
  ::close(file);
  ::unlink(last.c_str());
}

INSTANTIATE_TEST_SUITE_P(Entries, Replay, testing::ValuesIn(Entries().begin(), Entries().end()),
                         EntryName);

// Seeds that are refused at the door would leave most of the server untouched.
TEST(FuzzSeeds, OfHttpAreServed) {
  std::vector<std::string> refused;
  for (const std::string& seed : HttpSeeds()) {
    if (ServeHttp(seed) >= 300) refused.push_back(seed.substr(0, seed.find('\n')));
  }
  EXPECT_EQ(refused,
            (std::vector<std::string>{"DELETE /v1/collections/notes/keys/%F0%9F%97%9D", ""}));
}

TEST(FuzzSeeds, AreAtLeast300InAll) {
  size_t count = 0;
  for (const Entry& entry : Entries()) count += entry.seeds().size();
  EXPECT_GE(count, 300u);
}

}  // namespace
}  // namespace msadb::fuzz
