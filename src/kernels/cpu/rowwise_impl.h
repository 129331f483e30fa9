// SPDX-License-Identifier: Apache-2.0
// The row-wise kernels over 16 lanes (vec_*.h). Included by one file per ISA, which instantiates
// them; the operations and their order are those of rowwise_generic.cc.
#pragma once

#include <cstdint>

#include "kernels/cpu/intrinsics.h"
#include "kernels/exp.h"
#include "kernels/matmul.h"

namespace halfmoon::kernels::impl {

/// Exp of exp.h in every lane.
template <typename V>
HALFMOON_INLINE inline typename V::F Exp(typename V::F x) {
  using F = typename V::F;
  const F clamped = V::Min(V::Set(kExpMax), x);
  const F rounded = V::Fma(clamped, V::Set(kExpLog2e), V::Set(kExpRounder));
  const F n = V::Sub(rounded, V::Set(kExpRounder));
  const F r = V::Fma(n, V::Set(-kExpLn2Low), V::Fma(n, V::Set(-kExpLn2High), clamped));
  F q = V::Set(kExpQ[4]);
  Unroll<4>([&](int step) HALFMOON_INLINE {
    const int i = 3 - step;
    q = V::Fma(q, r, V::Set(kExpQ[i]));
  });
  const F p = V::Add(V::Fma(V::Mul(r, r), q, r), V::Set(1.0f));
  const typename V::I exponent =
      V::AddI(V::SubI(V::Bits(rounded), V::Bits(V::Set(kExpRounder))), V::SetI(126));
  const F result = V::Mul(V::Mul(p, V::FromBits(V::ShiftLeft(exponent, 23))), V::Set(2.0f));
  return V::ZeroBelow(x, kExpMin, result);
}

/// Calls op(i) for whole vectors of n, then part(i, count) for the rest.
template <typename Op, typename Part>
inline void ForLanes(int64_t n, const Op& op, const Part& part) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) op(i);
  if (i < n) part(i, n - i);
}

template <typename V>
void RmsNorm(const float* x, const float* w, int64_t n, float eps, float* out) {
  using F = typename V::F;
  F squares = V::Zero();
  ForLanes(
      n,
      [&](int64_t i) {
        const F v = V::Load(x + i);
        squares = V::Fma(v, v, squares);
      },
      [&](int64_t i, int64_t count) {
        const F v = V::LoadPart(x + i, count);
        squares = V::Fma(v, v, squares);
      });
  const float mean = V::SumLanes(squares) / static_cast<float>(n);
  const F inverse = V::Set(1.0f / __builtin_sqrtf(mean + eps));
  ForLanes(
      n,
      [&](int64_t i) {
        V::Store(out + i, V::Mul(V::Load(w + i), V::Mul(V::Load(x + i), inverse)));
      },
      [&](int64_t i, int64_t count) {
        const F scaled = V::Mul(V::LoadPart(x + i, count), inverse);
        V::StorePart(out + i, V::Mul(V::LoadPart(w + i, count), scaled), count);
      });
}

template <typename V>
void Add(float* x, const float* y, int64_t n) {
  ForLanes(
      n, [&](int64_t i) { V::Store(x + i, V::Add(V::Load(x + i), V::Load(y + i))); },
      [&](int64_t i, int64_t count) {
        V::StorePart(x + i, V::Add(V::LoadPart(x + i, count), V::LoadPart(y + i, count)), count);
      });
}

template <typename V>
HALFMOON_INLINE inline typename V::F Silu(typename V::F z) {
  return V::Div(z, V::Add(V::Set(1.0f), impl::Exp<V>(V::Negate(z))));
}

template <typename V>
void SiluMul(const float* gate, const float* up, int64_t n, float* out) {
  ForLanes(
      n, [&](int64_t i) { V::Store(out + i, V::Mul(Silu<V>(V::Load(gate + i)), V::Load(up + i))); },
      [&](int64_t i, int64_t count) {
        const typename V::F gated = Silu<V>(V::LoadPart(gate + i, count));
        V::StorePart(out + i, V::Mul(gated, V::LoadPart(up + i, count)), count);
      });
}

template <typename V>
void Sigmoid(const float* x, int64_t n, float* out) {
  using F = typename V::F;
  const auto sigmoid = [](F z) {
    return V::Div(V::Set(1.0f), V::Add(V::Set(1.0f), impl::Exp<V>(V::Negate(z))));
  };
  ForLanes(
      n, [&](int64_t i) { V::Store(out + i, sigmoid(V::Load(x + i))); },
      [&](int64_t i, int64_t count) {
        V::StorePart(out + i, sigmoid(V::LoadPart(x + i, count)), count);
      });
}

template <typename V>
void RopeHalf(float* x, int64_t r, const float* cos, const float* sin) {
  using F = typename V::F;
  float* y = x + r / 2;
  const auto rotate = [](F a, F b, F c, F s, F* first, F* second) {
    *first = V::Fma(a, c, V::Negate(V::Mul(b, s)));
    *second = V::Fma(b, c, V::Mul(a, s));
  };
  F first;
  F second;
  ForLanes(
      r / 2,
      [&](int64_t i) {
        rotate(V::Load(x + i), V::Load(y + i), V::Load(cos + i), V::Load(sin + i), &first, &second);
        V::Store(x + i, first);
        V::Store(y + i, second);
      },
      [&](int64_t i, int64_t count) {
        rotate(V::LoadPart(x + i, count), V::LoadPart(y + i, count), V::LoadPart(cos + i, count),
               V::LoadPart(sin + i, count), &first, &second);
        V::StorePart(x + i, first, count);
        V::StorePart(y + i, second, count);
      });
}

template <typename V>
void Softmax(const float* x, int64_t n, float* out) {
  using F = typename V::F;
  const float lowest = -__builtin_inff();
  const auto load_part = [&](int64_t i, int64_t count) {
    return V::SelectLanes(V::LoadPart(x + i, count), lowest, 0, static_cast<int>(count));
  };
  F max_lanes = V::Set(lowest);
  ForLanes(
      n, [&](int64_t i) { max_lanes = V::Max(V::Load(x + i), max_lanes); },
      [&](int64_t i, int64_t count) { max_lanes = V::Max(load_part(i, count), max_lanes); });
  const F max = V::Set(V::MaxLanes(max_lanes));
  F sum_lanes = V::Zero();
  ForLanes(
      n,
      [&](int64_t i) {
        const F e = impl::Exp<V>(V::Sub(V::Load(x + i), max));
        V::Store(out + i, e);
        sum_lanes = V::Add(sum_lanes, e);
      },
      [&](int64_t i, int64_t count) {
        const F e = impl::Exp<V>(V::Sub(V::LoadPart(x + i, count), max));
        V::StorePart(out + i, e, count);
        sum_lanes = V::Add(sum_lanes, V::SelectLanes(e, 0.0f, 0, static_cast<int>(count)));
      });
  const F sum = V::Set(V::SumLanes(sum_lanes));
  ForLanes(
      n, [&](int64_t i) { V::Store(out + i, V::Div(V::Load(out + i), sum)); },
      [&](int64_t i, int64_t count) {
        V::StorePart(out + i, V::Div(V::LoadPart(out + i, count), sum), count);
      });
}

template <typename V>
void ScaledAdd(float* x, const float* y, float weight, int64_t n) {
  const typename V::F w = V::Set(weight);
  ForLanes(
      n, [&](int64_t i) { V::Store(x + i, V::Fma(w, V::Load(y + i), V::Load(x + i))); },
      [&](int64_t i, int64_t count) {
        const typename V::F sum = V::Fma(w, V::LoadPart(y + i, count), V::LoadPart(x + i, count));
        V::StorePart(x + i, sum, count);
      });
}

template <typename V>
void QuantizeGroup(typename V::F first, typename V::F second, int8_t* q, float* scale,
                   int32_t* sum16) {
  const typename V::I magnitude = V::SetI(0x7FFFFFFF);
  const uint32_t max_bits = V::MaxLanesU(
      V::MaxU(V::AndI(V::Bits(first), magnitude), V::AndI(V::Bits(second), magnitude)));
  float inverse = 0.0f;
  *scale = 0.0f;
  if (max_bits >= 0x7F800000u) {
    *scale = __builtin_nanf("");
    first = second = V::Zero();
  } else if (const float max = __builtin_bit_cast(float, max_bits); max >= kQuantizeMin) {
    *scale = max / 127.0f;
    inverse = 1.0f / *scale;
  }
  const typename V::I q_first = V::Round(V::Mul(first, V::Set(inverse)));
  const typename V::I q_second = V::Round(V::Mul(second, V::Set(inverse)));
  V::StoreI8(q, q_first);
  V::StoreI8(q + 16, q_second);
  sum16[0] = V::SumLanesI(q_first);
  sum16[1] = V::SumLanesI(q_second);
}

template <typename V>
void QuantizeRow(const float* x, int64_t k, int8_t* q, float* scale, int32_t* sum16) {
  int64_t g = 0;
  for (; (g + 1) * kGroup <= k; ++g) {
    QuantizeGroup<V>(V::Load(x + g * kGroup), V::Load(x + g * kGroup + 16), q + g * kGroup,
                     scale + g, sum16 + 2 * g);
  }
  const int64_t rest = k - g * kGroup;
  if (rest == 0) return;
  const float* tail = x + g * kGroup;
  const typename V::F first = rest >= 16 ? V::Load(tail) : V::LoadPart(tail, rest);
  const typename V::F second = rest > 16 ? V::LoadPart(tail + 16, rest - 16) : V::Zero();
  QuantizeGroup<V>(first, second, q + g * kGroup, scale + g, sum16 + 2 * g);
}

}  // namespace halfmoon::kernels::impl
