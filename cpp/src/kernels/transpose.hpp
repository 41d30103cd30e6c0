// Transposing small tiles of floats and of bits in registers. For kernel sources only.
#pragma once

#include <cstdint>
#include <utility>

#include "kernels/vec.hpp"

namespace h2learn {
namespace {

/// Swaps the off-diagonal `step` x `step` squares of every 2 step x 2 step square of two rows
/// that are `step` apart.
template <int step, int... lane>
H2LEARN_INLINE void exchange(Floats& upper, Floats& lower, std::integer_sequence<int, lane...>) {
  const Floats a = upper;
  const Floats b = lower;
  upper = shuffle<((lane & step) != 0 ? lanes + lane - step : lane)...>(a, b);
  lower = shuffle<((lane & step) != 0 ? lanes + lane : lane + step)...>(a, b);
}

template <int step>
H2LEARN_INLINE void exchange_all(Floats* rows) {
  H2LEARN_UNROLL
  for (int r = 0; r < lanes; ++r) {
    if ((r & step) == 0) {
      exchange<step>(rows[r], rows[r + step], std::make_integer_sequence<int, lanes>());
    }
  }
}

/// Transposes a lanes x lanes matrix whose rows are vectors.
H2LEARN_INLINE void transpose(Floats* rows) {
  exchange_all<1>(rows);
  exchange_all<2>(rows);
  if constexpr (lanes > 4) exchange_all<4>(rows);
  if constexpr (lanes > 8) exchange_all<8>(rows);
}

/// Vectors of 64-bit words: as many bit matrices as there are lanes are transposed at once.
typedef std::uint64_t Words __attribute__((vector_size(vector_bytes)));
constexpr int word_lanes = vector_bytes / 8;

/// Transposes, in each lane, the 64 x 64 bit matrix whose row i is rows[i].
inline void transpose_words(Words* rows) {
  std::uint64_t low = 0x00000000FFFFFFFF;
  for (int step = 32; step != 0; step /= 2, low ^= low << step) {
    for (int base = 0; base < 64; base += 2 * step) {
      for (int r = base; r < base + step; ++r) {
        const Words swapped = (rows[r] >> step ^ rows[r + step]) & low;
        rows[r] ^= swapped << step;
        rows[r + step] ^= swapped;
      }
    }
  }
}

}  // namespace
}  // namespace h2learn
