// SPDX-License-Identifier: Apache-2.0
#include "net/digest.h"

#include <openssl/evp.h>

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

}  // namespace halfmoon::net
