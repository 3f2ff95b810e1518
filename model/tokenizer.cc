#include "model/tokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <sys/stat.h>
#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <boost/unordered/unordered_flat_map.hpp>
#include <cstdlib>
#include <functional>
#include <limits>
#include <new>
#include <queue>
#include <stdexcept>
#include <utility>

#include "base/utf8.h"
#include "model/json_input.h"

namespace msadb::model {
namespace {

using nlohmann::json;

constexpr size_t kFileBytesMax = 128u << 20;
constexpr uint64_t kIdMax = 2'000'000 - 1;
constexpr size_t kMergesMax = 4'000'000;
constexpr size_t kTokenBytesMax = 64u << 10;
constexpr size_t kAddedTokensMax = 1u << 16;
constexpr size_t kSplitsMax = 16;
constexpr size_t kPatternBytesMax = 4096;
constexpr JsonLimits kJsonLimits = {.depth_max = 32, .values_max = 1'000'000};

// Words up to this many bytes are merged by scanning, longer ones with a heap.
constexpr size_t kScannedWordMax = 48;

// What GPT-2 cuts text into; ByteLevel applies it when use_regex is true.
constexpr const char* kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// --- Bytes as printable characters ---

// Byte-level BPE writes every byte as one printable character: itself when it is printable in
// Latin-1, else the next free code point from 256 up. The highest is 256 + 67.
struct ByteAlphabet {
  std::array<std::string, 256> spelling;
  std::array<int16_t, 324> byte_of;  // by code point; -1 when it stands for no byte

  ByteAlphabet() {
    byte_of.fill(-1);
    int next = 256;
    for (int byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) ||
                             (byte >= 0xae && byte <= 0xff);
      const int code_point = printable ? byte : next++;
      byte_of[static_cast<size_t>(code_point)] = static_cast<int16_t>(byte);
      utf8proc_uint8_t encoded[4];
      const auto length = utf8proc_encode_char(code_point, encoded);
      spelling[static_cast<size_t>(byte)].assign(reinterpret_cast<char*>(encoded),
                                                 static_cast<size_t>(length));
    }
  }
};

const ByteAlphabet& Alphabet() {
  static const ByteAlphabet alphabet;
  return alphabet;
}

// Appends the bytes that `spelling` (valid UTF-8) stands for. False, with `out` unchanged, when a
// character of it stands for no byte.
bool AppendSpelledBytes(std::string_view spelling, std::string* out) {
  const size_t before = out->size();
  for (size_t i = 0; i < spelling.size();) {
    const unsigned char lead = static_cast<unsigned char>(spelling[i]);
    unsigned code_point = lead;
    size_t length = 1;
    if (lead >= 0x80) {
      if ((lead & 0xe0) != 0xc0) break;
      code_point = (lead & 0x1fu) << 6 | (static_cast<unsigned char>(spelling[i + 1]) & 0x3fu);
      length = 2;
    }
    const auto& byte_of = Alphabet().byte_of;
    if (code_point >= byte_of.size() || byte_of[code_point] < 0) break;
    *out += static_cast<char>(byte_of[code_point]);
    i += length;
    if (i == spelling.size()) return true;
  }
  if (spelling.empty()) return true;
  out->resize(before);
  return false;
}

// --- Characters ---

bool IsSpace(utf8proc_int32_t c) {
  return (c >= 0x09 && c <= 0x0d) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
         c == 0x3000;
}

bool IsWord(utf8proc_int32_t c) {
  if (c == 0x200c || c == 0x200d) return true;  // the joiners
  switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return false;
  }
}

// The character at byte `at` of valid UTF-8, and its length.
utf8proc_int32_t CharacterAt(std::string_view text, size_t at, size_t* length) {
  utf8proc_int32_t c = -1;
  *length = static_cast<size_t>(
      utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + at,
                       static_cast<utf8proc_ssize_t>(text.size() - at), &c));
  return c;
}

size_t PreviousCharacter(std::string_view text, size_t at) {
  do {
    --at;
  } while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xc0) == 0x80);
  return at;
}

// --- Lossy UTF-8 ---

// Moves whole characters from `*pending` + `bytes` to `*out`, U+FFFD for each maximal invalid
// sequence; keeps an unfinished character at the end in `*pending`, or replaces it too when
// `at_end`. The result does not depend on how the bytes are divided among calls.
void AppendLossy(std::string_view bytes, bool at_end, std::string* pending, std::string* out) {
  std::string joined;
  if (!pending->empty()) {
    joined = *pending;
    joined += bytes;
    pending->clear();
    bytes = joined;
  }
  while (!bytes.empty()) {
    const size_t valid = base::Utf8ValidPrefix(bytes);
    out->append(bytes.substr(0, valid));
    bytes.remove_prefix(valid);
    if (bytes.empty()) return;
    const unsigned char lead = static_cast<unsigned char>(bytes[0]);
    // Bytes that the sequence starting here needs, and the range of its second one (RFC 3629).
    size_t needed = 1;
    unsigned char low = 0x80;
    unsigned char high = 0xbf;
    if (lead >= 0xc2 && lead <= 0xdf) {
      needed = 2;
    } else if (lead >= 0xe0 && lead <= 0xef) {
      needed = 3;
      if (lead == 0xe0) low = 0xa0;
      if (lead == 0xed) high = 0x9f;
    } else if (lead >= 0xf0 && lead <= 0xf4) {
      needed = 4;
      if (lead == 0xf0) low = 0x90;
      if (lead == 0xf4) high = 0x8f;
    }
    size_t length = 1;
    while (length < needed && length < bytes.size()) {
      const unsigned char c = static_cast<unsigned char>(bytes[length]);
      if (c < low || c > high) break;
      low = 0x80;
      high = 0xbf;
      ++length;
    }
    if (length == bytes.size() && length < needed && !at_end) {
      pending->assign(bytes);
      return;
    }
    out->append("\xef\xbf\xbd");
    bytes.remove_prefix(length);
  }
}

// --- Split patterns ---

struct CodeDeleter {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};
using Code = std::unique_ptr<pcre2_code, CodeDeleter>;

// Rewrites a pattern of the Oniguruma dialect that tokenizer.json uses for PCRE2. The two agree on
// what tokenizers use, except that PCRE2's \s contains U+180E. What they read differently, or what
// no tokenizer needs, is refused rather than guessed.
Result<std::string> TranslatePattern(std::string_view pattern) {
  // White_Space of Unicode is the separators and these controls.
  constexpr std::string_view kSpaces = R"(\x{09}-\x{0D}\x{85}\p{Z})";
  const auto refuse = [&](std::string_view what) {
    return Status::Unsupported("split pattern " + Quoted(pattern) + " uses " + Quoted(what) +
                               ", which is not supported");
  };
  std::string out;
  bool in_class = false;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    const std::string_view rest = pattern.substr(i);
    if (c == '\\') {
      if (rest.size() < 2) return refuse("\\");
      const char escaped = rest[1];
      ++i;
      const bool letter_or_digit = (escaped >= '0' && escaped <= '9') ||
                                   (escaped >= 'a' && escaped <= 'z') ||
                                   (escaped >= 'A' && escaped <= 'Z');
      if (escaped == 's') {
        out += in_class ? std::string(kSpaces) : "[" + std::string(kSpaces) + "]";
      } else if (escaped == 'S' && !in_class) {
        out += "[^" + std::string(kSpaces) + "]";
      } else if (!letter_or_digit ||
                 std::string_view("pPdDrntx").find(escaped) != std::string_view::npos) {
        out += c;
        out += escaped;
      } else {
        return refuse(rest.substr(0, 2));
      }
    } else if (in_class) {
      if (c == '[') return refuse("[ inside a class");
      if (rest.starts_with("&&")) return refuse("&&");
      if (c == ']') in_class = false;
      out += c;
    } else if (c == '[') {
      in_class = true;
      out += c;
      if (rest.starts_with("[^")) {
        out += '^';
        ++i;
      }
      if (pattern.substr(i + 1).starts_with("]")) return refuse("[]");
    } else if (c == '(' && rest.size() > 1 && (rest[1] == '?' || rest[1] == '*')) {
      constexpr std::string_view kGroups[] = {"(?:", "(?i:", "(?!", "(?=", "(?>"};
      const auto group = std::find_if(std::begin(kGroups), std::end(kGroups),
                                      [&](std::string_view g) { return rest.starts_with(g); });
      if (group == std::end(kGroups)) return refuse(rest.substr(0, 4));
      out += *group;
      i += group->size() - 1;
    } else if (c == '^' || c == '$') {
      return refuse(rest.substr(0, 1));
    } else {
      out += c;
    }
  }
  return out;
}

Result<Code> CompilePattern(std::string_view pattern, bool literal) {
  if (pattern.empty() || pattern.size() > kPatternBytesMax) {
    return Status::InvalidArgument("a split pattern must have 1 to 4096 bytes");
  }
  std::string source(pattern);
  if (!literal) {
    MSADB_ASSIGN_OR_RETURN(source, TranslatePattern(pattern));
  }
  int error = 0;
  PCRE2_SIZE offset = 0;
  const uint32_t options =
      PCRE2_UTF | (literal ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C);
  Code code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(source.data()), source.size(), options,
                          &error, &offset, nullptr));
  if (code == nullptr) {
    PCRE2_UCHAR message[128];
    pcre2_get_error_message(error, message, sizeof(message));
    return Status::InvalidArgument("split pattern " + Quoted(pattern) + ": " +
                                   reinterpret_cast<const char*>(message));
  }
  // Without JIT (some machines forbid it) the same code runs interpreted.
  static_cast<void>(pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE));
  return code;
}

// One step that cuts pieces of text into smaller ones.
struct Split {
  Code code;
  bool keep_matches = true;
  bool keep_gaps = true;  // what lies between matches
};

// --- Reading tokenizer.json ---

// A stretch of an arena string.
struct Slice {
  uint32_t offset = 0;
  uint32_t size = 0;
};

std::string_view Cut(const std::string& arena, Slice slice) {
  return std::string_view(arena).substr(slice.offset, slice.size);
}

// Takes model.vocab and model.merges, which are most of the file, straight from the parser; the
// rest becomes an ordinary JSON document.
class TokenizerJsonReader : public JsonBuilder {
 public:
  TokenizerJsonReader() : JsonBuilder(kJsonLimits) {}

  struct VocabEntry {
    Slice spelling;
    int32_t id = 0;
  };

  std::string arena;
  std::vector<VocabEntry> vocab;
  std::vector<std::pair<Slice, Slice>> merges;

  bool key(string_t& name) override {
    if (capture_ == Capture::kVocab) {
      if (!Keep(name, &spelling_)) return false;
      return vocab.size() <= kIdMax || Fail("model.vocab has more than 2,000,000 entries");
    }
    if (depth_ == 1) {
      top_key_ = name;
      model_key_.clear();
    } else if (depth_ == 2 && top_key_ == "model") {
      model_key_ = name;
    }
    return JsonBuilder::key(name);
  }

  bool start_object(std::size_t elements) override {
    if (capture_ != Capture::kNone) return BadElement();
    if (AtModelKey("vocab")) {
      capture_ = Capture::kVocab;
      return true;
    }
    ++depth_;
    return JsonBuilder::start_object(elements);
  }

  bool end_object() override {
    if (capture_ == Capture::kVocab) {
      capture_ = Capture::kNone;
      return true;
    }
    --depth_;
    return JsonBuilder::end_object();
  }

  bool start_array(std::size_t elements) override {
    if (capture_ == Capture::kMerges) {
      capture_ = Capture::kPair;
      pair_.clear();
      return true;
    }
    if (capture_ != Capture::kNone) return BadElement();
    if (AtModelKey("merges")) {
      capture_ = Capture::kMerges;
      return true;
    }
    ++depth_;
    return JsonBuilder::start_array(elements);
  }

  bool end_array() override {
    if (capture_ == Capture::kPair) {
      capture_ = Capture::kMerges;
      return pair_.size() == 2 ? AddMerge(pair_[0], pair_[1]) : BadElement();
    }
    if (capture_ == Capture::kMerges) {
      capture_ = Capture::kNone;
      return true;
    }
    --depth_;
    return JsonBuilder::end_array();
  }

  bool number_unsigned(number_unsigned_t value) override {
    if (capture_ == Capture::kNone) return JsonBuilder::number_unsigned(value);
    if (capture_ != Capture::kVocab) return BadElement();
    if (value > kIdMax) return Fail("model.vocab has an id above 1,999,999");
    vocab.push_back({spelling_, static_cast<int32_t>(value)});
    return true;
  }

  bool string(string_t& value) override {
    if (capture_ == Capture::kNone) return JsonBuilder::string(value);
    if (capture_ == Capture::kVocab) return BadElement();
    Slice slice;
    if (capture_ == Capture::kPair) {
      if (pair_.size() == 2 || !Keep(value, &slice)) return BadElement();
      pair_.push_back(slice);
      return true;
    }
    const size_t space = value.find(' ');
    if (space == std::string::npos || value.find(' ', space + 1) != std::string::npos) {
      return BadElement();
    }
    if (!Keep(value, &slice)) return false;
    const uint32_t left = static_cast<uint32_t>(space);
    return AddMerge({slice.offset, left}, {slice.offset + left + 1, slice.size - left - 1});
  }

  bool null() override { return capture_ == Capture::kNone ? JsonBuilder::null() : BadElement(); }
  bool boolean(bool value) override {
    return capture_ == Capture::kNone ? JsonBuilder::boolean(value) : BadElement();
  }
  bool number_integer(number_integer_t value) override {
    return capture_ == Capture::kNone ? JsonBuilder::number_integer(value) : BadElement();
  }
  bool number_float(number_float_t value, const string_t& text) override {
    return capture_ == Capture::kNone ? JsonBuilder::number_float(value, text) : BadElement();
  }

 private:
  enum class Capture : uint8_t { kNone, kVocab, kMerges, kPair };

  bool AtModelKey(std::string_view key) const {
    return depth_ == 2 && top_key_ == "model" && model_key_ == key;
  }

  bool BadElement() {
    return Fail(capture_ == Capture::kVocab
                    ? "model.vocab must map strings to token ids"
                    : "model.merges must hold \"a b\" strings or [\"a\", \"b\"] pairs");
  }

  bool Keep(const std::string& text, Slice* slice) {
    if (text.size() > kTokenBytesMax) return Fail("a token is longer than 64 KiB");
    // Arena offsets are 32-bit; kFileBytesMax keeps them in range.
    *slice = {static_cast<uint32_t>(arena.size()), static_cast<uint32_t>(text.size())};
    arena += text;
    return true;
  }

  bool AddMerge(Slice left, Slice right) {
    if (merges.size() >= kMergesMax) return Fail("model.merges has more than 4,000,000 entries");
    merges.emplace_back(left, right);
    return true;
  }

  Capture capture_ = Capture::kNone;
  size_t depth_ = 0;
  std::string top_key_;
  std::string model_key_;
  Slice spelling_;
  std::vector<Slice> pair_;
};

struct AddedToken {
  std::string content;
  int32_t id = 0;
  bool special = false;
  bool normalized = false;
  bool single_word = false;
  bool lstrip = false;
  bool rstrip = false;
};

// Added tokens by first byte, longest first.
class AddedTokenMatcher {
 public:
  void Add(std::string pattern, const AddedToken* token) {
    if (pattern.empty()) return;
    auto& bucket = buckets_[static_cast<unsigned char>(pattern[0])];
    const auto place = std::find_if(bucket.begin(), bucket.end(), [&](const Entry& entry) {
      return entry.pattern.size() < pattern.size();
    });
    bucket.insert(place, Entry{std::move(pattern), token});
    empty_ = false;
  }

  // Cuts `text` at the leftmost, longest matches and calls segment(token, stretch) for each token
  // (token set) and each non-empty text between them (token null), in order.
  template <typename Segment>
  void Cut(std::string_view text, const Segment& segment) const {
    size_t done = 0;
    size_t at = 0;
    while (!empty_ && at < text.size()) {
      const Entry* entry = MatchAt(text, at);
      if (entry == nullptr) {
        ++at;
        continue;
      }
      size_t begin = at;
      size_t end = at + entry->pattern.size();
      at = end;
      const AddedToken& token = *entry->token;
      if (token.single_word && !IsSingleWord(text, begin, end)) continue;
      if (token.lstrip) {
        while (begin > done) {
          const size_t previous = PreviousCharacter(text, begin);
          size_t length = 0;
          if (!IsSpace(CharacterAt(text, previous, &length))) break;
          begin = previous;
        }
      }
      if (token.rstrip) {
        size_t length = 0;
        while (end < text.size() && IsSpace(CharacterAt(text, end, &length))) end += length;
        at = end;
      }
      if (begin > done) segment(nullptr, text.substr(done, begin - done));
      segment(&token, text.substr(begin, end - begin));
      done = end;
    }
    if (done < text.size()) segment(nullptr, text.substr(done));
  }

 private:
  struct Entry {
    std::string pattern;
    const AddedToken* token;
  };

  const Entry* MatchAt(std::string_view text, size_t at) const {
    for (const Entry& entry : buckets_[static_cast<unsigned char>(text[at])]) {
      if (text.substr(at).starts_with(entry.pattern)) return &entry;
    }
    return nullptr;
  }

  static bool IsSingleWord(std::string_view text, size_t begin, size_t end) {
    size_t length = 0;
    if (begin > 0 && IsWord(CharacterAt(text, PreviousCharacter(text, begin), &length))) {
      return false;
    }
    return end == text.size() || !IsWord(CharacterAt(text, end, &length));
  }

  std::array<std::vector<Entry>, 256> buckets_;
  bool empty_ = true;
};

struct FreeDeleter {
  void operator()(void* memory) const { std::free(memory); }
};

// NFC of valid UTF-8. `storage` holds the result when it differs from the argument.
Result<std::string_view> NormalizeNfc(std::string_view text, std::string* storage) {
  // No character below U+0300 (lead byte 0xCC) composes with its neighbour or changes.
  if (std::all_of(text.begin(), text.end(),
                  [](char c) { return static_cast<unsigned char>(c) < 0xcc; })) {
    return text;
  }
  utf8proc_uint8_t* mapped = nullptr;
  const auto length =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                   static_cast<utf8proc_ssize_t>(text.size()), &mapped,
                   static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  const std::unique_ptr<utf8proc_uint8_t, FreeDeleter> owner(mapped);
  if (length < 0) {
    return Status::ResourceExhausted(std::string("cannot normalise the text: ") +
                                     utf8proc_errmsg(length));
  }
  storage->assign(reinterpret_cast<const char*>(mapped), static_cast<size_t>(length));
  return std::string_view(*storage);
}

Status Unsupported(std::string_view part, const json& value) {
  return Status::Unsupported(
      std::string(part) + " " +
      Quoted(value.is_string() ? value.get<std::string>()
                               : value.dump(-1, ' ', true, json::error_handler_t::replace)) +
      " is not supported");
}

Result<bool> Flag(const json& object, const char* key, bool missing) {
  const auto it = object.find(key);
  if (it == object.end() || it->is_null()) return missing;
  if (!it->is_boolean()) {
    return Status::InvalidArgument(std::string(key) + " must be true or false");
  }
  return it->get<bool>();
}

// The `type` of a component; empty when it is not an object with one.
std::string TypeOf(const json& component) {
  if (!component.is_object()) return "";
  const auto it = component.find("type");
  return it != component.end() && it->is_string() ? it->get<std::string>() : "";
}

// Value of `key`, or null.
const json& At(const json& object, const char* key) {
  static const json null;
  const auto it = object.find(key);
  return it == object.end() ? null : *it;
}

}  // namespace

struct Tokenizer::Impl {
  struct Merge {
    uint32_t rank;
    int32_t id;
  };
  static constexpr uint32_t kNoRank = UINT32_MAX;

  static uint64_t Pair(int32_t left, int32_t right) {
    return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
  }

  // Set once while loading.
  bool nfc = false;
  std::vector<Split> splits;  // in order; ByteLevel's own pattern is the last one
  size_t byte_level_at = 0;   // index in `splits` before which add_prefix_space acts
  bool add_prefix_space = false;
  bool ignore_merges = false;
  bool fuse_unknown = false;
  std::optional<int32_t> unknown;

  std::string spellings;                                       // arena of vocabulary entries
  boost::unordered_flat_map<std::string_view, int32_t> vocab;  // spelling -> id
  std::string bytes;                                           // arena of what tokens stand for
  std::vector<Slice> bytes_by_id;
  std::vector<bool> has_token;
  std::array<int32_t, 256> byte_ids;                           // -1: not in the vocabulary
  boost::unordered_flat_map<uint64_t, Merge> merges;           // Pair(left, right)
  boost::unordered_flat_map<std::string_view, int32_t> words;  // bytes -> id, for ignore_merges

  std::vector<AddedToken> added;  // never resized after loading: the matchers point into it
  boost::unordered_flat_map<std::string_view, int32_t> added_ids;
  std::vector<bool> special;
  AddedTokenMatcher raw_matcher;         // tokens looked for in the text as it is
  AddedTokenMatcher normalized_matcher;  // tokens looked for in the normalised text
  AddedTokenMatcher template_matcher;    // all tokens as written

  Status ReadNormalizer(const json& component, int depth);
  Status ReadPreTokenizer(const json& component, int depth, bool* byte_level);
  Status ReadModel(const json& model, TokenizerJsonReader* reader);
  Status ReadAddedTokens(const json& list);
  Status Read(TokenizerJsonReader* reader);
  // Records what the token `id` stands for: the bytes that `spelling` spells, or `spelling` itself.
  void SetBytes(int32_t id, std::string_view spelling, bool spelled);

  class Encoder;
};

Status Tokenizer::Impl::ReadNormalizer(const json& component, int depth) {
  if (component.is_null()) return Status();
  const std::string type = TypeOf(component);
  if (type == "NFC") {
    nfc = true;
    return Status();
  }
  if (type == "Sequence" && At(component, "normalizers").is_array() && depth < 2) {
    for (const json& part : component["normalizers"]) {
      MSADB_RETURN_IF_ERROR(ReadNormalizer(part, depth + 1));
    }
    return Status();
  }
  return Unsupported("normalizer", type.empty() ? component : json(type));
}

Status Tokenizer::Impl::ReadPreTokenizer(const json& component, int depth, bool* byte_level) {
  if (component.is_null()) return Status();
  const std::string type = TypeOf(component);
  if (type == "Sequence" && At(component, "pretokenizers").is_array() && depth < 2) {
    for (const json& part : component["pretokenizers"]) {
      MSADB_RETURN_IF_ERROR(ReadPreTokenizer(part, depth + 1, byte_level));
    }
    return Status();
  }
  if (*byte_level) return Unsupported("pre_tokenizer after ByteLevel:", type);
  if (splits.size() >= kSplitsMax) {
    return Status::Unsupported("pre_tokenizer has more than 16 steps");
  }
  if (type == "ByteLevel") {
    *byte_level = true;
    byte_level_at = splits.size();
    MSADB_ASSIGN_OR_RETURN(add_prefix_space, Flag(component, "add_prefix_space", true));
    MSADB_ASSIGN_OR_RETURN(const bool use_regex, Flag(component, "use_regex", true));
    if (use_regex) {
      MSADB_ASSIGN_OR_RETURN(Code code, CompilePattern(kGpt2Pattern, /*literal=*/false));
      splits.push_back({.code = std::move(code)});
    }
    return Status();
  }
  if (type == "Digits") {
    MSADB_ASSIGN_OR_RETURN(const bool individual, Flag(component, "individual_digits", false));
    MSADB_ASSIGN_OR_RETURN(Code code, CompilePattern(individual ? R"(\p{N})" : R"(\p{N}+)", false));
    splits.push_back({.code = std::move(code)});
    return Status();
  }
  if (type == "Split") {
    const json& pattern = At(component, "pattern");
    const json& regex = pattern.is_object() ? At(pattern, "Regex") : pattern;
    const json& literal = pattern.is_object() ? At(pattern, "String") : pattern;
    if (!regex.is_string() && !literal.is_string()) {
      return Status::InvalidArgument("pre_tokenizer Split needs a pattern Regex or String");
    }
    const json& behavior = At(component, "behavior");
    MSADB_ASSIGN_OR_RETURN(const bool invert, Flag(component, "invert", false));
    Split split;
    if (behavior == "Removed") {
      split.keep_matches = invert;
      split.keep_gaps = !invert;
    } else if (behavior != "Isolated") {
      return Unsupported("pre_tokenizer Split with behavior", behavior);
    }
    const bool is_literal = !regex.is_string() && literal.is_string();
    MSADB_ASSIGN_OR_RETURN(
        split.code, CompilePattern((is_literal ? literal : regex).get<std::string>(), is_literal));
    splits.push_back(std::move(split));
    return Status();
  }
  return Unsupported("pre_tokenizer", type.empty() ? component : json(type));
}

void Tokenizer::Impl::SetBytes(int32_t id, std::string_view spelling, bool spelled) {
  const size_t index = static_cast<size_t>(id);
  if (index >= bytes_by_id.size()) {
    bytes_by_id.resize(index + 1);
    has_token.resize(index + 1);
    special.resize(index + 1);
  }
  const size_t offset = bytes.size();
  if (!spelled || !AppendSpelledBytes(spelling, &bytes)) bytes += spelling;
  bytes_by_id[index] = {static_cast<uint32_t>(offset),
                        static_cast<uint32_t>(bytes.size() - offset)};
  has_token[index] = true;
}

Status Tokenizer::Impl::ReadModel(const json& model, TokenizerJsonReader* reader) {
  if (!model.is_object()) return Status::InvalidArgument("model is missing or not an object");
  if (const json& type = At(model, "type"); !type.is_null() && type != "BPE") {
    return Unsupported("model type", type);
  }
  if (const json& dropout = At(model, "dropout"); !dropout.is_null() && dropout != 0) {
    return Unsupported("model.dropout", dropout);
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const json& affix = At(model, key);
    if (!affix.is_null() && affix != "") return Unsupported(std::string("model.") + key, affix);
  }
  MSADB_ASSIGN_OR_RETURN(const bool byte_fallback, Flag(model, "byte_fallback", false));
  if (byte_fallback) return Status::Unsupported("model.byte_fallback true is not supported");
  MSADB_ASSIGN_OR_RETURN(ignore_merges, Flag(model, "ignore_merges", false));
  MSADB_ASSIGN_OR_RETURN(fuse_unknown, Flag(model, "fuse_unk", false));

  if (reader->vocab.empty()) return Status::InvalidArgument("model.vocab is missing or empty");
  spellings = std::move(reader->arena);
  vocab.reserve(reader->vocab.size());
  bytes.reserve(spellings.size());
  for (const auto& entry : reader->vocab) {
    const std::string_view spelling = Cut(spellings, entry.spelling);
    if (spelling.empty()) return Status::InvalidArgument("model.vocab has an empty token");
    if (!vocab.emplace(spelling, entry.id).second) {
      return Status::InvalidArgument("model.vocab has the token " + Quoted(spelling) + " twice");
    }
    if (static_cast<size_t>(entry.id) < has_token.size() &&
        has_token[static_cast<size_t>(entry.id)]) {
      return Status::InvalidArgument("model.vocab has the id " + std::to_string(entry.id) +
                                     " twice");
    }
    SetBytes(entry.id, spelling, /*spelled=*/true);
  }
  for (size_t byte = 0; byte < 256; ++byte) {
    const auto it = vocab.find(Alphabet().spelling[byte]);
    byte_ids[byte] = it == vocab.end() ? -1 : it->second;
  }
  if (const json& token = At(model, "unk_token"); !token.is_null()) {
    const auto it =
        token.is_string() ? vocab.find(token.get_ref<const std::string&>()) : vocab.end();
    if (it == vocab.end()) {
      return Status::InvalidArgument("model.unk_token is not in model.vocab");
    }
    unknown = it->second;
  }

  merges.reserve(reader->merges.size());
  std::string joined;
  for (size_t rank = 0; rank < reader->merges.size(); ++rank) {
    const std::string_view left = Cut(spellings, reader->merges[rank].first);
    const std::string_view right = Cut(spellings, reader->merges[rank].second);
    joined.assign(left).append(right);
    const auto left_it = vocab.find(left);
    const auto right_it = vocab.find(right);
    const auto joined_it = vocab.find(joined);
    if (left_it == vocab.end() || right_it == vocab.end() || joined_it == vocab.end()) {
      return Status::InvalidArgument("merge " + std::to_string(rank) + " (" + Quoted(left) + ", " +
                                     Quoted(right) + ") has a part that is not in model.vocab");
    }
    merges[Pair(left_it->second, right_it->second)] = {static_cast<uint32_t>(rank),
                                                       joined_it->second};
  }
  return Status();
}

Status Tokenizer::Impl::ReadAddedTokens(const json& list) {
  if (list.is_null()) return Status();
  if (!list.is_array()) return Status::InvalidArgument("added_tokens is not a list");
  if (list.size() > kAddedTokensMax) {
    return Status::InvalidArgument("added_tokens has more than 65,536 entries");
  }
  added.reserve(list.size());
  for (const json& item : list) {
    const json& id = item.is_object() ? At(item, "id") : item;
    const json& content = item.is_object() ? At(item, "content") : item;
    if (!id.is_number_unsigned() || !content.is_string()) {
      return Status::InvalidArgument("an added token needs an id and a content");
    }
    AddedToken token;
    token.content = content;
    if (token.content.empty() || token.content.size() > kTokenBytesMax) {
      return Status::InvalidArgument("an added token is empty or longer than 64 KiB");
    }
    if (id.get<uint64_t>() > kIdMax) {
      return Status::InvalidArgument("added token " + Quoted(token.content) +
                                     " has an id above 1,999,999");
    }
    token.id = id.get<int32_t>();
    MSADB_ASSIGN_OR_RETURN(token.special, Flag(item, "special", false));
    MSADB_ASSIGN_OR_RETURN(token.normalized, Flag(item, "normalized", !token.special));
    MSADB_ASSIGN_OR_RETURN(token.single_word, Flag(item, "single_word", false));
    MSADB_ASSIGN_OR_RETURN(token.lstrip, Flag(item, "lstrip", false));
    MSADB_ASSIGN_OR_RETURN(token.rstrip, Flag(item, "rstrip", false));

    const auto in_vocab = vocab.find(token.content);
    const bool same = in_vocab != vocab.end() && in_vocab->second == token.id;
    const bool taken = static_cast<size_t>(token.id) < has_token.size() &&
                       has_token[static_cast<size_t>(token.id)];
    if ((in_vocab != vocab.end() && !same) || (taken && !same)) {
      return Status::InvalidArgument("added token " + Quoted(token.content) + " with id " +
                                     std::to_string(token.id) + " contradicts another token");
    }
    // A token that is matched in normalised text stands for its normalised content.
    std::string storage;
    std::string_view pattern = token.content;
    if (nfc && token.normalized) {
      MSADB_ASSIGN_OR_RETURN(pattern, NormalizeNfc(token.content, &storage));
    }
    SetBytes(token.id, pattern, /*spelled=*/false);
    special[static_cast<size_t>(token.id)] = token.special;
    // `added` has its final capacity, so pointers into it last.
    const AddedToken& kept = added.emplace_back(std::move(token));
    if (!added_ids.emplace(kept.content, kept.id).second) {
      return Status::InvalidArgument("added token " + Quoted(kept.content) + " occurs twice");
    }
    template_matcher.Add(kept.content, &kept);
    if (kept.normalized) {
      normalized_matcher.Add(storage.empty() ? kept.content : storage, &kept);
    } else {
      raw_matcher.Add(kept.content, &kept);
    }
  }
  return Status();
}

Status Tokenizer::Impl::Read(TokenizerJsonReader* reader) {
  const json& root = reader->root();
  if (!root.is_object()) return Status::InvalidArgument("not a JSON object");
  MSADB_RETURN_IF_ERROR(ReadNormalizer(At(root, "normalizer"), 0));
  bool byte_level = false;
  MSADB_RETURN_IF_ERROR(ReadPreTokenizer(At(root, "pre_tokenizer"), 0, &byte_level));
  if (!byte_level) return Status::Unsupported("pre_tokenizer without ByteLevel is not supported");
  if (const json& decoder = At(root, "decoder");
      !decoder.is_null() && TypeOf(decoder) != "ByteLevel") {
    return Unsupported("decoder", decoder);
  }
  MSADB_RETURN_IF_ERROR(ReadModel(At(root, "model"), reader));
  MSADB_RETURN_IF_ERROR(ReadAddedTokens(At(root, "added_tokens")));
  if (ignore_merges) {
    for (const auto& [spelling, id] : vocab) {
      // An added token is never made from plain text, not even by this short cut.
      if (added_ids.contains(spelling)) continue;
      words.emplace(Cut(bytes, bytes_by_id[static_cast<size_t>(id)]), id);
    }
  }
  return Status();
}

// The state of one Encode call.
class Tokenizer::Impl::Encoder {
 public:
  explicit Encoder(const Impl& impl) : impl_(impl) {}

  ~Encoder() {
    for (pcre2_match_data* data : match_data_) pcre2_match_data_free(data);
    pcre2_match_context_free(context_);
    pcre2_jit_stack_free(jit_stack_);
  }
  Encoder(const Encoder&) = delete;
  Encoder& operator=(const Encoder&) = delete;

  // `text_size`: bytes of all text that this call will encode.
  Status Prepare(size_t text_size) {
    // Backtracking over a run of spaces takes a step per byte, so that an honest pattern stays
    // below a few times the length of the text, while a runaway one soon gets here.
    const size_t match_limit =
        std::min<size_t>(100'000 + 8 * text_size, std::numeric_limits<uint32_t>::max());
    constexpr uint32_t kHeapLimitKib = 64u << 10;
    context_ = pcre2_match_context_create(nullptr);
    if (context_ == nullptr) return Status::ResourceExhausted("no memory to split text");
    pcre2_set_match_limit(context_, static_cast<uint32_t>(match_limit));
    pcre2_set_heap_limit(context_, kHeapLimitKib);
    match_data_.reserve(impl_.splits.size());
    for (size_t i = 0; i < impl_.splits.size(); ++i) {
      pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
      if (data == nullptr) return Status::ResourceExhausted("no memory to split text");
      match_data_.push_back(data);
    }
    return Status();
  }

  // Encodes text in which no added token is looked for, already normalised.
  Status Encode(std::string_view text) { return Cut(text, 0); }

  void Append(int32_t id) { ids_.push_back(id); }
  std::vector<int32_t> Take() { return std::move(ids_); }

 private:
  // Applies the splits from `step` on to `piece` and encodes what comes out.
  Status Cut(std::string_view piece, size_t step) {
    if (piece.empty()) return Status();
    std::string prefixed;
    if (step == impl_.byte_level_at && impl_.add_prefix_space && piece[0] != ' ') {
      prefixed.reserve(piece.size() + 1);
      prefixed += ' ';
      prefixed += piece;
      piece = prefixed;
    }
    if (step == impl_.splits.size()) {
      EncodeWord(piece);
      return Status();
    }
    const Split& split = impl_.splits[step];
    pcre2_match_data* data = match_data_[step];
    const auto* subject = reinterpret_cast<PCRE2_SPTR>(piece.data());
    size_t done = 0;  // everything before it is cut
    size_t from = 0;
    while (from < piece.size()) {
      const int found = pcre2_match(split.code.get(), subject, piece.size(), from,
                                    PCRE2_NO_UTF_CHECK, data, context_);
      if (found == PCRE2_ERROR_JIT_STACKLIMIT && GrowJitStack()) continue;
      if (found == PCRE2_ERROR_NOMATCH) break;
      // 0: the pattern has groups, for which there is no room in `data` and no use here.
      if (found < 0) return MatchFailed(found);
      const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(data);
      const size_t begin = offsets[0];
      const size_t end = offsets[1];
      if (split.keep_gaps && begin > done) {
        MSADB_RETURN_IF_ERROR(Cut(piece.substr(done, begin - done), step + 1));
      }
      if (split.keep_matches && end > begin) {
        MSADB_RETURN_IF_ERROR(Cut(piece.substr(begin, end - begin), step + 1));
      }
      done = end;
      from = end;
      if (begin == end && from < piece.size()) {
        size_t length = 0;
        CharacterAt(piece, from, &length);
        from += length;
      }
    }
    if (split.keep_gaps && done < piece.size()) return Cut(piece.substr(done), step + 1);
    return Status();
  }

  // Compiled patterns start on 32 KiB of the machine stack, which is enough for ordinary text and
  // costs nothing. True when a larger stack was put in place.
  bool GrowJitStack() {
    constexpr size_t kStackBytesMax = 8u << 20;
    if (jit_stack_ != nullptr) return false;
    jit_stack_ = pcre2_jit_stack_create(64u << 10, kStackBytesMax, nullptr);
    if (jit_stack_ != nullptr) pcre2_jit_stack_assign(context_, nullptr, jit_stack_);
    return jit_stack_ != nullptr;
  }

  static Status MatchFailed(int error) {
    PCRE2_UCHAR message[128];
    pcre2_get_error_message(error, message, sizeof(message));
    return Status::ResourceExhausted(std::string("a split pattern gave up on this text: ") +
                                     reinterpret_cast<const char*>(message));
  }

  void EncodeWord(std::string_view word) {
    if (impl_.ignore_merges) {
      const auto it = impl_.words.find(word);
      if (it != impl_.words.end()) {
        ids_.push_back(it->second);
        return;
      }
    }
    word_.clear();
    bool after_unknown = false;
    for (const char c : word) {
      const int32_t id = impl_.byte_ids[static_cast<unsigned char>(c)];
      if (id >= 0) {
        word_.push_back(id);
      } else if (impl_.unknown && !(after_unknown && impl_.fuse_unknown)) {
        word_.push_back(*impl_.unknown);
      }
      after_unknown = id < 0;
    }
    if (word_.size() <= kScannedWordMax) {
      MergeByScan();
    } else {
      MergeByHeap();
    }
  }

  // The merge of two neighbours; rank kNoRank when there is none.
  Merge MergeOf(int32_t left, int32_t right) const {
    const auto it = impl_.merges.find(Pair(left, right));
    return it == impl_.merges.end() ? Merge{kNoRank, 0} : it->second;
  }

  // Merges the pair of lowest rank, the leftmost of equals, until none is left.
  void MergeByScan() {
    std::array<Merge, kScannedWordMax> merge;  // merge[i] joins word_[i] and word_[i + 1]
    size_t n = word_.size();
    for (size_t i = 0; i + 1 < n; ++i) merge[i] = MergeOf(word_[i], word_[i + 1]);
    while (n > 1) {
      size_t best = 0;
      for (size_t i = 1; i + 1 < n; ++i) {
        if (merge[i].rank < merge[best].rank) best = i;
      }
      if (merge[best].rank == kNoRank) break;
      word_[best] = merge[best].id;
      for (size_t i = best + 1; i + 1 < n; ++i) {
        word_[i] = word_[i + 1];
        merge[i - 1] = merge[i];
      }
      --n;
      if (best > 0) merge[best - 1] = MergeOf(word_[best - 1], word_[best]);
      if (best + 1 < n) merge[best] = MergeOf(word_[best], word_[best + 1]);
    }
    ids_.insert(ids_.end(), word_.begin(), word_.begin() + static_cast<ptrdiff_t>(n));
  }

  // The same in O(n log n), for words of any length.
  void MergeByHeap() {
    struct Symbol {
      int32_t id;  // -1: merged into the one before it
      uint32_t previous;
      uint32_t next;
    };
    struct Candidate {
      uint32_t rank;
      uint32_t at;
      int32_t left, right;  // to recognise candidates that a later merge made stale
      bool operator>(const Candidate& other) const {
        return rank != other.rank ? rank > other.rank : at > other.at;
      }
    };
    const uint32_t n = static_cast<uint32_t>(word_.size());
    std::vector<Symbol> symbols(n);
    for (uint32_t i = 0; i < n; ++i) symbols[i] = {word_[i], i - 1, i + 1};
    std::vector<Candidate> initial;
    const auto candidate = [&](uint32_t at) -> std::optional<Candidate> {
      const int32_t left = symbols[at].id;
      const int32_t right = symbols[symbols[at].next].id;
      const Merge merge = MergeOf(left, right);
      if (merge.rank == kNoRank) return std::nullopt;
      return Candidate{merge.rank, at, left, right};
    };
    for (uint32_t i = 0; i + 1 < n; ++i) {
      if (const auto c = candidate(i)) initial.push_back(*c);
    }
    std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue(
        std::greater<>(), std::move(initial));
    while (!queue.empty()) {
      const Candidate best = queue.top();
      queue.pop();
      Symbol& left = symbols[best.at];
      if (left.id != best.left || left.next >= n || symbols[left.next].id != best.right) continue;
      Symbol& right = symbols[left.next];
      left.id = MergeOf(best.left, best.right).id;
      right.id = -1;
      left.next = right.next;
      if (left.next < n) {
        symbols[left.next].previous = best.at;
        if (const auto c = candidate(best.at)) queue.push(*c);
      }
      if (left.previous < n) {
        if (const auto c = candidate(left.previous)) queue.push(*c);
      }
    }
    for (uint32_t i = 0; i < n; i = symbols[i].next) ids_.push_back(symbols[i].id);
  }

  const Impl& impl_;
  std::vector<int32_t> ids_;
  std::vector<int32_t> word_;  // the word being merged
  std::vector<pcre2_match_data*> match_data_;
  pcre2_match_context* context_ = nullptr;
  pcre2_jit_stack* jit_stack_ = nullptr;
};

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;

Result<std::unique_ptr<Tokenizer>> Tokenizer::FromJson(std::string_view text) {
  try {
    if (text.size() > kFileBytesMax) {
      return Status::InvalidArgument("tokenizer.json is larger than 128 MiB");
    }
    TokenizerJsonReader reader;
    MSADB_RETURN_IF_ERROR(reader.Parse(text));
    auto impl = std::make_unique<Impl>();
    MSADB_RETURN_IF_ERROR(impl->Read(&reader));
    return std::unique_ptr<Tokenizer>(new Tokenizer(std::move(impl)));
  } catch (const std::bad_alloc&) {
    return Status::ResourceExhausted("no memory to load the tokenizer");
  }
}

Result<std::unique_ptr<Tokenizer>> Tokenizer::Load(const std::string& path) {
  struct stat info;
  const bool folder = ::stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
  const std::string file = folder ? path + "/tokenizer.json" : path;
  MSADB_ASSIGN_OR_RETURN(const std::string text, ReadFile(file, kFileBytesMax));
  auto tokenizer = FromJson(text);
  if (!tokenizer.ok()) return tokenizer.status().WithContext(file);
  return tokenizer;
}

Result<std::vector<int32_t>> Tokenizer::Encode(std::string_view text, EncodeOptions options) const {
  try {
    const size_t valid = base::Utf8ValidPrefix(text);
    if (valid != text.size()) {
      return Status::InvalidArgument("text is not valid UTF-8 at byte " + std::to_string(valid));
    }
    Impl::Encoder encoder(*impl_);
    MSADB_RETURN_IF_ERROR(encoder.Prepare(text.size()));
    Status status;
    const auto encode_plain = [&](std::string_view stretch) {
      std::string storage;
      if (impl_->nfc) {
        auto normalized = NormalizeNfc(stretch, &storage);
        if (!normalized.ok()) return normalized.status();
        stretch = *normalized;
      }
      if (!options.parse_special_tokens) return encoder.Encode(stretch);
      Status inner;
      impl_->normalized_matcher.Cut(stretch, [&](const AddedToken* token, std::string_view piece) {
        if (token != nullptr) {
          encoder.Append(token->id);
        } else if (inner.ok()) {
          inner = encoder.Encode(piece);
        }
      });
      return inner;
    };
    if (options.parse_special_tokens) {
      impl_->raw_matcher.Cut(text, [&](const AddedToken* token, std::string_view piece) {
        if (token != nullptr) {
          encoder.Append(token->id);
        } else if (status.ok()) {
          status = encode_plain(piece);
        }
      });
    } else {
      status = encode_plain(text);
    }
    MSADB_RETURN_IF_ERROR(status);
    return encoder.Take();
  } catch (const std::bad_alloc&) {
    return Status::ResourceExhausted("no memory to encode a text of " +
                                     std::to_string(text.size()) + " bytes");
  } catch (const std::length_error&) {
    return Status::ResourceExhausted("no memory to encode a text of " +
                                     std::to_string(text.size()) + " bytes");
  }
}

std::string Tokenizer::Decode(std::span<const int32_t> ids, bool skip_special) const {
  std::string raw;
  for (const int32_t id : ids) {
    if (skip_special && IsSpecial(id)) continue;
    raw += TokenBytes(id);
  }
  std::string pending;
  std::string out;
  AppendLossy(raw, /*at_end=*/true, &pending, &out);
  return out;
}

std::string_view Tokenizer::TokenBytes(int32_t id) const {
  if (id < 0 || static_cast<size_t>(id) >= impl_->bytes_by_id.size()) return {};
  return Cut(impl_->bytes, impl_->bytes_by_id[static_cast<size_t>(id)]);
}

std::optional<int32_t> Tokenizer::TokenId(std::string_view token) const {
  if (const auto it = impl_->added_ids.find(token); it != impl_->added_ids.end()) {
    return it->second;
  }
  if (const auto it = impl_->vocab.find(token); it != impl_->vocab.end()) return it->second;
  return std::nullopt;
}

bool Tokenizer::IsSpecial(int32_t id) const {
  return id >= 0 && static_cast<size_t>(id) < impl_->special.size() &&
         impl_->special[static_cast<size_t>(id)];
}

size_t Tokenizer::vocab_size() const { return impl_->bytes_by_id.size(); }

std::vector<Tokenizer::Segment> Tokenizer::SplitAddedTokens(std::string_view text) const {
  std::vector<Segment> segments;
  impl_->template_matcher.Cut(text, [&](const AddedToken* token, std::string_view piece) {
    segments.push_back(
        {token == nullptr ? std::nullopt : std::optional<int32_t>(token->id), piece});
  });
  return segments;
}

std::string StreamDecoder::Push(int32_t id) {
  std::string out;
  if (skip_special_ && tokenizer_->IsSpecial(id)) return out;
  AppendLossy(tokenizer_->TokenBytes(id), /*at_end=*/false, &pending_, &out);
  return out;
}

std::string StreamDecoder::Finish() {
  std::string out;
  AppendLossy({}, /*at_end=*/true, &pending_, &out);
  return out;
}

}  // namespace msadb::model
