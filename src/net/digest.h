// SPDX-License-Identifier: Apache-2.0
// SHA-1 and SHA-256 of bytes that arrive in pieces, and what proves a shared secret. They are here
// because OpenSSL's types stop at this area; hub checks downloads with them, transfer its peers.
// SHA-1 is for git's names of files only, never where
// somebody gains from a collision.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"

namespace halfmoon::net {

enum class DigestKind { kSha1, kSha256 };

/// A digest being computed. Move-only; not thread-safe.
class Digest {
 public:
  /// Errors: kInternal where OpenSSL refuses the algorithm.
  static Result<Digest> Start(DigestKind kind);

  Digest(Digest&&) noexcept;
  Digest& operator=(Digest&&) noexcept;
  ~Digest();

  void Update(std::string_view bytes);
  /// Lowercase hexadecimal digits of everything since Start. Once; the object is spent then.
  std::string Finish();

 private:
  struct State;
  explicit Digest(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

/// 32 bytes: HMAC-SHA-256 (RFC 2104) of `message` under `key`. Errors: kInternal where OpenSSL
/// refuses the algorithm.
Result<std::string> HmacSha256(std::string_view key, std::string_view message);

/// Whether both are the same, in a time that tells nothing of where they differ. Their sizes are no
/// secret.
bool SecretsEqual(std::string_view a, std::string_view b);

/// `count` unpredictable bytes. Errors: kInternal where the system gives none.
Result<std::string> RandomBytes(size_t count);

}  // namespace halfmoon::net
