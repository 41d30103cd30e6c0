// Lists of what is set in a block of rows, for the event kernel. For kernel sources only.
//
// Rows are taken in groups of nearly equal count (they are sorted by it), and the lists of a group
// are padded to the longest with an offset that leads to a row of zeros: one loop of a predictable
// length then keeps all rows' sums in registers. The lists of a group are interleaved by fours, so
// that one load brings the next offset of four rows: loads are what limits the kernel.
// The order of rows has no bearing on any sum; within a row the offsets ascend, as the order of
// additions demands.
#pragma once

#include <cstdint>

#include "kernels/synapse_gather.hpp"
#include "kernels/vec.hpp"

namespace h2learn {
namespace {

constexpr int quad_rows = 4;

/// As many as the registers hold two vectors of sums of, beside what is multiplied with them.
constexpr int group_rows = vector_bytes == 64 ? 8 : 4;

/// Rows whose lists have one length; -1 where the block had no row left.
struct ListGroup {
  std::int32_t row[group_rows];
  std::int32_t length;
  std::int32_t first;  ///< offsets and values are [length][group_rows] from this entry
};

/// Entry k of a row is listed as the byte offset of lane 0 of row k in a panel one vector wide.
struct Lists {
  ListGroup* groups;
  std::int64_t group_count;
  std::int64_t entries;  ///< of all groups
  std::uint16_t* offsets;
  float* values;         ///< of the entries; used for float rows only
  std::uint64_t* set;    ///< [rows][block_words] scratch: which floats are not zero; likewise
  std::int32_t* order;   ///< [rows] scratch
  std::int32_t* counts;  ///< [rows] scratch
};

/// Entries that may be written behind a list, or behind all of them: vectors, and interleaved ones.
constexpr std::int64_t list_slack = 8 * group_rows;

/// Entries that lists of `rows` rows can need.
H2LEARN_INLINE std::int64_t list_capacity(std::int64_t rows) {
  return round_up(rows, group_rows) * sum_block + list_slack;
}

H2LEARN_INLINE int popcount(std::uint64_t word) { return __builtin_popcountll(word); }

/// Set bits of a row of words.
H2LEARN_INLINE std::int32_t count_bits(const std::uint64_t* words, std::int64_t word_count) {
  std::int32_t count = 0;
  for (std::int64_t w = 0; w < word_count; ++w) count += popcount(words[w]);
  return count;
}

/// Of each row of bits[rows][block_words] to counts[rows]; returns their sum.
H2LEARN_INLINE std::int64_t count_bits(const std::uint64_t* bits, std::int64_t rows,
                                       std::int32_t* counts) {
  std::int64_t total = 0;
  for (std::int64_t r = 0; r < rows; ++r) {
    counts[r] = count_bits(bits + r * block_words, block_words);
    total += counts[r];
  }
  return total;
}

/// words[block_words], a bit for each non-zero of a row of floats, which holds zeros behind `depth`
/// up to a multiple of a vector; returns how many there are.
H2LEARN_INLINE std::int32_t find_values(const float* row, std::int64_t depth,
                                        std::uint64_t* words) {
  std::int32_t count = 0;
  for (std::int64_t begin = 0; begin < depth; begin += 64) {
    std::uint64_t word = 0;
    for (std::int64_t k = 0; k < 64 && begin + k < depth; k += lanes) {
      word |= std::uint64_t{bits_of_mask(load(row + begin + k) != Floats{})} << k;
    }
    words[begin / 64] = word;
    count += popcount(word);
  }
  return count;
}

/// Of each row of values[rows][sum_block] to set[rows][block_words] and counts[rows]; returns the
/// counts' sum.
H2LEARN_INLINE std::int64_t find_values(const float* values, std::int64_t rows, std::int64_t depth,
                                        std::uint64_t* set, std::int32_t* counts) {
  std::int64_t total = 0;
  for (std::int64_t r = 0; r < rows; ++r) {
    counts[r] = find_values(values + r * sum_block, depth, set + r * block_words);
    total += counts[r];
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

/// The offsets of the `count` set bits of a row of words. May write too many, but none behind as
/// many as there are bits.
H2LEARN_INLINE void list_bits(const std::uint64_t* words, std::int64_t word_count,
                              std::int32_t count, std::uint16_t* offsets) {
  if (count <= few_bits) {
    for (std::int64_t w = 0; w < word_count; ++w) {
      for (std::uint64_t word = words[w]; word != 0; word &= word - 1) {
        *offsets++ = static_cast<std::uint16_t>((w * 64 + __builtin_ctzll(word)) * vector_bytes);
      }
    }
    return;
  }
  Offsets base = {};
  for (std::int64_t w = 0; w < word_count; ++w) {
    H2LEARN_UNROLL
    for (int shift = 0; shift < 64; shift += 8) {
      const std::uint64_t byte = words[w] >> shift & 0xFF;
      *reinterpret_cast<UnalignedOffsets*>(offsets) = byte_table.of_byte[byte] + base;
      offsets += popcount(byte);
      base += static_cast<std::uint16_t>(8 * vector_bytes);
    }
  }
}

H2LEARN_INLINE Offsets interleave_low(Offsets a, Offsets b) {
  return shuffle<0, 8, 1, 9, 2, 10, 3, 11>(a, b);
}
H2LEARN_INLINE Offsets interleave_high(Offsets a, Offsets b) {
  return shuffle<4, 12, 5, 13, 6, 14, 7, 15>(a, b);
}

/// One entry's values in the lists of four rows.
typedef float QuadValues __attribute__((vector_size(16), may_alias));
typedef float UnalignedQuadValues __attribute__((vector_size(16), aligned(4), may_alias));

/// One entry's value in the list of each row of a group, in every lane. From registers where an
/// instruction can, since loads are what limits the kernel; on AVX2 within the halves of one, since
/// crossing them takes some processors two operations.
H2LEARN_INLINE void entry_values(const float* entry, Floats* of_rows) {
#if defined(__AVX512F__)
  static_assert(group_rows == 8);
  const __m512 values = _mm512_maskz_loadu_ps((1 << group_rows) - 1, entry);
  H2LEARN_UNROLL
  for (int r = 0; r < group_rows; ++r) {
    of_rows[r] = _mm512_maskz_permutexvar_ps(0xFFFF, _mm512_set1_epi32(r), values);
  }
#elif defined(__AVX2__)
  static_assert(group_rows == 4);
  const __m256 values = _mm256_broadcast_ps(reinterpret_cast<const __m128*>(entry));
  of_rows[0] = _mm256_permute_ps(values, 0x00);
  of_rows[1] = _mm256_permute_ps(values, 0x55);
  of_rows[2] = _mm256_permute_ps(values, 0xAA);
  of_rows[3] = _mm256_permute_ps(values, 0xFF);
#else
  H2LEARN_UNROLL
  for (int r = 0; r < group_rows; ++r) of_rows[r] = broadcast(entry[r]);
#endif
}

/// One entry's offsets in the lists of four rows.
typedef std::uint64_t QuadOffsets __attribute__((aligned(2), may_alias));

H2LEARN_INLINE std::uint64_t quad_offsets(const std::uint16_t* entry) {
  return *reinterpret_cast<const QuadOffsets*>(entry);
}

/// That of row r: the r-th in memory.
H2LEARN_INLINE std::uint64_t offset_of(std::uint64_t quad, int r) {
  const int place = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? r : quad_rows - 1 - r;
  return quad >> (16 * place) & 0xFFFF;
}

/// Entries of the rows of one group, each in a row of its own, before they are interleaved.
struct GroupEntries {
  alignas(16) std::uint16_t offsets[group_rows][sum_block + 8];
  alignas(64) float values[group_rows][sum_block + 8];
};

/// to[length][group_rows]; writes up to list_slack entries too many.
H2LEARN_INLINE void interleave_offsets(const GroupEntries& from, std::int64_t length,
                                       std::uint16_t* to) {
  typedef std::uint64_t Pair __attribute__((vector_size(16)));  // of entries
  for (std::int64_t entry = 0; entry < length; entry += 8, to += 8 * group_rows) {
    H2LEARN_UNROLL
    for (int quad = 0; quad < group_rows; quad += quad_rows) {
      Offsets row[quad_rows];
      for (int r = 0; r < quad_rows; ++r) {
        row[r] = *reinterpret_cast<const Offsets*>(from.offsets[quad + r] + entry);
      }
      const Offsets even_low = interleave_low(row[0], row[2]);
      const Offsets even_high = interleave_high(row[0], row[2]);
      const Offsets odd_low = interleave_low(row[1], row[3]);
      const Offsets odd_high = interleave_high(row[1], row[3]);
      const Offsets pairs[4] = {
          interleave_low(even_low, odd_low), interleave_high(even_low, odd_low),
          interleave_low(even_high, odd_high), interleave_high(even_high, odd_high)};
      H2LEARN_UNROLL
      for (int i = 0; i < 4; ++i) {
        const Pair pair = reinterpret_cast<Pair>(pairs[i]);
        *reinterpret_cast<QuadOffsets*>(to + 2 * i * group_rows + quad) = pair[0];
        *reinterpret_cast<QuadOffsets*>(to + (2 * i + 1) * group_rows + quad) = pair[1];
      }
    }
  }
}

/// The same for values.
H2LEARN_INLINE void interleave_values(const GroupEntries& from, std::int64_t length, float* to) {
  for (std::int64_t entry = 0; entry < length; entry += 4, to += 4 * group_rows) {
    H2LEARN_UNROLL
    for (int quad = 0; quad < group_rows; quad += quad_rows) {
      QuadValues row[quad_rows];
      for (int r = 0; r < quad_rows; ++r) {
        row[r] = *reinterpret_cast<const QuadValues*>(from.values[quad + r] + entry);
      }
      const QuadValues even_low = shuffle<0, 4, 1, 5>(row[0], row[2]);
      const QuadValues even_high = shuffle<2, 6, 3, 7>(row[0], row[2]);
      const QuadValues odd_low = shuffle<0, 4, 1, 5>(row[1], row[3]);
      const QuadValues odd_high = shuffle<2, 6, 3, 7>(row[1], row[3]);
      const QuadValues entries[4] = {
          shuffle<0, 4, 1, 5>(even_low, odd_low), shuffle<2, 6, 3, 7>(even_low, odd_low),
          shuffle<0, 4, 1, 5>(even_high, odd_high), shuffle<2, 6, 3, 7>(even_high, odd_high)};
      H2LEARN_UNROLL
      for (int i = 0; i < 4; ++i) {
        *reinterpret_cast<UnalignedQuadValues*>(to + i * group_rows + quad) = entries[i];
      }
    }
  }
}

/// A row that is listed.
struct ListedRow {
  const std::uint64_t* set;  ///< whole words
  const float* values;       ///< whose non-zeros these are, or null
  std::int32_t number;
  std::int32_t count;  ///< what is set
};

/// The lists of the rows of a group by ascending count, from entry `next` on; moves it behind them.
/// `zeros` is the row of a panel that filled up lists of bits lead to.
H2LEARN_INLINE void list_group(const ListedRow* rows, std::int64_t count, std::int64_t depth,
                               std::int64_t zeros, Lists& lists, ListGroup& group,
                               std::int32_t& next) {
  GroupEntries entries;
  const bool of_values = rows[0].values != nullptr;
  group.first = next;
  group.length = rows[count - 1].count;
  for (std::int64_t i = 0; i < group_rows; ++i) {
    const bool exists = i < count;
    group.row[i] = exists ? rows[i].number : -1;
    const std::int32_t set = exists ? rows[i].count : 0;
    if (exists) list_bits(rows[i].set, blocks_of(depth, 64), set, entries.offsets[i]);
    for (std::int32_t entry = 0; of_values && entry < set; ++entry) {
      entries.values[i][entry] = rows[i].values[entries.offsets[i][entry] / vector_bytes];
    }
    for (std::int32_t entry = set; entry < group.length; ++entry) {
      entries.offsets[i][entry] = static_cast<std::uint16_t>(zeros * vector_bytes);
      entries.values[i][entry] = 0;
    }
  }
  // cppcheck-suppress uninitvar ; what lies behind a list is of no list, either
  interleave_offsets(entries, group.length, lists.offsets + next);
  if (of_values) interleave_values(entries, group.length, lists.values + next);
  next += group_rows * group.length;
}

/// Lists of rows of set[rows][block_words] or, unless `values` is null, of the non-zeros there of
/// values[rows][sum_block]. `lists.counts` must hold the rows' counts; `depth` is the panel's row
/// of zeros.
inline void make_lists(const std::uint64_t* set, const float* values, std::int64_t rows,
                       std::int64_t depth, Lists& lists) {
  sort_rows(lists.counts, rows, lists.order);
  lists.group_count = blocks_of(rows, group_rows);
  std::int32_t next = 0;
  for (std::int64_t g = 0; g < lists.group_count; ++g) {
    ListedRow listed[group_rows] = {};
    const std::int64_t count = least(group_rows, rows - g * group_rows);
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int32_t row = lists.order[g * group_rows + i];
      listed[i] = {set + row * block_words, values == nullptr ? nullptr : values + row * sum_block,
                   row, lists.counts[row]};
    }
    list_group(listed, count, depth, depth, lists, lists.groups[g], next);
  }
  lists.entries = next;
}

}  // namespace
}  // namespace h2learn
