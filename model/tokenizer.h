// Text to token ids and back: byte-level BPE as described by a Hugging Face tokenizer.json.
//
// Understood: normalizer null, NFC or a Sequence of these; pre_tokenizer a ByteLevel, possibly
// after Split (Isolated or Removed) and Digits in a Sequence; model BPE with merges as "a b" or
// ["a", "b"], ignore_merges, unk_token; added tokens with lstrip, rstrip, single_word and
// normalized; decoder ByteLevel. That covers Qwen 2/3, SmolLM 1/2, GPT-2 and Llama 3. Everything
// else is refused with Unsupported, naming it. post_processor, truncation and padding are ignored:
// Encode never adds a token that the text does not hold.
//
// On what is understood the ids equal those of the `tokenizers` library
// (tests/model/tokenizer_test.cc), with two exceptions. Characters whose properties changed between
// the Unicode versions of the libraries involved (14 and later: a few combining marks and digits)
// may be cut or ordered differently. And where the white space taken by an added token's rstrip
// holds another added token, that other token is not matched a second time.
//
// The file is untrusted: size, nesting, vocabulary (<= 2,000,000) and every id are bounded; split
// patterns run under PCRE2's match limits, never std::regex.
#ifndef MSADB_MODEL_TOKENIZER_H_
#define MSADB_MODEL_TOKENIZER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "msadb/status.h"

namespace msadb::model {

struct EncodeOptions {
  // True: "<|im_end|>" and every other added token found in the text becomes that token. Only for
  // text that we wrote (templates). False: added tokens, special or not, are plain characters, so
  // that a stored text cannot close a turn or inject a tool call.
  bool parse_special_tokens = false;
};

// Immutable after loading; every method may be called from any thread.
class Tokenizer {
 public:
  // `path` is a tokenizer.json or a folder that holds one. NotFound, IOError, or as FromJson with
  // the path in front.
  static Result<std::unique_ptr<Tokenizer>> Load(const std::string& path);
  // Parses the text of a tokenizer.json. InvalidArgument: malformed. Unsupported: well formed, but
  // asking for something not listed above.
  static Result<std::unique_ptr<Tokenizer>> FromJson(std::string_view json);

  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // The token ids of `text`. InvalidArgument, naming the byte offset, when `text` is not valid
  // UTF-8: nothing is replaced silently. ResourceExhausted when a split pattern exceeds its match
  // limits or memory runs out. An empty text has no tokens. A byte that the vocabulary lacks
  // becomes unk_token, or nothing when there is none (as the `tokenizers` library does);
  // vocabularies that hold all 256 byte tokens, such as Qwen's, never lose anything.
  Result<std::vector<int32_t>> Encode(std::string_view text, EncodeOptions options = {}) const;

  // The text of `ids`, always valid UTF-8: bytes that do not form a character become U+FFFD. Ids
  // without a token contribute nothing. `skip_special` leaves out tokens marked special.
  std::string Decode(std::span<const int32_t> ids, bool skip_special = true) const;

  // The bytes that one token stands for (possibly part of a character); empty for an id without a
  // token. Valid as long as this object.
  std::string_view TokenBytes(int32_t id) const;
  // Id of an added token by its content, or of a vocabulary entry by its spelling in
  // tokenizer.json.
  std::optional<int32_t> TokenId(std::string_view token) const;
  // True for added tokens marked special; false for any id without a token.
  bool IsSpecial(int32_t id) const;
  // Highest id + 1, added tokens included. A model's embedding may have more rows; ids from here on
  // decode to nothing and should not be sampled.
  size_t vocab_size() const;

  // A stretch of text, or an added token found between two of them.
  struct Segment {
    std::optional<int32_t> token;  // set: an added token, and `text` is what it matched
    std::string_view text;         // points into the argument
  };
  // Cuts `text` at the added tokens in it; what Encode does first when it parses special tokens.
  // Templates use it to keep their own special tokens apart from substituted text.
  std::vector<Segment> SplitAddedTokens(std::string_view text) const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Turns tokens into text one at a time: each piece is valid UTF-8, characters come out as soon as
// their last byte is there, and all pieces together equal Tokenizer::Decode of all ids. One thread
// at a time; the tokenizer must outlive it.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer* tokenizer, bool skip_special = true)
      : tokenizer_(tokenizer), skip_special_(skip_special) {}

  // The text that became complete with this token; may be empty.
  std::string Push(int32_t id);
  // What is left at the end: U+FFFD if the last character is incomplete, else empty. The decoder is
  // then as new.
  std::string Finish();

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_;
  std::string pending_;  // at most 3 bytes: the start of a character
};

}  // namespace msadb::model

#endif  // MSADB_MODEL_TOKENIZER_H_
