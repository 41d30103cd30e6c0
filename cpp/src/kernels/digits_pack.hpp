// Numbers into signed digits. For kernel sources only.
#pragma once

#include <cstdint>

#include "kernels/vec.hpp"

namespace h2learn {
namespace {

/// 1.5 * 2^52: a double near it has units of one, so adding it rounds to a whole number, halves to
/// even, and leaves that number, modulo 2^32, in the lowest bits.
constexpr double rounding = 6755399441055744.0;

/// Digits d_0 ... d_3 of round(value * scale), one a byte. Adding 128 to every digit makes them
/// the bytes of an ordinary number; flipping the top bits takes the 128 away again.
H2LEARN_INLINE std::uint32_t digits_word(float value, double scale, std::uint32_t offset) {
  const double number = static_cast<double>(value) * scale + rounding;
  return (static_cast<std::uint32_t>(__builtin_bit_cast(std::uint64_t, number)) + offset) ^ offset;
}

/// Byte `digit` of every word.
H2LEARN_INLINE void store_digit(const std::uint32_t* words, std::int64_t count, int digit,
                                std::int8_t* to) {
  for (std::int64_t i = 0; i < count; ++i)
    to[i] = static_cast<std::int8_t>(words[i] >> (8 * digit));
}

}  // namespace
}  // namespace h2learn
