// Vectors of the width of the instruction set this translation unit is compiled for, for kernel
// sources only. Everything is in an unnamed namespace and forced inline: nothing here may become
// a symbol that the linker could share between instruction sets (dispatch.hpp).
//
// `Floats + Floats`, `*`, comparisons and so on are the compiler's own vector operators; what is
// defined here is what they lack.
#pragma once

#include <cstdint>

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define H2LEARN_INLINE [[gnu::always_inline]] inline

/// A tile of registers is a function of its own: inlined into its callers' loops, the compiler may
/// run out of registers and keep one of the sums in memory, which doubles the time.
#define H2LEARN_TILE [[gnu::noinline]] static

/// Before a loop of a few, constant iterations whose arrays must end up in registers.
#if defined(__clang__)
#define H2LEARN_UNROLL _Pragma("unroll")
#else
#define H2LEARN_UNROLL _Pragma("GCC unroll 32")
#endif

namespace h2learn {
namespace {

#if defined(__AVX512F__)
constexpr int vector_bytes = 64;
#elif defined(__AVX2__)
constexpr int vector_bytes = 32;
#else
constexpr int vector_bytes = 16;
#endif

/// Floats in a vector: 16, 8 or 4.
constexpr int lanes = vector_bytes / 4;

typedef float Floats __attribute__((vector_size(vector_bytes)));
typedef std::int32_t Ints __attribute__((vector_size(vector_bytes)));
typedef float UnalignedFloats __attribute__((vector_size(vector_bytes), aligned(4), may_alias));
typedef std::int32_t UnalignedInts
    __attribute__((vector_size(vector_bytes), aligned(4), may_alias));

H2LEARN_INLINE Floats load(const float* from) {
  return *reinterpret_cast<const UnalignedFloats*>(from);
}

/// To the nearest whole numbers, halves to even; magnitudes below 2^31.
H2LEARN_INLINE Ints round_to_ints(Floats value) {
#if defined(__AVX512F__)
  return reinterpret_cast<Ints>(_mm512_maskz_cvtps_epi32(0xffff, value));
#elif defined(__AVX2__)
  return reinterpret_cast<Ints>(_mm256_cvtps_epi32(value));
#else
  Ints rounded = {};
  for (int i = 0; i < lanes; ++i) {
    rounded[i] = static_cast<std::int32_t>(__builtin_nearbyintf(value[i]));
  }
  return rounded;
#endif
}

H2LEARN_INLINE void store(float* to, Floats value) {
  *reinterpret_cast<UnalignedFloats*>(to) = value;
}

/// The first `count` floats from memory, zeros behind them; reads no others.
H2LEARN_INLINE Floats load_first(const float* from, std::int64_t count) {
  if (count >= lanes) return load(from);
#if defined(__AVX512F__)
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1U << count) - 1), from);
#else
  Floats value = {};
  for (int i = 0; i < lanes; ++i) {
    if (i < count) value[i] = from[i];
  }
  return value;
#endif
}

/// Writes the first `count` lanes only.
H2LEARN_INLINE void store_first(float* to, Floats value, std::int64_t count) {
  if (count >= lanes) {
    store(to, value);
    return;
  }
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1U << count) - 1), value);
#else
  for (int i = 0; i < lanes; ++i) {
    if (i < count) to[i] = value[i];
  }
#endif
}

/// Every lane the same value.
H2LEARN_INLINE Floats broadcast(float value) { return value - Floats{}; }
H2LEARN_INLINE Ints broadcast(std::int32_t value) { return value - Ints{}; }

/// 0, 1, 2, ...
H2LEARN_INLINE Ints lane_numbers() {
  Ints value = {};
  for (int i = 0; i < lanes; ++i) value[i] = i;
  return value;
}

#if defined(__FMA__) || defined(__AVX512F__) || defined(__aarch64__)
constexpr bool has_fused = true;
#else
constexpr bool has_fused = false;
#endif

/// a * b + c, rounded once where the instruction set can.
H2LEARN_INLINE Floats multiply_add(Floats a, Floats b, Floats c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__FMA__)
  return _mm256_fmadd_ps(a, b, c);
#elif defined(__aarch64__)
  return vfmaq_f32(c, a, b);
#else
  return a * b + c;
#endif
}

/// a * b + c, rounded once on every instruction set. Where it has no instruction for it, doubles
/// hold the product exactly, and their sum is rounded to odd, which leaves the rounding to float
/// the only one that counts (Boldo and Melquiond, IEEE Transactions on Computers 57(4), 2008).
H2LEARN_INLINE Floats multiply_add_once(Floats a, Floats b, Floats c) {
  if constexpr (has_fused) {
    return multiply_add(a, b, c);
  } else {
    typedef double Doubles __attribute__((vector_size(2 * vector_bytes)));
    typedef std::int64_t Longs __attribute__((vector_size(2 * vector_bytes)));
    const Doubles product =
        __builtin_convertvector(a, Doubles) * __builtin_convertvector(b, Doubles);
    const Doubles addend = __builtin_convertvector(c, Doubles);
    Doubles sum = product + addend;
    const Doubles added = sum - product;
    const Doubles error = (product - (sum - added)) + (addend - added);
    // Not error != 0, which holds for the NaN of an infinite sum.
    const Longs inexact = (error < 0.0) | (error > 0.0);
    Longs bits;
    __builtin_memcpy(&bits, &sum, sizeof bits);
    Longs error_bits;
    __builtin_memcpy(&error_bits, &error, sizeof error_bits);
    const Longs even = (bits & 1) == 0;
    const Longs opposite = (error_bits ^ bits) < 0;
    const Longs towards = opposite | 1;  // by the error's sign: 1 or -1
    bits += inexact & even & towards;
    __builtin_memcpy(&sum, &bits, sizeof sum);
    return __builtin_convertvector(sum, Floats);
  }
}

/// The one of them that is asked for.
template <bool once>
H2LEARN_INLINE Floats multiply_add(Floats a, Floats b, Floats c) {
  return once ? multiply_add_once(a, b, c) : multiply_add(a, b, c);
}

/// Calls visit.operator()<once>(), which is false wherever multiply_add() rounds once anyway.
template <typename Visit>
H2LEARN_INLINE void visit_rounding(bool once, Visit visit) {
  if constexpr (!has_fused) {
    if (once) return visit.template operator()<true>();
  }
  visit.template operator()<false>();
}

/// Lanes of `yes` where the mask is all ones, of `no` where it is all zeros.
H2LEARN_INLINE Floats select(Ints mask, Floats yes, Floats no) { return mask ? yes : no; }

/// The bits of `value` that are set in the mask, and those that are not.
H2LEARN_INLINE Floats keep_masked(Floats value, Ints mask) {
  return reinterpret_cast<Floats>(reinterpret_cast<Ints>(value) & mask);
}
H2LEARN_INLINE Floats drop_masked(Floats value, Ints mask) {
#if defined(__AVX512F__)
  return _mm512_maskz_andnot_ps(0xFFFF, reinterpret_cast<__m512>(mask), value);
#elif defined(__AVX2__)  // written with operators, a mask is made, inverted and spread once more
  return _mm256_andnot_ps(reinterpret_cast<__m256>(mask), value);
#else
  return reinterpret_cast<Floats>(reinterpret_cast<Ints>(value) & ~mask);
#endif
}

/// Lane i is lane `index[i]` of `a`, or lane `index[i] - lanes` of `b`; of vectors of any lanes.
template <int... index, typename Vector>
H2LEARN_INLINE Vector shuffle(Vector a, Vector b) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, index...);
#else
  return __builtin_shuffle(a, b, decltype(a < b){index...});
#endif
}

/// All-ones lanes where bit i of `bits` is set.
H2LEARN_INLINE Ints mask_of_bits(std::uint32_t bits) {
  const Ints lane_bit = broadcast(std::int32_t{1}) << lane_numbers();
  return (broadcast(static_cast<std::int32_t>(bits)) & lane_bit) != 0;
}

/// Lanes of `value` where bit i of `bits` is set, zeros elsewhere.
H2LEARN_INLINE Floats select_bits(std::uint32_t bits, Floats value) {
#if defined(__AVX512F__)
  return _mm512_maskz_mov_ps(static_cast<__mmask16>(bits), value);
#else
  return select(mask_of_bits(bits), value, Floats{});
#endif
}

/// Bit i set where lane i of the mask is all ones.
H2LEARN_INLINE std::uint32_t bits_of_mask(Ints mask) {
#if defined(__AVX512F__)
  return _mm512_movepi32_mask(reinterpret_cast<__m512i>(mask));
#elif defined(__AVX2__)
  return static_cast<std::uint32_t>(_mm256_movemask_ps(reinterpret_cast<__m256>(mask)));
#else
  std::uint32_t bits = 0;
  for (int i = 0; i < lanes; ++i) bits |= static_cast<std::uint32_t>(mask[i] & 1) << i;
  return bits;
#endif
}

}  // namespace
}  // namespace h2learn
