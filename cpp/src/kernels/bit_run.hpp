// Runs of up to 64 bits that start anywhere in a row of words: how channels lie when their
// number is not a multiple of the word. As vec.hpp, for kernel sources only.
#pragma once

#include "kernels/vec.hpp"

namespace h2learn {
namespace {

/// The lowest `count` bits, 1 to 64.
H2LEARN_INLINE std::uint64_t low_bits(std::int64_t count) {
  return ~std::uint64_t{0} >> (64 - count);
}

/// `count` bits, 1 to 64, from bit `first` of a row on; touches only words that hold them.
H2LEARN_INLINE std::uint64_t read_bits(const std::uint64_t* row, std::int64_t first,
                                       std::int64_t count) {
  const std::uint64_t* const word = row + (first >> 6);
  const std::int64_t shift = first & 63;
  std::uint64_t value = *word >> shift;
  if (shift + count > 64) value |= word[1] << (64 - shift);
  return value & low_bits(count);
}

/// Sets the bits of `value`, which has no others than its lowest `count`, from bit `first` on.
H2LEARN_INLINE void or_bits(std::uint64_t* row, std::int64_t first, std::int64_t count,
                            std::uint64_t value) {
  std::uint64_t* const word = row + (first >> 6);
  const std::int64_t shift = first & 63;
  *word |= value << shift;
  if (shift + count > 64) word[1] |= value >> (64 - shift);
}

}  // namespace
}  // namespace h2learn
