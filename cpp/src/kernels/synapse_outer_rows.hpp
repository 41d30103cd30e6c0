// Gathered rows of a block of positions, transposed: a row for each element of fan-in, with that
// element's bit or value at each position. For kernel sources only.
#pragma once

#include <cstdint>

#include "kernels/synapse_gather.hpp"
#include "kernels/synapse_workspace.hpp"
#include "kernels/transpose.hpp"

namespace h2learn {
namespace {

struct TransposedRows {
  std::uint64_t* bits;           ///< [terms][row_words]
  float* values;                 ///< [terms][sum_block]
  std::uint64_t* gathered_bits;  ///< [positions][words of terms]
  float* gathered_values;        ///< [sum_block][sum_block]
};

/// For `terms` (a multiple of 64; sum_block for values) elements at `positions` positions.
inline TransposedRows carve_transposed(Carver& carver, bool bits, std::int64_t terms,
                                       std::int64_t positions) {
  TransposedRows rows = {};
  if (bits) {
    rows.bits = carver.take<std::uint64_t>(terms * most(blocks_of(positions, 64), block_words));
    rows.gathered_bits = carver.take<std::uint64_t>(positions * (terms / 64));
  } else {
    rows.values = carver.take<float>(terms * sum_block);
    rows.gathered_values = carver.take<float>(sum_block * sum_block + lanes);
  }
  return rows;
}

/// Bits of elements [begin, end) at positions [first, first + count) to rows.bits, `row_words`
/// words an element; positions behind the last have no bit.
inline void transpose_bits(const GatheredRows& from, std::int64_t plane, std::int64_t group,
                           std::int64_t first, std::int64_t count, std::int64_t begin,
                           std::int64_t end, std::int64_t row_words, const TransposedRows& rows) {
  const std::int64_t element_words = blocks_of(end - begin, 64);
  gather_bits(from, plane, group, first, count, begin, end, element_words, rows.gathered_bits);
  // Each lane transposes one square of 64 positions x 64 elements.
  const std::int64_t squares = row_words * element_words;
  for (std::int64_t square = 0; square < squares; square += word_lanes) {
    const std::int64_t used = least(word_lanes, squares - square);
    Words tile[64];
    std::uint64_t* const words = reinterpret_cast<std::uint64_t*>(tile);
    for (std::int64_t lane = 0; lane < word_lanes; ++lane) {
      const std::int64_t position = (square + lane) / element_words * 64;
      const std::int64_t left = lane < used ? least(64, count - position) : 0;
      const std::uint64_t* const source =
          rows.gathered_bits + position * element_words + (square + lane) % element_words;
      for (std::int64_t i = 0; i < 64; ++i) {
        words[i * word_lanes + lane] = i < left ? source[i * element_words] : 0;
      }
    }
    transpose_words(tile);
    for (std::int64_t lane = 0; lane < used; ++lane) {
      const std::int64_t element = (square + lane) % element_words * 64;
      const std::int64_t left = least(64, end - begin - element);
      std::uint64_t* const target =
          rows.bits + element * row_words + (square + lane) / element_words;
      for (std::int64_t i = 0; i < left; ++i) target[i * row_words] = words[i * word_lanes + lane];
    }
  }
}

/// Values of up to sum_block elements from `begin` at positions [first, first + count), to
/// rows.values; zeros behind the last position up to a whole vector.
inline void transpose_values(const GatheredRows& from, std::int64_t group, std::int64_t first,
                             std::int64_t count, std::int64_t begin, const TransposedRows& rows) {
  gather_values(from, group, first, count, begin, rows.gathered_values);
  const std::int64_t elements = least(sum_block, from.length - begin);
  for (std::int64_t element = 0; element < elements; element += lanes) {
    for (std::int64_t position = 0; position < count; position += lanes) {
      Floats tile[lanes];
      for (int i = 0; i < lanes; ++i) {
        tile[i] = position + i < count
                      ? load(rows.gathered_values + (position + i) * sum_block + element)
                      : Floats{};
      }
      transpose(tile);
      for (int i = 0; i < lanes; ++i) {
        store(rows.values + (element + i) * sum_block + position, tile[i]);
      }
    }
  }
}

}  // namespace
}  // namespace h2learn
