// SPDX-License-Identifier: Apache-2.0
#include "net/digest.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

#include <array>
#include <utility>

namespace halfmoon::net {

struct Digest::State {
  struct Free {
    void operator()(EVP_MD_CTX* digest) const { EVP_MD_CTX_free(digest); }
  };
  std::unique_ptr<EVP_MD_CTX, Free> context;
};

Digest::Digest(std::unique_ptr<State> state) : state_(std::move(state)) {}
Digest::Digest(Digest&&) noexcept = default;
Digest& Digest::operator=(Digest&&) noexcept = default;
Digest::~Digest() = default;

Result<Digest> Digest::Start(DigestKind kind) {
  auto state = std::make_unique<State>();
  state->context.reset(EVP_MD_CTX_new());
  const EVP_MD* algorithm = kind == DigestKind::kSha1 ? EVP_sha1() : EVP_sha256();
  if (state->context == nullptr ||
      EVP_DigestInit_ex(state->context.get(), algorithm, nullptr) != 1) {
    return Error(
        ErrorCode::kInternal,
        "OpenSSL offers no " + std::string(kind == DigestKind::kSha1 ? "SHA-1" : "SHA-256"));
  }
  return Digest(std::move(state));
}

void Digest::Update(std::string_view bytes) {
  // Cannot fail after a successful start.
  EVP_DigestUpdate(state_->context.get(), bytes.data(), bytes.size());
}

std::string Digest::Finish() {
  std::array<unsigned char, EVP_MAX_MD_SIZE> raw;
  unsigned int size = 0;
  EVP_DigestFinal_ex(state_->context.get(), raw.data(), &size);
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string hex;
  for (unsigned int i = 0; i < size; ++i) {
    hex += kDigits[raw[i] >> 4];
    hex += kDigits[raw[i] & 15];
  }
  return hex;
}

Result<std::string> HmacSha256(std::string_view key, std::string_view message) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> raw;
  unsigned int size = 0;
  const auto* bytes = reinterpret_cast<const unsigned char*>(message.data());
  if (HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()), bytes, message.size(),
           raw.data(), &size) == nullptr) {
    return Error(ErrorCode::kInternal, "OpenSSL offers no HMAC-SHA-256");
  }
  return std::string(reinterpret_cast<const char*>(raw.data()), size);
}

bool SecretsEqual(std::string_view a, std::string_view b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

Result<std::string> RandomBytes(size_t count) {
  std::string bytes(count, '\0');
  if (RAND_bytes(reinterpret_cast<unsigned char*>(bytes.data()), static_cast<int>(count)) != 1) {
    return Error(ErrorCode::kInternal, "OpenSSL has no random bytes");
  }
  return bytes;
}

}  // namespace halfmoon::net
