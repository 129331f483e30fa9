// SPDX-License-Identifier: Apache-2.0
// Bytes to UTF-8, with what is not UTF-8 replaced.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace halfmoon::text {

/// Appends `bytes` to `out`, each maximal subpart that is not UTF-8 as one U+FFFD (Unicode,
/// section 3.9, "Substitution of Maximal Subparts"), up to a trailing beginning of a character.
/// Returns how many bytes of that beginning (0 to 3) are left over: they were not appended, and
/// more bytes could still complete them.
size_t AppendUtf8(std::string_view bytes, std::string* out);

/// What a beginning that nothing completed becomes.
inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

}  // namespace halfmoon::text
