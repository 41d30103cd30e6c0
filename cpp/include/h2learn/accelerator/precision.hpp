// The number formats of weights, gradients and table entries. Values travel as float; rounding one
// to a format gives the nearest number of the format, again as float.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace h2learn::accelerator {

enum class Precision { fp32, fp16, bf16 };

/// Bytes of one value in memory.
constexpr std::int64_t bytes_of(Precision precision) {
  return precision == Precision::fp32 ? 4 : 2;
}

namespace rounding {

/// Rounds away the low `dropped` bits of a significand, ties to even. A carry out
/// of it is the next power of two, or infinity: the pattern is ordered that way.
inline float drop_bits(float value, int dropped) {
  const auto pattern = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t last = std::uint32_t{1} << dropped;
  const std::uint32_t odd = (pattern >> dropped) & 1U;
  return std::bit_cast<float>((pattern + last / 2 - 1 + odd) & ~(last - 1));
}

inline float to_fp16(float value) {
  constexpr float smallest_normal = 0x1p-14F;
  constexpr float first_infinite = 65520.0F;  // half a step above the largest, 65504
  const float magnitude = std::fabs(value);
  if (magnitude >= first_infinite) {
    return std::copysign(std::numeric_limits<float>::infinity(), value);
  }
  if (magnitude < smallest_normal) {
    // Subnormals are multiples of 2^-24, which is the step of floats from 0.5 to 1: the addition
    // rounds, the subtraction is exact.
    return std::copysign((magnitude + 0.5F) - 0.5F, value);
  }
  return drop_bits(value, 13);
}

}  // namespace rounding

/// `value` rounded to `precision`: nearest, ties to even. Magnitudes from half a step above the
/// largest finite number become infinite; subnormals, the sign of zero and NaN are kept.
inline float round_to(Precision precision, float value) {
  if (std::isnan(value) || precision == Precision::fp32) return value;
  return precision == Precision::fp16 ? rounding::to_fp16(value) : rounding::drop_bits(value, 16);
}

}  // namespace h2learn::accelerator
