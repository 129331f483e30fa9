// SPDX-License-Identifier: Apache-2.0
// How two programs that share a secret show each other that they do, without sending it.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "base/result.h"

namespace halfmoon::net {

/// Bytes of a proof.
inline constexpr size_t kProofBytes = 32;

/// `count` unpredictable bytes. Errors: kInternal where the system gives none.
Result<std::string> RandomBytes(size_t count);

/// HMAC-SHA256 of `message` under `secret`, kProofBytes raw bytes. Errors: kInternal.
Result<std::string> Prove(std::string_view secret, std::string_view message);

/// Whether the two are equal, in a time that does not tell where they differ.
bool SameSecret(std::string_view a, std::string_view b);

}  // namespace halfmoon::net
