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

/// Whole numbers to their digits, one a byte, as digits_word().
H2LEARN_INLINE Ints to_digits(Ints numbers) {
  typedef std::uint32_t Unsigned __attribute__((vector_size(vector_bytes)));
  constexpr std::uint32_t offset = 0x80808080;
  return reinterpret_cast<Ints>((reinterpret_cast<Unsigned>(numbers) + offset) ^ offset);
}

/// Of round(value * scale), by way of doubles.
H2LEARN_INLINE Ints digits_words(Floats values, double scale) {
  typedef double Doubles __attribute__((vector_size(2 * vector_bytes)));
  typedef std::int64_t Longs __attribute__((vector_size(2 * vector_bytes)));
  const Doubles numbers = __builtin_convertvector(values, Doubles) * scale + rounding;
  return to_digits(__builtin_convertvector(reinterpret_cast<Longs>(numbers), Ints));
}

/// Of round(value * scale * other_scale), by way of floats: the power of two is a product, since
/// that of tiny values is no float. Neither product is rounded where the number is not 0 anyway.
H2LEARN_INLINE Ints digits_words(Floats values, Floats scale, Floats other_scale) {
  return to_digits(round_to_ints(values * scale * other_scale));
}

/// Bytes of four words, one of each of four places, to words of four places' bytes, a digit each.
H2LEARN_INLINE void exchange_bytes(Ints* words) {
  const Ints low_bytes = broadcast(0x00ff00ff);
  const Ints low_half = broadcast(0x0000ffff);
  Ints even[2];
  Ints odd[2];
  for (int i = 0; i < 2; ++i) {
    const Ints a = words[2 * i];
    const Ints b = words[2 * i + 1];
    even[i] = (a & low_bytes) | ((b & low_bytes) << 8);
    odd[i] = ((a >> 8) & low_bytes) | (b & ~low_bytes);
  }
  words[0] = (even[0] & low_half) | (even[1] << 16);
  words[1] = (odd[0] & low_half) | (odd[1] << 16);
  words[2] = ((even[0] >> 16) & low_half) | (even[1] & ~low_half);
  words[3] = ((odd[0] >> 16) & low_half) | (odd[1] & ~low_half);
}

/// Byte `digit` of every word.
H2LEARN_INLINE void store_digit(const std::uint32_t* words, std::int64_t count, int digit,
                                std::int8_t* to) {
  for (std::int64_t i = 0; i < count; ++i)
    to[i] = static_cast<std::int8_t>(words[i] >> (8 * digit));
}

}  // namespace
}  // namespace h2learn
