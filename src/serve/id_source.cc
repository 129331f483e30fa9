// SPDX-License-Identifier: Apache-2.0
#include "serve/id_source.h"

#include <random>

namespace halfmoon::serve {
namespace {

uint64_t RandomBase() {
  std::random_device device;
  return (static_cast<uint64_t>(device()) << 32) | device();
}

}  // namespace

uint64_t MixBits(uint64_t a, uint64_t b) {
  // SplitMix64's finaliser over a Weyl sequence; every step is a bijection of the 64 bits.
  uint64_t x = a + (b + 1) * 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

IdSource::IdSource() : base_(RandomBase()) {}

uint64_t IdSource::NextRandom() { return MixBits(base_, counter_.fetch_add(1)); }

std::string IdSource::NextId() {
  constexpr char kHex[] = "0123456789abcdef";
  std::string id;
  for (uint64_t bits : {NextRandom(), NextRandom()}) {
    for (int i = 0; i < 12; ++i, bits >>= 4) id += kHex[bits & 15];
  }
  return id;
}

}  // namespace halfmoon::serve
