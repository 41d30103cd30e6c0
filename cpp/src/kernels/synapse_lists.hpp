// Lists of what is set in a block of rows, for the event kernel. For kernel sources only.
//
// Rows are taken in groups of four of nearly equal count (they are sorted by it), and the four
// lists of a group are padded to the longest with an offset that leads to a row of zeros: one
// loop of a predictable length then keeps four rows' sums in registers. The lists of a group are
// interleaved, so that one load brings the next offset of each: loads are what limits the kernel.
// The order of rows has no bearing on any sum; within a row the offsets ascend, as the order of
// additions demands.
#pragma once

#include <cstdint>

#include "kernels/synapse_gather.hpp"
#include "kernels/vec.hpp"

namespace h2learn {
namespace {

constexpr int group_rows = 4;

/// Rows whose lists have one length; -1 where the block had no row left.
struct ListGroup {
  std::int32_t row[group_rows];
  std::int32_t length;
  std::int32_t first;  ///< offsets are [length][group_rows] from this entry, values
                       ///< [group_rows][length]
};

/// Entry k of a row is listed as the byte offset of lane 0 of row k in a panel one vector wide.
struct Lists {
  ListGroup* groups;
  std::int64_t group_count;
  std::uint16_t* offsets;
  float* values;         ///< of the entries; used for float rows only
  std::int32_t* order;   ///< [rows] scratch
  std::int32_t* counts;  ///< [rows] scratch
};

/// Entries that may be written behind a list, or behind all of them: vectors, and interleaved ones.
constexpr std::int64_t list_slack = 32;

/// Entries that lists of `rows` rows can need.
H2LEARN_INLINE std::int64_t list_capacity(std::int64_t rows) {
  return round_up(rows, group_rows) * sum_block + list_slack;
}

H2LEARN_INLINE int popcount(std::uint64_t word) { return __builtin_popcountll(word); }

/// Set bits of each row of bits[rows][block_words] to counts[rows]; returns their sum.
H2LEARN_INLINE std::int64_t count_bits(const std::uint64_t* bits, std::int64_t rows,
                                       std::int32_t* counts) {
  std::int64_t total = 0;
  for (std::int64_t r = 0; r < rows; ++r) {
    int count = 0;
    for (std::int64_t w = 0; w < block_words; ++w) count += popcount(bits[r * block_words + w]);
    counts[r] = count;
    total += count;
  }
  return total;
}

/// Non-zeros of each row of values[rows][sum_block] to counts[rows]; returns their sum.
H2LEARN_INLINE std::int64_t count_values(const float* values, std::int64_t rows, std::int64_t depth,
                                         std::int32_t* counts) {
  std::int64_t total = 0;
  for (std::int64_t r = 0; r < rows; ++r) {
    Ints set = {};  // counts down, as a true comparison is -1
    for (std::int64_t k = 0; k < depth; k += lanes) {
      set += load(values + r * sum_block + k) != Floats{};
    }
    int count = 0;
    for (int i = 0; i < lanes; ++i) count -= set[i];
    counts[r] = count;
    total += count;
  }
  return total;
}

/// order[] = rows by ascending count; a counting sort.
inline void sort_rows(const std::int32_t* counts, std::int64_t rows, std::int32_t* order) {
  std::int32_t first[sum_block + 2] = {};
  for (std::int64_t r = 0; r < rows; ++r) ++first[counts[r] + 1];
  for (std::int64_t i = 1; i <= sum_block; ++i) first[i] += first[i - 1];
  for (std::int64_t r = 0; r < rows; ++r) {
    order[first[counts[r]]++] = static_cast<std::int32_t>(r);
  }
}

/// Eight offsets at once: those of the set bits of every byte, ascending, zeros behind.
typedef std::uint16_t Offsets __attribute__((vector_size(16)));
typedef std::uint16_t UnalignedOffsets __attribute__((vector_size(16), aligned(2), may_alias));

struct ByteTable {
  Offsets of_byte[256];
};

constexpr ByteTable make_byte_table() {
  ByteTable table = {};
  for (int byte = 0; byte < 256; ++byte) {
    std::uint16_t offsets[8] = {};
    int count = 0;
    for (int bit = 0; bit < 8; ++bit) {
      if ((byte >> bit & 1) != 0) offsets[count++] = static_cast<std::uint16_t>(bit * vector_bytes);
    }
    table.of_byte[byte] = Offsets{offsets[0], offsets[1], offsets[2], offsets[3],
                                  offsets[4], offsets[5], offsets[6], offsets[7]};
  }
  return table;
}

constexpr ByteTable byte_table = make_byte_table();

/// Up to so many set bits in a block, a branch for each costs less than a look-up for each byte.
constexpr std::int32_t few_bits = 4;

/// Appends the offsets of one row's `count` set bits. May write up to list_slack too many.
H2LEARN_INLINE void list_bits(const std::uint64_t* words, std::int32_t count,
                              std::uint16_t* offsets) {
  if (count <= few_bits) {
    for (std::int64_t w = 0; w < block_words; ++w) {
      for (std::uint64_t word = words[w]; word != 0; word &= word - 1) {
        *offsets++ = static_cast<std::uint16_t>((w * 64 + __builtin_ctzll(word)) * vector_bytes);
      }
    }
    return;
  }
  Offsets base = {};
  for (std::int64_t w = 0; w < block_words; ++w) {
    H2LEARN_UNROLL
    for (int shift = 0; shift < 64; shift += 8) {
      const std::uint64_t byte = words[w] >> shift & 0xFF;
      *reinterpret_cast<UnalignedOffsets*>(offsets) = byte_table.of_byte[byte] + base;
      offsets += popcount(byte);
      base += static_cast<std::uint16_t>(8 * vector_bytes);
    }
  }
}

#if defined(__AVX2__) && !defined(__AVX512F__)
/// The lanes that a byte has a bit for, first; zeros or others behind them.
H2LEARN_INLINE Floats compress(Floats values, std::uint64_t byte) {
  const Offsets offsets = byte_table.of_byte[byte] / vector_bytes;
  const __m256i order = _mm256_cvtepu16_epi32(reinterpret_cast<__m128i>(offsets));
  return _mm256_permutevar8x32_ps(values, order);
}
#endif

/// Appends offsets and values of one row's non-zeros. May write up to list_slack too many.
H2LEARN_INLINE void list_values(const float* row, std::int64_t depth, std::uint16_t* offsets,
                                float* values) {
  for (std::int64_t k = 0; k < depth; k += lanes) {
    const Floats candidates = load(row + k);
#if defined(__AVX512F__)
    const __mmask16 mask = _mm512_cmp_ps_mask(candidates, _mm512_setzero_ps(), _CMP_NEQ_UQ);
    const Ints numbers = (lane_numbers() + static_cast<std::int32_t>(k)) * vector_bytes;
    const __m512i set = _mm512_maskz_compress_epi32(mask, reinterpret_cast<__m512i>(numbers));
    _mm256_storeu_si256(reinterpret_cast<__m256i_u*>(offsets),
                        _mm512_maskz_cvtepi32_epi16(0xFFFF, set));
    store(values, _mm512_maskz_compress_ps(mask, candidates));
    const int count = __builtin_popcount(mask);
    offsets += count;
    values += count;
#elif defined(__AVX2__)
    const std::uint64_t set = bits_of_mask(candidates != Floats{});
    const auto base = static_cast<std::uint16_t>(k * vector_bytes);
    *reinterpret_cast<UnalignedOffsets*>(offsets) = byte_table.of_byte[set] + base;
    store(values, compress(candidates, set));
    const int count = popcount(set);
    offsets += count;
    values += count;
#else
    // Without a branch: every candidate is written, the next one over it unless it counted.
    for (int i = 0; i < lanes; ++i) {
      const float value = candidates[i];
      *offsets = static_cast<std::uint16_t>((k + i) * vector_bytes);
      *values = value;
      const int counted = value != 0;
      offsets += counted;
      values += counted;
    }
#endif
  }
}

/// As that of floats.
template <int... index>
H2LEARN_INLINE Offsets shuffle(Offsets a, Offsets b) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, index...);
#else
  return __builtin_shuffle(a, b, Offsets{index...});
#endif
}

H2LEARN_INLINE Offsets interleave_low(Offsets a, Offsets b) {
  return shuffle<0, 8, 1, 9, 2, 10, 3, 11>(a, b);
}
H2LEARN_INLINE Offsets interleave_high(Offsets a, Offsets b) {
  return shuffle<4, 12, 5, 13, 6, 14, 7, 15>(a, b);
}

/// One entry's offset in each list of a group.
typedef std::uint64_t GroupEntry __attribute__((may_alias));

H2LEARN_INLINE std::uint64_t group_offsets(const std::uint16_t* entry) {
  return *reinterpret_cast<const GroupEntry*>(entry);
}

/// That of row r: the r-th in memory.
H2LEARN_INLINE std::uint64_t offset_of(std::uint64_t group, int r) {
  const int place = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? r : group_rows - 1 - r;
  return group >> (16 * place) & 0xFFFF;
}

/// Offsets of the rows of one group, each in a row of its own, before they are interleaved.
struct GroupOffsets {
  alignas(16) std::uint16_t rows[group_rows][sum_block + list_slack];
};

/// to[length][group_rows]; writes up to list_slack entries too many.
H2LEARN_INLINE void interleave(const GroupOffsets& from, std::int64_t length, std::uint16_t* to) {
  for (std::int64_t entry = 0; entry < length; entry += 8, to += 32) {
    Offsets row[group_rows];
    for (int r = 0; r < group_rows; ++r) {
      row[r] = *reinterpret_cast<const Offsets*>(from.rows[r] + entry);
    }
    const Offsets even_low = interleave_low(row[0], row[2]);
    const Offsets even_high = interleave_high(row[0], row[2]);
    const Offsets odd_low = interleave_low(row[1], row[3]);
    const Offsets odd_high = interleave_high(row[1], row[3]);
    UnalignedOffsets* const out = reinterpret_cast<UnalignedOffsets*>(to);
    out[0] = interleave_low(even_low, odd_low);
    out[1] = interleave_high(even_low, odd_low);
    out[2] = interleave_low(even_high, odd_high);
    out[3] = interleave_high(even_high, odd_high);
  }
}

/// Lists of the rows of bits[rows][block_words], or, when that is null, of values[rows][sum_block].
/// `lists.counts` must hold the rows' counts; `depth` is the panel's row of zeros.
inline void make_lists(const std::uint64_t* bits, const float* values, std::int64_t rows,
                       std::int64_t depth, Lists& lists) {
  sort_rows(lists.counts, rows, lists.order);
  lists.group_count = blocks_of(rows, group_rows);
  const auto zeros = static_cast<std::uint16_t>(depth * vector_bytes);
  GroupOffsets offsets;
  std::int32_t next = 0;
  for (std::int64_t g = 0; g < lists.group_count; ++g) {
    ListGroup& group = lists.groups[g];
    const std::int64_t last = least((g + 1) * group_rows, rows) - 1;
    group.first = next;
    group.length = lists.counts[lists.order[last]];
    for (std::int64_t i = 0; i < group_rows; ++i) {
      const bool real = g * group_rows + i <= last;
      const std::int32_t row = real ? lists.order[g * group_rows + i] : -1;
      group.row[i] = row;
      const std::int32_t count = real ? lists.counts[row] : 0;
      float* const listed = lists.values + next + i * group.length;
      if (real && bits != nullptr) list_bits(bits + row * block_words, count, offsets.rows[i]);
      if (real && bits == nullptr) {
        list_values(values + row * sum_block, depth, offsets.rows[i], listed);
      }
      for (std::int32_t entry = count; entry < group.length; ++entry) {
        offsets.rows[i][entry] = zeros;
        if (bits == nullptr) listed[entry] = 0;
      }
    }
    interleave(offsets, group.length, lists.offsets + next);
    next += group_rows * group.length;
  }
}

}  // namespace
}  // namespace h2learn
