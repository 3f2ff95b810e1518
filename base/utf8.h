// UTF-8 validation (RFC 3629): no overlong forms, no surrogates, nothing above U+10FFFF.
#ifndef MSADB_BASE_UTF8_H_
#define MSADB_BASE_UTF8_H_

#include <cstddef>
#include <string_view>

namespace msadb::base {

// Length in bytes of the longest prefix of `text` that is whole, valid UTF-8. Equals text.size()
// exactly when all of `text` is valid; otherwise it is the offset of the first bad sequence.
size_t Utf8ValidPrefix(std::string_view text);

inline bool IsValidUtf8(std::string_view text) { return Utf8ValidPrefix(text) == text.size(); }

// True when `text` holds a C0 or C1 control character or DEL. `text` must be valid UTF-8.
bool HasControlCharacter(std::string_view text);

}  // namespace msadb::base

#endif  // MSADB_BASE_UTF8_H_
