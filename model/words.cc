#include "model/words.h"

#include <utf8proc.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <set>
#include <unordered_map>
#include <utility>

namespace msadb::model {
namespace {

constexpr size_t kDocumentsMax = 256;
constexpr utf8proc_int32_t kWholeWords = 0x2e80;

bool IsWord(utf8proc_int32_t c) {
  if (c < 0x80) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
  }
  switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
      return true;
    default:
      return false;
  }
}

// Calls on_word(std::string_view) with each word of a text, valid during the call.
template <typename Function>
void ForEachWord(std::string_view text, Function on_word) {
  std::string word;
  const auto end_word = [&] {
    if (!word.empty()) on_word(std::string_view(word));
    word.clear();
  };
  while (!text.empty()) {
    utf8proc_int32_t c = static_cast<unsigned char>(text.front());
    utf8proc_ssize_t length = 1;
    if (c >= 0x80) {
      length = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                static_cast<utf8proc_ssize_t>(text.size()), &c);
    }
    text.remove_prefix(length > 0 ? static_cast<size_t>(length) : 1);
    if (length <= 0 || !IsWord(c)) {
      end_word();
    } else if (c < 0x80) {
      word.push_back(static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c));
    } else {
      if (c >= kWholeWords) end_word();
      utf8proc_uint8_t bytes[4];
      const utf8proc_ssize_t written = utf8proc_encode_char(utf8proc_tolower(c), bytes);
      word.append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(written));
      if (c >= kWholeWords) end_word();
    }
  }
  end_word();
}

struct Hash {
  using is_transparent = void;
  size_t operator()(std::string_view word) const { return std::hash<std::string_view>()(word); }
};

}  // namespace

std::vector<std::string> Words(std::string_view text) {
  std::vector<std::string> words;
  ForEachWord(text, [&](std::string_view word) { words.emplace_back(word); });
  return words;
}

std::vector<float> WordOverlaps(std::string_view asked, std::span<const std::string> texts) {
  std::unordered_map<std::string, size_t, Hash, std::equal_to<>>
      words;  // the asked ones, and an index
  ForEachWord(asked,
              [&](std::string_view word) { words.try_emplace(std::string(word), words.size()); });
  std::vector<std::set<size_t>> held(texts.size());  // of each text, indices
  std::vector<size_t> holders(words.size());         // texts that hold a word
  for (size_t i = 0; i < texts.size(); ++i) {
    ForEachWord(texts[i], [&](std::string_view word) {
      const auto it = words.find(word);
      if (it != words.end() && held[i].insert(it->second).second) ++holders[it->second];
    });
  }
  std::vector<double> weights(words.size());
  double total = 0;
  for (size_t w = 0; w < weights.size(); ++w) {
    if (holders[w] == 0) continue;
    const double idf =
        std::log((static_cast<double>(texts.size()) + 1) / (static_cast<double>(holders[w]) + 0.5));
    weights[w] = idf * idf;
    total += weights[w];
  }
  std::vector<float> overlaps(texts.size(), 0.0f);
  if (total == 0) return overlaps;
  for (size_t i = 0; i < texts.size(); ++i) {
    double sum = 0;
    for (const size_t w : held[i]) sum += weights[w];
    overlaps[i] = static_cast<float>(std::sqrt(sum / total));
  }
  return overlaps;
}

Status RankByWords(std::string_view asked, float share, MemoryBank& bank,
                   std::vector<RoutedDocument>* ranked) {
  if (share == 0) return Status::Ok();
  std::vector<std::string> texts;
  std::vector<RoutedDocument*> documents;
  for (RoutedDocument& document :
       std::span(*ranked).first(std::min(ranked->size(), kDocumentsMax))) {
    Result<std::string> text = bank.Text(document.number);
    if (text.status().code() == StatusCode::kNotFound) continue;
    if (!text.ok()) return text.status();
    texts.push_back(std::move(*text));
    documents.push_back(&document);
  }
  const std::vector<float> overlaps = WordOverlaps(asked, texts);
  for (size_t i = 0; i < documents.size(); ++i) documents[i]->score += share * overlaps[i];
  std::sort(ranked->begin(), ranked->end(), [](const auto& a, const auto& b) {
    return a.score != b.score ? a.score > b.score : a.number < b.number;
  });
  return Status::Ok();
}

}  // namespace msadb::model
