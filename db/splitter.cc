#include "db/splitter.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>

namespace msadb::db {
namespace {

struct CodePoint {
  char32_t value = 0;
  size_t size = 0;  // bytes, at least 1
};

// Bytes that are not UTF-8 count as characters of one byte, so that nothing loops or overruns.
CodePoint Decode(std::string_view text, size_t at) {
  const auto lead = static_cast<unsigned char>(text[at]);
  const size_t size = lead < 0x80 ? 1 : lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC0 ? 2 : 1;
  if (size == 1 || text.size() - at < size) return {lead, 1};
  char32_t value = lead & (0xFF >> (size + 1));
  for (size_t i = 1; i < size; ++i) {
    const auto byte = static_cast<unsigned char>(text[at + i]);
    if ((byte & 0xC0) != 0x80) return {lead, 1};
    value = value << 6 | (byte & 0x3F);
  }
  return {value, size};
}

// `at` itself, or the start of the character it is inside of.
size_t CharacterStart(std::string_view text, size_t at) {
  if (at >= text.size()) return text.size();
  for (size_t back = 0; back < 4 && back <= at; ++back) {
    const size_t size = Decode(text, at - back).size;
    if (size > 1) return back < size ? at - back : at;
  }
  return at;
}

bool IsSpace(char32_t c) {
  return c == ' ' || (c >= '\t' && c <= '\r') || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

// Ends a sentence only with white space behind it: 3.14, msadb.h, what?!
bool IsSpacedTerminator(char32_t c) {
  return c == '.' || c == '!' || c == '?' || c == 0x2026 || (c >= 0x203C && c <= 0x203D) ||
         (c >= 0x2047 && c <= 0x2049);
}

// Ends a sentence by itself: scripts that put no space, or that use the mark for nothing else.
bool IsTerminator(char32_t c) {
  constexpr std::array<char32_t, 20> kTerminators = {
      0x0589,                  // Armenian full stop
      0x061F, 0x06D4,          // Arabic question mark, full stop
      0x0700, 0x0701, 0x0702,  // Syriac
      0x0964, 0x0965,          // danda, double danda
      0x0F0D, 0x0F0E,          // Tibetan shad
      0x104A, 0x104B,          // Myanmar
      0x1362, 0x1367,          // Ethiopic full stop, question mark
      0x17D4, 0x17D5,          // Khmer
      0x3002, 0xFF01, 0xFF1F,  // CJK full stop; full-width ! and ?
      0xFF61,                  // half-width CJK full stop
  };
  static_assert(std::is_sorted(kTerminators.begin(), kTerminators.end()));
  return std::binary_search(kTerminators.begin(), kTerminators.end(), c);
}

// May stand between a terminator and the end of its sentence.
bool IsCloser(char32_t c) {
  constexpr std::array<char32_t, 19> kClosers = {
      '"',    '\'',   ')',    ']',    '}',    0x00BB, 0x2019, 0x201D, 0x203A, 0x3009,
      0x300B, 0x300D, 0x300F, 0x3011, 0x3015, 0x301E, 0xFF02, 0xFF09, 0xFF3D};
  static_assert(std::is_sorted(kClosers.begin(), kClosers.end()));
  return std::binary_search(kClosers.begin(), kClosers.end(), c);
}

bool IsAsciiLetter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool IsAsciiDigit(char c) { return c >= '0' && c <= '9'; }

// Whether the full stop at `stop` ends a word that is commonly abbreviated, so that a space behind
// it says nothing: "Dr. Who", "e.g. this", "J. S. Bach", or the number of a list item.
bool IsAbbreviation(std::string_view text, size_t begin, size_t stop) {
  size_t word = stop;
  while (word > begin &&
         (IsAsciiLetter(text[word - 1]) || IsAsciiDigit(text[word - 1]) || text[word - 1] == '.')) {
    --word;
  }
  const std::string_view name = text.substr(word, stop - word);
  if (name.empty()) return false;
  if (std::all_of(name.begin(), name.end(), IsAsciiDigit)) {
    return word == begin || text[word - 1] == '\n';
  }
  if (name.size() == 1) return IsAsciiLetter(name[0]) && name != "I";
  const size_t inner = name.find('.');
  if (inner != std::string_view::npos) {
    return inner > 0 && name[name.size() - 2] == '.' && IsAsciiLetter(name.back());
  }
  constexpr std::array<std::string_view, 34> kAbbreviations = {
      "Abb", "Abs",  "Dr", "Fig", "Inc", "Jr",  "Ltd", "Mr",  "Mrs",    "Ms",  "Mt", "No",
      "Nr",  "Prof", "Sr", "St",  "Str", "Vol", "abs", "al",  "approx", "bzw", "ca", "cf",
      "ed",  "eds",  "eg", "fig", "ie",  "pp",  "usw", "vgl", "vol",    "vs"};
  static_assert(std::is_sorted(kAbbreviations.begin(), kAbbreviations.end()));
  return std::binary_search(kAbbreviations.begin(), kAbbreviations.end(), name);
}

enum End { kSentence, kLine, kWord, kEndKinds };

// The last end of each kind in (begin, last]; 0 when there is none (no end is ever at 0).
std::array<size_t, kEndKinds> LastEnds(std::string_view text, size_t begin, size_t last) {
  std::array<size_t, kEndKinds> ends = {};
  bool terminated = false;   // a terminator, and since then only closers and white space
  bool needs_space = false;  // ... which counts only with white space behind it
  size_t full_stop = 0;      // position of that terminator when it is '.', else 0
  int newlines = 0;          // in the white space just before `at`
  bool spaced = false;       // there is white space just before `at`
  for (size_t at = begin; at <= last && at < text.size();) {
    const CodePoint c = Decode(text, at);
    if (IsSpace(c.value)) {
      spaced = true;
      newlines += c.value == '\n' ? 1 : c.value == 0x2029 ? 2 : c.value == 0x2028 ? 1 : 0;
      at += c.size;
      continue;
    }
    const bool continues =
        terminated && !spaced &&
        (IsCloser(c.value) || IsTerminator(c.value) || IsSpacedTerminator(c.value));
    if (at > begin && !continues) {
      const bool lower = c.value >= 'a' && c.value <= 'z';
      const bool ended = terminated && (spaced || !needs_space) && !(needs_space && lower) &&
                         !(full_stop != 0 && IsAbbreviation(text, begin, full_stop));
      if (newlines > 1 || ended) {
        ends[kSentence] = at;
      } else if (newlines == 1) {
        ends[kLine] = at;
      } else if (spaced) {
        ends[kWord] = at;
      }
    }
    if (IsTerminator(c.value) || IsSpacedTerminator(c.value)) {
      // "?." ends like "?": one that needs no space settles it.
      needs_space = IsSpacedTerminator(c.value) && (!continues || needs_space);
      full_stop = c.value == '.' && !continues ? at : 0;
      terminated = true;
    } else if (!continues) {
      terminated = false;
    }
    spaced = false;
    newlines = 0;
    at += c.size;
  }
  return ends;
}

// Where to end a part that may reach from `begin` to `last`, which is before the end of the text.
size_t ChooseEnd(std::string_view text, size_t begin, size_t last) {
  const auto ends = LastEnds(text, begin, last);
  for (const size_t end : ends) {
    if (end > begin + (last - begin) / 2) return end;
  }
  const size_t best = *std::max_element(ends.begin(), ends.end());
  return best > begin ? best : last;
}

// Where the last character starts that is not white space; 0 when there is none.
size_t LastContent(std::string_view text) {
  size_t last = 0;
  for (size_t at = 0; at < text.size();) {
    const CodePoint c = Decode(text, at);
    if (!IsSpace(c.value)) last = at;
    at += c.size;
  }
  return last;
}

class Splitter {
 public:
  Splitter(std::string_view text, size_t tokens_max, const TokenCounter& count_tokens)
      : text_(text),
        last_content_(LastContent(text)),
        tokens_max_(tokens_max),
        count_tokens_(count_tokens) {}

  Result<std::vector<TextPart>> Run() {
    std::vector<TextPart> parts;
    for (size_t begin = 0; begin < text_.size();) {
      MSADB_ASSIGN_OR_RETURN(const size_t end, PartEnd(begin));
      parts.push_back({begin, end - begin});
      begin = end;
    }
    return parts;
  }

 private:
  Result<size_t> Count(size_t begin, size_t end) {
    return count_tokens_(text_.substr(begin, end - begin));
  }

  Result<size_t> PartEnd(size_t begin) {
    size_t too_far = text_.size() + 1;
    while (true) {
      MSADB_ASSIGN_OR_RETURN(const size_t reach, Reach(begin, too_far));
      if (reach == text_.size()) return reach;
      // The last part must not be white space alone.
      const size_t last = last_content_ > begin ? std::min(reach, last_content_) : reach;
      const size_t end = ChooseEnd(text_, begin, last);
      if (end == reach) return end;
      // A shorter text nearly always has fewer tokens, but tokenizers do not promise it.
      MSADB_ASSIGN_OR_RETURN(const size_t tokens, Count(begin, end));
      if (tokens <= tokens_max_) return end;
      too_far = end;
    }
  }

  // A position before `too_far` up to which the tokens fit, near the last such one. Guesses by the
  // bytes a token had so far, then corrects by what the guess really had.
  Result<size_t> Reach(size_t begin, size_t too_far) {
    size_t fits = begin;
    size_t next = begin + static_cast<size_t>(
                              std::min(static_cast<double>(tokens_max_) * bytes_per_token_ * 0.97,
                                       static_cast<double>(text_.size())));
    while (true) {
      // Strictly between what fits and what does not.
      next = CharacterStart(text_, std::min(next, too_far - 1));
      if (next <= fits) next = fits + Decode(text_, fits).size;
      if (next >= too_far && fits > begin) return fits;
      if (next >= too_far) {
        return Status::InvalidArgument("a single character has more than " +
                                       std::to_string(tokens_max_) +
                                       " tokens; the model's document length is too small");
      }
      MSADB_ASSIGN_OR_RETURN(const size_t tokens, Count(begin, next));
      const auto bytes = static_cast<double>(next - begin);
      const double ratio = static_cast<double>(tokens_max_) / static_cast<double>(tokens + 1);
      if (tokens <= tokens_max_) {
        fits = next;
        bytes_per_token_ = bytes / static_cast<double>(std::max<size_t>(tokens, 1));
        if (fits == text_.size() || tokens >= tokens_max_ - tokens_max_ / 8) return fits;
        next = begin + static_cast<size_t>(bytes * std::clamp(ratio * 0.97, 1.05, 4.0));
      } else {
        too_far = next;
        next = begin + static_cast<size_t>(bytes * std::min(ratio * 0.97, 0.95));
      }
      // When a guess leads outside of what is known, halve what is left instead.
      if (next <= fits || next >= too_far) next = fits + (too_far - fits) / 2;
      if (fits > begin && too_far - fits < (fits - begin) / 16) return fits;
    }
  }

  const std::string_view text_;
  const size_t last_content_;
  const size_t tokens_max_;
  const TokenCounter& count_tokens_;
  double bytes_per_token_ = 4;
};

}  // namespace

Result<std::vector<TextPart>> SplitText(std::string_view text, size_t tokens_max,
                                        const TokenCounter& count_tokens) {
  return Splitter(text, tokens_max, count_tokens).Run();
}

}  // namespace msadb::db
