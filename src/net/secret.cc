// SPDX-License-Identifier: Apache-2.0
#include "net/secret.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

namespace halfmoon::net {

Result<std::string> RandomBytes(size_t count) {
  std::string bytes(count, '\0');
  if (RAND_bytes(reinterpret_cast<unsigned char*>(bytes.data()), static_cast<int>(count)) != 1) {
    return Error(ErrorCode::kInternal, "OpenSSL has no random bytes");
  }
  return bytes;
}

Result<std::string> Prove(std::string_view secret, std::string_view message) {
  std::string proof(kProofBytes, '\0');
  unsigned int size = 0;
  if (HMAC(EVP_sha256(), secret.data(), static_cast<int>(secret.size()),
           reinterpret_cast<const unsigned char*>(message.data()), message.size(),
           reinterpret_cast<unsigned char*>(proof.data()), &size) == nullptr ||
      size != kProofBytes) {
    return Error(ErrorCode::kInternal, "OpenSSL offers no HMAC-SHA256");
  }
  return proof;
}

bool SameSecret(std::string_view a, std::string_view b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

}  // namespace halfmoon::net
