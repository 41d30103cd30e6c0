// Yes or no for each lane of a vector, in the form the instruction set computes with: a mask
// register with AVX-512, a vector of all-ones and zeros elsewhere. For kernels that go between
// floats and packed bits in their inner loop; as vec.hpp, for kernel sources only.
#pragma once

#include "kernels/vec.hpp"

#if !defined(__AVX2__) && defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace h2learn {
namespace {

#if defined(__AVX512F__)

typedef __mmask16 LaneMask;

H2LEARN_INLINE LaneMask less(Floats a, Floats b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
H2LEARN_INLINE LaneMask equal(Floats a, Floats b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
H2LEARN_INLINE std::uint64_t bits_of(LaneMask mask) { return mask; }
H2LEARN_INLINE LaneMask lanes_of(std::uint64_t bits) { return static_cast<LaneMask>(bits); }
H2LEARN_INLINE LaneMask lanes_from(std::uint64_t word, int first) {
  return static_cast<LaneMask>(word >> first);
}
H2LEARN_INLINE Floats pick(LaneMask mask, Floats yes, Floats no) {
  return _mm512_mask_blend_ps(mask, no, yes);
}

#else

typedef Ints LaneMask;

H2LEARN_INLINE LaneMask less(Floats a, Floats b) { return a < b; }
H2LEARN_INLINE LaneMask equal(Floats a, Floats b) { return a == b; }

H2LEARN_INLINE std::uint64_t bits_of(LaneMask mask) {
#if !defined(__AVX2__) && defined(__SSE2__)
  return static_cast<std::uint64_t>(_mm_movemask_ps(reinterpret_cast<__m128>(mask)));
#else
  return bits_of_mask(mask);
#endif
}

/// The lowest `lanes` bits; those above are ignored.
H2LEARN_INLINE LaneMask lanes_of(std::uint64_t bits) {
  return mask_of_bits(static_cast<std::uint32_t>(bits));
}

/// The `lanes` bits of a word from bit `first` on, a constant and a multiple of `lanes`: half the
/// word in every lane, and in each lane the test of its bit, which then are constants, too.
H2LEARN_INLINE LaneMask lanes_from(std::uint64_t word, int first) {
  const Ints half = broadcast(static_cast<std::int32_t>(word >> (first / 32 * 32)));
  const Ints bit = (broadcast(std::int32_t{1}) << lane_numbers()) << (first % 32);
  return (half & bit) == bit;
}
H2LEARN_INLINE Floats pick(LaneMask mask, Floats yes, Floats no) { return mask ? yes : no; }

#endif

constexpr int vectors_in_word = 64 / lanes;

/// The bits of a word's vectors, the first in the lowest.
H2LEARN_INLINE std::uint64_t word_of(const LaneMask (&masks)[vectors_in_word]) {
#if defined(__AVX512BW__)
  const __mmask32 low = _mm512_kunpackw(masks[1], masks[0]);
  const __mmask32 high = _mm512_kunpackw(masks[3], masks[2]);
  return _cvtmask64_u64(_mm512_kunpackd(high, low));
#else
  std::uint64_t word = 0;
  H2LEARN_UNROLL
  for (int i = 0; i < vectors_in_word; ++i) word |= bits_of(masks[i]) << (i * lanes);
  return word;
#endif
}

/// Where a > b.
H2LEARN_INLINE LaneMask greater(Floats a, Floats b) { return less(b, a); }

H2LEARN_INLINE Floats magnitude(Floats value) {
  return reinterpret_cast<Floats>(reinterpret_cast<Ints>(value) & broadcast(0x7fffffff));
}

}  // namespace
}  // namespace h2learn
