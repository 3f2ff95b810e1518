// The tokenizer against the golden files of make_tokenizer_golden.py, and its own promises.
#include "model/tokenizer.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdint>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace msadb::model {
namespace {

using nlohmann::json;

const std::string kData = std::string(MSADB_TEST_DATA) + "/tokenizer/";
const std::string kQwen = std::string(MSADB_SOURCE_DIR) + "/../shared/data/qwen3-tokenizer";

json ReadJson(const std::string& name) {
  std::ifstream file(kData + name);
  return json::parse(file);
}

bool Exists(const std::string& path) {
  struct stat info;
  return ::stat(path.c_str(), &info) == 0;
}

class Fnv {
 public:
  void Add(std::string_view bytes) {
    for (const char c : bytes) {
      value_ = (value_ ^ static_cast<unsigned char>(c)) * 0x100000001B3u;
    }
  }
  void Add(const std::vector<int32_t>& ids) {
    AddInt(static_cast<uint32_t>(ids.size()));
    for (const int32_t id : ids) AddInt(static_cast<uint32_t>(id));
  }
  std::string Hex() const {
    char text[17];
    std::snprintf(text, sizeof(text), "%016llx", static_cast<unsigned long long>(value_));
    return text;
  }

 private:
  void AddInt(uint32_t value) {
    for (int i = 0; i < 4; ++i) {
      const char byte = static_cast<char>(value >> (8 * i));
      Add(std::string_view(&byte, 1));
    }
  }
  uint64_t value_ = 0xCBF29CE484222325u;
};

void AppendUtf8(uint32_t c, std::string* out) {
  if (c < 0x80) {
    *out += static_cast<char>(c);
  } else if (c < 0x800) {
    *out += static_cast<char>(0xc0 | c >> 6);
    *out += static_cast<char>(0x80 | (c & 0x3f));
  } else if (c < 0x10000) {
    *out += static_cast<char>(0xe0 | c >> 12);
    *out += static_cast<char>(0x80 | (c >> 6 & 0x3f));
    *out += static_cast<char>(0x80 | (c & 0x3f));
  } else {
    *out += static_cast<char>(0xf0 | c >> 18);
    *out += static_cast<char>(0x80 | (c >> 12 & 0x3f));
    *out += static_cast<char>(0x80 | (c >> 6 & 0x3f));
    *out += static_cast<char>(0x80 | (c & 0x3f));
  }
}

// The strings of make_tokenizer_golden.py: make_string() there and Make() here must stay alike.
class StringMaker {
 public:
  explicit StringMaker(uint64_t seed) : seed_(seed) {
    const json corpus = ReadJson("corpus.json");
    ranges_ = corpus["ranges"].get<std::vector<Range>>();
    fragments_ = corpus["fragments"].get<std::vector<std::string>>();
    prose_ = corpus["prose"].get<std::vector<std::string>>();
  }

  std::string Make(uint64_t index) {
    state_ = seed_ * 1000003 + index;
    const char* const blanks[] = {" ", "\n", "\t", "\r\n", "\u00a0", "\u3000"};
    out_.clear();
    switch (Below(8)) {
      case 0:
        for (uint64_t n = 1 + Below(30); n > 0; --n) Fragment();
        break;
      case 1:
        for (uint64_t n = 1 + Below(40); n > 0; --n) Character(AnyRange());
        break;
      case 2: {
        const Range range = AnyRange();
        for (uint64_t n = 1 + Below(60); n > 0; --n) Character(range);
        break;
      }
      case 3:
        for (uint64_t n = 1 + Below(20); n > 0; --n) {
          Word();
          SpaceOrFragment(Below(4) != 0);
        }
        break;
      case 4:
        for (uint64_t n = 1 + Below(40); n > 0; --n) {
          const uint64_t what = Below(3);
          if (what == 0) {
            Fragment();
          } else {
            Character(what == 1 ? AnyRange() : Range{768, 879});
          }
        }
        break;
      case 5:
        for (uint64_t n = 1 + Below(80); n > 0; --n) Character({0, 127});
        break;
      case 6:
        for (uint64_t n = 1 + Below(8); n > 0; --n) {
          const char* blank = blanks[Below(std::size(blanks))];
          for (uint64_t m = 1 + Below(200); m > 0; --m) out_ += blank;
          if (Below(2) != 0) Word();
        }
        break;
      default:
        for (uint64_t n = 1 + Below(4); n > 0; --n) {
          out_ += prose_[Below(prose_.size())];
          SpaceOrFragment(Below(2) != 0);
        }
    }
    return out_;
  }

 private:
  using Range = std::pair<uint32_t, uint32_t>;

  uint64_t Below(uint64_t n) {
    uint64_t z = state_ += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (z ^ (z >> 31)) % n;
  }
  void Character(Range range) {
    AppendUtf8(range.first + static_cast<uint32_t>(Below(range.second - range.first + 1)), &out_);
  }
  Range AnyRange() { return ranges_[Below(ranges_.size())]; }
  void Fragment() { out_ += fragments_[Below(fragments_.size())]; }
  void SpaceOrFragment(bool space) {
    if (space) {
      out_ += ' ';
    } else {
      Fragment();
    }
  }
  void Word() {
    for (uint64_t n = 1 + Below(12); n > 0; --n) {
      Character(Below(8) != 0 ? Range{97, 122} : Range{65, 90});
    }
  }

  uint64_t seed_;
  uint64_t state_ = 0;
  std::vector<Range> ranges_;
  std::vector<std::string> fragments_;
  std::vector<std::string> prose_;
  std::string out_;
};

void ExpectSameStrings(const json& golden, StringMaker* maker) {
  Fnv hash;
  for (uint64_t i = 0; i < 1000; ++i) {
    if (i > 0) hash.Add("|");
    hash.Add(maker->Make(i));
  }
  ASSERT_EQ(golden["text_hash"], hash.Hex()) << "the generators here and in the script differ";
}

void ExpectGolden(const Tokenizer& tokenizer, const json& hashes, StringMaker* maker) {
  int mismatches = 0;
  for (size_t i = 0; i < hashes.size(); ++i) {
    const std::string text = maker->Make(i);
    const auto parsed = tokenizer.Encode(text, {.parse_special_tokens = true});
    const auto plain = tokenizer.Encode(text);
    ASSERT_TRUE(parsed.ok()) << parsed.status().ToString();
    ASSERT_TRUE(plain.ok()) << plain.status().ToString();
    Fnv hash;
    hash.Add(*parsed);
    hash.Add(*plain);
    hash.Add(tokenizer.Decode(*parsed, /*skip_special=*/false));
    if (hash.Hex() == hashes[i]) continue;
    if (++mismatches <= 5) {
      ADD_FAILURE() << "string " << i << " (make_tokenizer_golden.py --show " << i << "): " << text;
    }
  }
  EXPECT_EQ(mismatches, 0);
}

json Small() { return ReadJson("small.json"); }

Result<std::unique_ptr<Tokenizer>> FromPatch(const json& patch) {
  json description = Small();
  description.merge_patch(patch);
  return Tokenizer::FromJson(description.dump());
}

std::unique_ptr<Tokenizer> SmallTokenizer(const json& patch = json::object()) {
  auto tokenizer = FromPatch(patch);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
  return std::move(*tokenizer);
}

TEST(TokenizerGolden, Qwen3) {
  if (!Exists(kQwen)) GTEST_SKIP() << "no Qwen3 tokenizer at " << kQwen;
  const json golden = ReadJson("qwen3_golden.json");
  StringMaker maker(golden["seed"]);
  ExpectSameStrings(golden, &maker);
  auto tokenizer = Tokenizer::Load(kQwen);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
  ASSERT_GE(golden["hashes"].size(), 10000u);
  ExpectGolden(**tokenizer, golden["hashes"], &maker);

  EXPECT_EQ((*tokenizer)->vocab_size(), 151669u);
  EXPECT_EQ((*tokenizer)->TokenId("<|im_end|>"), 151645);
  EXPECT_EQ((*tokenizer)->TokenId("\u0120the"), 279);
  EXPECT_EQ((*tokenizer)->TokenBytes(279), " the");
  EXPECT_TRUE((*tokenizer)->IsSpecial(151645));
  EXPECT_FALSE((*tokenizer)->IsSpecial(151668)) << "</think> is added, but not special";
}

TEST(TokenizerGolden, SmallVariants) {
  const json golden = ReadJson("small_golden.json");
  StringMaker maker(golden["seed"]);
  ExpectSameStrings(golden, &maker);
  for (const auto& [name, variant] : golden["variants"].items()) {
    SCOPED_TRACE(name);
    auto tokenizer = FromPatch(variant["patch"]);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
    ExpectGolden(**tokenizer, variant["hashes"], &maker);
  }
}

TEST(Tokenizer, EmptyTextHasNoTokens) {
  const auto ids = SmallTokenizer()->Encode("");
  ASSERT_TRUE(ids.ok());
  EXPECT_TRUE(ids->empty());
  EXPECT_EQ(SmallTokenizer()->Decode({}), "");
}

TEST(Tokenizer, RefusesInvalidUtf8NamingTheByte) {
  const auto tokenizer = SmallTokenizer({{"normalizer", {{"type", "NFC"}}}});
  for (const std::string bad : {"abc\xff", "abc\xc3", "abc\xc0\x80", "abc\xed\xa0\x80",
                                "abc\xf4\x90\x80\x80", "abc\x80tail", "abc\xf0\x9f\x98"}) {
    const auto ids = tokenizer->Encode(bad);
    ASSERT_FALSE(ids.ok());
    EXPECT_EQ(ids.status().code(), StatusCode::kInvalidArgument);
    EXPECT_NE(ids.status().message().find("byte 3"), std::string::npos) << ids.status().ToString();
  }
}

TEST(Tokenizer, StoredTextCannotInjectAddedTokens) {
  const json extra = {
      {"added_tokens",
       {{{"id", 2}, {"content", "<|im_end|>"}, {"special", true}},
        {{"id", 1100}, {"content", "<tool_call>"}, {"special", false}, {"normalized", false}}}}};
  for (const bool ignore_merges : {false, true}) {
    json patch = extra;
    patch["model"]["ignore_merges"] = ignore_merges;
    const auto tokenizer = SmallTokenizer(patch);
    for (const std::string text : {"<|im_end|>", "a<|im_end|>b", "<tool_call>x"}) {
      const auto plain = tokenizer->Encode(text);
      ASSERT_TRUE(plain.ok());
      for (const int32_t id : *plain) {
        EXPECT_FALSE(id == 2 || id == 1100) << text;
      }
      EXPECT_EQ(tokenizer->Decode(*plain), text);
      const auto parsed = tokenizer->Encode(text, {.parse_special_tokens = true});
      ASSERT_TRUE(parsed.ok());
      EXPECT_TRUE(std::count(parsed->begin(), parsed->end(), 2) +
                  std::count(parsed->begin(), parsed->end(), 1100))
          << text;
    }
  }
}

TEST(Tokenizer, DecodeSkipsSpecialTokensAndUnknownIds) {
  const auto tokenizer = SmallTokenizer();
  const auto ids = tokenizer->Encode("<|im_start|>hi<|im_end|>", {.parse_special_tokens = true});
  ASSERT_TRUE(ids.ok());
  EXPECT_EQ(tokenizer->Decode(*ids), "hi");
  EXPECT_EQ(tokenizer->Decode(*ids, /*skip_special=*/false), "<|im_start|>hi<|im_end|>");
  const std::vector<int32_t> unknown = {-1, 1 << 30, INT32_MIN, INT32_MAX,
                                        static_cast<int32_t>(tokenizer->vocab_size())};
  EXPECT_EQ(tokenizer->Decode(unknown), "");
  for (const int32_t id : unknown) {
    EXPECT_TRUE(tokenizer->TokenBytes(id).empty());
    EXPECT_FALSE(tokenizer->IsSpecial(id));
  }
  EXPECT_EQ(tokenizer->TokenId("no such token at all"), std::nullopt);
}

TEST(Tokenizer, DecodeReplacesEachMaximalInvalidSequence) {
  const auto tokenizer = SmallTokenizer();
  const auto byte_token = [&](unsigned char byte) {
    for (int32_t id = 0; id < 300; ++id) {
      if (tokenizer->TokenBytes(id) == std::string(1, static_cast<char>(byte))) return id;
    }
    return -1;
  };
  const auto decode = [&](std::string_view bytes) {
    std::vector<int32_t> ids;
    for (const char c : bytes) ids.push_back(byte_token(static_cast<unsigned char>(c)));
    return tokenizer->Decode(ids);
  };
  EXPECT_EQ(decode("\xe2\x82\xac"), "\u20ac");
  EXPECT_EQ(decode("\xe2\x82"), "\ufffd");
  EXPECT_EQ(decode("\xe2\x82x"), "\ufffdx");
  EXPECT_EQ(decode("\xf0\x9f\x98"), "\ufffd");
  EXPECT_EQ(decode("\xf0\x80\x80"), "\ufffd\ufffd\ufffd");
  EXPECT_EQ(decode("\xed\xa0\x80"), "\ufffd\ufffd\ufffd");
  EXPECT_EQ(decode("\xc0\xaf"), "\ufffd\ufffd");
  EXPECT_EQ(decode("\xff\xfe"), "\ufffd\ufffd");
  EXPECT_EQ(decode("a\x80z"), "a\ufffdz");
}

TEST(Tokenizer, StreamedPiecesAreWholeCharactersAndAddUpToDecode) {
  const auto tokenizer = SmallTokenizer();
  const uint32_t seed = 7;
  std::mt19937 random(seed);
  std::uniform_int_distribution<int32_t> any_id(-2, static_cast<int32_t>(tokenizer->vocab_size()));
  std::uniform_int_distribution<int32_t> byte_id(0, 260);
  for (int round = 0; round < 2000; ++round) {
    std::vector<int32_t> ids;
    for (int i = 0; i < 20; ++i) ids.push_back(round % 2 ? any_id(random) : byte_id(random));
    for (const bool skip : {false, true}) {
      StreamDecoder stream(tokenizer.get(), skip);
      std::string all;
      for (const int32_t id : ids) {
        const std::string piece = stream.Push(id);
        // Every token of `ids` in turn is decoded alone: a piece that is not UTF-8 cannot be
        // encoded.
        ASSERT_TRUE(tokenizer->Encode(piece).ok()) << "seed " << seed << " round " << round;
        all += piece;
      }
      all += stream.Finish();
      ASSERT_EQ(all, tokenizer->Decode(ids, skip)) << "seed " << seed << " round " << round;
      EXPECT_EQ(stream.Finish(), "");
    }
  }
  // A character comes out with its last byte, not later.
  const auto ids = tokenizer->Encode("\U0001F600x");
  ASSERT_TRUE(ids.ok());
  StreamDecoder stream(tokenizer.get());
  std::string seen;
  for (size_t i = 0; i + 1 < ids->size(); ++i) seen += stream.Push((*ids)[i]);
  EXPECT_EQ(seen, "\U0001F600");
}

TEST(Tokenizer, TextSurvivesTheRoundTrip) {
  const auto tokenizer = SmallTokenizer();  // no normaliser, all 256 bytes
  StringMaker maker(99);
  for (uint64_t i = 0; i < 2000; ++i) {
    const std::string text = maker.Make(i);
    const auto ids = tokenizer->Encode(text);
    ASSERT_TRUE(ids.ok());
    ASSERT_EQ(tokenizer->Decode(*ids), text) << "string " << i;
  }
}

TEST(Tokenizer, LongWordsMergeLikeShortOnes) {
  // Both merge algorithms must give what the definition gives: apply the pair of lowest rank,
  // leftmost first. The definition is run here over the merges in the file.
  const json description = Small();
  const json& vocab = description["model"]["vocab"];
  const auto tokenizer = SmallTokenizer();
  const auto reference = [&](std::string_view word) {
    std::vector<std::string> parts;
    for (const char c : word) parts.emplace_back(1, c);
    for (;;) {
      size_t best = parts.size();
      size_t best_rank = SIZE_MAX;
      for (size_t i = 0; i + 1 < parts.size(); ++i) {
        const json pair = {parts[i], parts[i + 1]};
        const auto& merges = description["model"]["merges"];
        const auto it = std::find(merges.begin(), merges.end(), pair);
        const size_t rank =
            it == merges.end() ? SIZE_MAX : static_cast<size_t>(it - merges.begin());
        if (rank < best_rank) {
          best = i;
          best_rank = rank;
        }
      }
      if (best_rank == SIZE_MAX) break;
      parts[best] += parts[best + 1];
      parts.erase(parts.begin() + static_cast<ptrdiff_t>(best) + 1);
    }
    std::vector<int32_t> ids;
    for (const std::string& part : parts) ids.push_back(vocab[part]);
    return ids;
  };
  const uint32_t seed = 11;
  std::mt19937 random(seed);
  const std::string letters = "etaoinsrhld";
  for (const size_t length : {1, 2, 3, 20, 47, 48, 49, 50, 64, 150}) {
    std::string word;
    for (size_t i = 0; i < length; ++i) word += letters[random() % letters.size()];
    const auto ids = tokenizer->Encode(word);
    ASSERT_TRUE(ids.ok());
    EXPECT_EQ(*ids, reference(word)) << "seed " << seed << " word " << word;
  }
}

TEST(Tokenizer, HugeWordsAndRunsOfSpacesAreFine) {
  const auto small = SmallTokenizer();
  const auto qwen_like = SmallTokenizer(ReadJson("small_golden.json")["variants"]["qwen"]["patch"]);
  std::string mixed;
  for (int i = 0; i < 20000; ++i) mixed += "   \n";
  for (const std::string& text :
       {std::string(1 << 18, 'a'), std::string(1 << 18, ' '), std::string(1 << 18, '\n'), mixed,
        std::string(1 << 18, ' ') + "x", std::string(1 << 18, '!')}) {
    for (const Tokenizer* tokenizer : {small.get(), qwen_like.get()}) {
      const auto ids = tokenizer->Encode(text);
      ASSERT_TRUE(ids.ok()) << ids.status().ToString();
      EXPECT_EQ(tokenizer->Decode(*ids), text);
    }
  }
}

TEST(Tokenizer, RunawayPatternEndsInAnError) {
  const auto tokenizer = SmallTokenizer(
      {{"pre_tokenizer",
        {{"type", "Sequence"},
         {"pretokenizers",
          {{{"type", "Split"}, {"pattern", {{"Regex", "(a|aa)+[bc]"}}}, {"behavior", "Isolated"}},
           {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}}}}}});
  const auto ids = tokenizer->Encode(std::string(64, 'a'));
  ASSERT_FALSE(ids.ok());
  EXPECT_EQ(ids.status().code(), StatusCode::kResourceExhausted);
}

TEST(Tokenizer, ManyThreadsShareOne) {
  const auto tokenizer = SmallTokenizer();
  StringMaker maker(5);
  std::vector<std::string> texts;
  std::vector<std::vector<int32_t>> expected;
  for (uint64_t i = 0; i < 200; ++i) {
    texts.push_back(maker.Make(i));
    expected.push_back(*tokenizer->Encode(texts.back()));
  }
  std::vector<int> wrong(4);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < wrong.size(); ++t) {
    threads.emplace_back([&, t] {
      for (size_t i = 0; i < texts.size(); ++i) {
        const size_t at = (i * (t + 1)) % texts.size();
        if (*tokenizer->Encode(texts[at]) != expected[at]) ++wrong[t];
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(wrong.size()));
}

TEST(Tokenizer, AddedTokensLongestFirst) {
  const auto tokenizer =
      SmallTokenizer({{"added_tokens",
                       {{{"id", 1100}, {"content", "<a>"}, {"normalized", false}},
                        {{"id", 1101}, {"content", "<a><b>"}, {"normalized", false}},
                        {{"id", 1102}, {"content", "<a"}, {"normalized", true}}}}});
  const auto segments = tokenizer->SplitAddedTokens("x<a><b><a>y<a");
  ASSERT_EQ(segments.size(), 5u);
  EXPECT_EQ(segments[0].text, "x");
  EXPECT_EQ(segments[1].token, 1101);
  EXPECT_EQ(segments[2].token, 1100);
  EXPECT_EQ(segments[2].text, "<a>");
  EXPECT_FALSE(segments[3].token);
  EXPECT_EQ(segments[4].token, 1102);
  EXPECT_EQ(tokenizer->vocab_size(), 1103u);
}

struct BadFile {
  const char* name;
  json patch;
  StatusCode code;
  const char* says;
};

TEST(Tokenizer, RefusesWhatItCannotDoByName) {
  const auto pre = [](json parts) {
    parts.push_back({{"type", "ByteLevel"}});
    return json{{"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", parts}}}};
  };
  const auto split = [&](const char* regex) {
    return pre(json::array(
        {{{"type", "Split"}, {"pattern", {{"Regex", regex}}}, {"behavior", "Isolated"}}}));
  };
  const auto model = [](const char* key, json value) { return json{{"model", {{key, value}}}}; };
  json deep = "x";
  for (int i = 0; i < 40; ++i) deep = json::array({deep});
  constexpr auto kUnsupported = StatusCode::kUnsupported;
  constexpr auto kInvalid = StatusCode::kInvalidArgument;
  const BadFile files[] = {
      {"normalizer", {{"normalizer", {{"type", "Lowercase"}}}}, kUnsupported, "Lowercase"},
      {"nfkc", {{"normalizer", {{"type", "NFKC"}}}}, kUnsupported, "NFKC"},
      {"metaspace", {{"pre_tokenizer", {{"type", "Metaspace"}}}}, kUnsupported, "Metaspace"},
      {"no byte level", {{"pre_tokenizer", {{"type", "Digits"}}}}, kUnsupported, "ByteLevel"},
      {"no pre-tokenizer", {{"pre_tokenizer", nullptr}}, kUnsupported, "ByteLevel"},
      {"two byte levels", pre(json::array({{{"type", "ByteLevel"}}})), kUnsupported, "after"},
      {"behavior",
       pre(json::array(
           {{{"type", "Split"}, {"pattern", {{"String", " "}}}, {"behavior", "MergedWithNext"}}})),
       kUnsupported, "MergedWithNext"},
      {"no pattern", pre(json::array({{{"type", "Split"}, {"behavior", "Isolated"}}})), kInvalid,
       "pattern"},
      {"word class", split("\\w+"), kUnsupported, "\\w"},
      {"anchor", split("^a"), kUnsupported, "^"},
      {"recursion", split("(?R)"), kUnsupported, "(?R)"},
      {"verb", split("(*ACCEPT)"), kUnsupported, "(*AC"},
      {"callout", split("(?C1)a"), kUnsupported, "(?C1"},
      {"back reference", split("(a)\\1"), kUnsupported, "\\1"},
      {"nested class", split("[a[b]]"), kUnsupported, "class"},
      {"not-space in class", split("[\\S]"), kUnsupported, "\\S"},
      {"unbalanced", split("(a"), kInvalid, "(a"},
      {"empty pattern", split(""), kInvalid, "1 to 4096"},
      {"word piece", model("type", "WordPiece"), kUnsupported, "WordPiece"},
      {"dropout", model("dropout", 0.1), kUnsupported, "dropout"},
      {"suffix", model("end_of_word_suffix", "</w>"), kUnsupported, "</w>"},
      {"prefix", model("continuing_subword_prefix", "##"), kUnsupported, "##"},
      {"byte fallback", model("byte_fallback", true), kUnsupported, "byte_fallback"},
      {"no vocab", model("vocab", nullptr), kInvalid, "vocab"},
      {"vocab list", model("vocab", {"a"}), kInvalid, "vocab"},
      {"negative id", model("vocab", {{"a", -1}}), kInvalid, "vocab"},
      {"float id", model("vocab", {{"a", 1.5}}), kInvalid, "vocab"},
      {"huge id", model("vocab", {{"a", 2000000}}), kInvalid, "1,999,999"},
      {"huge id 64", model("vocab", {{"a", UINT64_MAX}}), kInvalid, "1,999,999"},
      {"id twice", model("vocab", {{"a", 3}, {"b", 3}}), kInvalid, "twice"},
      {"empty token", model("vocab", {{"", 5000}}), kInvalid, "empty"},
      {"merge of strangers", model("merges", {"zz qqq"}), kInvalid, "merge 0"},
      {"merge of three", model("merges", {"a b c"}), kInvalid, "merges"},
      {"merge of one", model("merges", {"a"}), kInvalid, "merges"},
      {"merge triple", model("merges", {{"a", "b", "c"}}), kInvalid, "merges"},
      {"merge number", model("merges", {{1, 2}}), kInvalid, "merges"},
      {"unknown token", model("unk_token", "nope"), kInvalid, "unk_token"},
      {"flag", model("ignore_merges", "yes"), kInvalid, "ignore_merges"},
      {"added without id", {{"added_tokens", {{{"content", "x"}}}}}, kInvalid, "id"},
      {"added huge id",
       {{"added_tokens", {{{"content", "x"}, {"id", 1u << 31}}}}},
       kInvalid,
       "1,999,999"},
      {"added empty", {{"added_tokens", {{{"content", ""}, {"id", 2000}}}}}, kInvalid, "empty"},
      {"added twice",
       {{"added_tokens", {{{"content", "x1"}, {"id", 2000}}, {{"content", "x1"}, {"id", 2001}}}}},
       kInvalid,
       "x1"},
      {"added over another",
       {{"added_tokens", {{{"content", "x1"}, {"id", 5}}}}},
       kInvalid,
       "contradicts"},
      {"added with another id",
       {{"added_tokens", {{{"content", "e"}, {"id", 2000}}}}},
       kInvalid,
       "contradicts"},
      {"decoder", {{"decoder", {{"type", "WordPiece"}}}}, kUnsupported, "WordPiece"},
      {"deep", {{"extra", deep}}, kInvalid, "deeply"},
  };
  for (const BadFile& file : files) {
    SCOPED_TRACE(file.name);
    const auto tokenizer = FromPatch(file.patch);
    ASSERT_FALSE(tokenizer.ok());
    EXPECT_EQ(tokenizer.status().code(), file.code) << tokenizer.status().ToString();
    EXPECT_NE(tokenizer.status().message().find(file.says), std::string::npos)
        << tokenizer.status().ToString();
  }
  for (const char* text : {"", "{", "[]", "null", "{}", "{\"model\":{}}", "{\"a\":1,\"a\":2}",
                           "{\"model\":{\"vocab\":{},\"vocab\":{}}}", "\xff", "{\"a\":1e999}"}) {
    EXPECT_FALSE(Tokenizer::FromJson(text).ok()) << text;
  }
}

TEST(Tokenizer, LoadNamesTheFile) {
  const auto missing = Tokenizer::Load(kData + "no-such-file.json");
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.status().code(), StatusCode::kNotFound);
  EXPECT_NE(missing.status().message().find("no-such-file.json"), std::string::npos);
  const auto folder = Tokenizer::Load(kData);  // a folder without tokenizer.json
  ASSERT_FALSE(folder.ok());
  EXPECT_EQ(folder.status().code(), StatusCode::kNotFound);
  EXPECT_TRUE(Tokenizer::Load(kData + "small.json").ok());
}

}  // namespace
}  // namespace msadb::model
