// Dot products of four unsigned bytes (spikes or counts) with four signed ones (digits), in each
// 32-bit lane of a vector, exact on every instruction set. For kernel sources only.
//
// Bytes lie in a lane in the order of memory, so all this is for little-endian machines, as are the
// packed words themselves.
#pragma once

#include <cstdint>

#include "kernels/vec.hpp"

#if !defined(__AVX2__) && defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace h2learn {
namespace {

H2LEARN_INLINE Ints load_bytes(const std::int8_t* from) {
  return *reinterpret_cast<const UnalignedInts*>(from);
}

/// Four bytes in every lane.
H2LEARN_INLINE Ints broadcast_four(const std::uint8_t* from) {
  std::int32_t four;
  __builtin_memcpy(&four, from, sizeof four);
  return broadcast(four);
}

#if defined(__AVX512VNNI__)

typedef Ints FourValues;

template <bool wide>
H2LEARN_INLINE FourValues values_at(const std::uint8_t* from) {
  return broadcast_four(from);
}

/// Products of 8 bits have 16, and their sum is added in 32: nothing saturates.
template <bool wide>
H2LEARN_INLINE Ints add_dot(Ints sum, FourValues values, Ints digits) {
  return reinterpret_cast<Ints>(_mm512_dpbusd_epi32(reinterpret_cast<__m512i>(sum),
                                                    reinterpret_cast<__m512i>(values),
                                                    reinterpret_cast<__m512i>(digits)));
}

#else

/// The values as they are, and taken apart: bytes 0 and 2 of a lane, and 1 and 3, as 16-bit
/// numbers.
struct FourValues {
  Ints all;
  Ints even;
  Ints odd;
};

template <bool wide>
H2LEARN_INLINE FourValues values_at(const std::uint8_t* from) {
  const Ints all = broadcast_four(from);
  const Ints low = broadcast(0x00ff00ff);
  return {all, all & low, (all >> 8) & low};
}

#if defined(__SSE2__)
typedef std::int16_t Shorts __attribute__((vector_size(vector_bytes)));

/// Products of 16-bit numbers, neighbours added: exact below 2^31.
H2LEARN_INLINE Ints add_pairs(Ints a, Ints b) {
#if defined(__AVX512BW__)
  return reinterpret_cast<Ints>(
      _mm512_madd_epi16(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
#elif defined(__AVX2__)
  return reinterpret_cast<Ints>(
      _mm256_madd_epi16(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
#else
  return reinterpret_cast<Ints>(
      _mm_madd_epi16(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
#endif
}
#endif

#if defined(__AVX2__)
/// Products of unsigned and signed bytes, neighbours added in 16 bits, which saturate.
H2LEARN_INLINE Ints add_byte_pairs(Ints values, Ints digits) {
#if defined(__AVX512BW__)
  return reinterpret_cast<Ints>(
      _mm512_maddubs_epi16(reinterpret_cast<__m512i>(values), reinterpret_cast<__m512i>(digits)));
#else
  return reinterpret_cast<Ints>(
      _mm256_maddubs_epi16(reinterpret_cast<__m256i>(values), reinterpret_cast<__m256i>(digits)));
#endif
}
#endif

/// `wide`: values may exceed 127.
template <bool wide>
H2LEARN_INLINE Ints add_dot(Ints sum, const FourValues& values, Ints digits) {
#if defined(__AVX2__)
  if constexpr (!wide) {
    // Two products of at most 127 * 128 add up to at most 32512: 16 bits hold that.
    const Ints pairs = add_byte_pairs(values.all, digits);
    return sum + add_pairs(pairs, broadcast(0x00010001));
  }
#endif
#if defined(__SSE2__)
  const Shorts both = reinterpret_cast<Shorts>(digits);
  const Ints even = reinterpret_cast<Ints>((both << 8) >> 8);
  const Ints odd = reinterpret_cast<Ints>(both >> 8);
  return sum + add_pairs(values.even, even) + add_pairs(values.odd, odd);
#else
  sum += (values.even & 0xff) * ((digits << 24) >> 24);
  sum += (values.odd & 0xff) * ((digits << 16) >> 24);
  sum += (values.even >> 16) * ((digits << 8) >> 24);
  sum += (values.odd >> 16) * (digits >> 24);
  return sum;
#endif
}

#endif

}  // namespace
}  // namespace h2learn
