// Products of which few elements are needed (a sampled dense-dense product): each needed element is
// a sum of its own, in the order of backward.hpp. For kernel sources only.
//
// A row of gathered floats stays in the first-level cache for all channels that need it, and a
// channel's weights for up to `most_dots` rows at a time.
#pragma once

#include <cstdint>
#include <utility>

#include "kernels/synapse_block.hpp"
#include "kernels/synapse_gather.hpp"
#include "kernels/vec.hpp"
#include "summation.hpp"

namespace h2learn {
namespace {

/// Vectors that hold the partial sums of one element.
constexpr int dot_vectors = dot_lanes / lanes;

/// Elements of one column summed at a time: what the registers hold beside one row of weights.
constexpr int most_dots = dot_vectors > 2 ? 3 : 6;

/// Rows whose floats of one block (a kilobyte each) fit the first-level cache.
constexpr std::int64_t dot_rows = 24;

/// Columns of one task at most: numbers of a byte.
constexpr std::int64_t sampled_columns = 128;

/// Where the columns of a tile of rows need something.
struct NeededRows {
  std::uint8_t rows[sampled_columns][dot_rows];  ///< of the tile, ascending
  std::uint8_t counts[sampled_columns];
  std::uint8_t order[sampled_columns];  ///< columns that need any, by ascending count
  std::int32_t columns;                 ///< how many these are
};

/// Lists row `row` of the tile for the columns whose bits are set, `columns` bits from `bit`.
inline void list_needed(const std::uint64_t* mask, std::int64_t bit, std::int64_t columns,
                        std::int64_t row, NeededRows& to) {
  for (std::int64_t column = 0; column < columns; column += 64) {
    std::uint64_t bits = bits_at(mask, bit + column, least(64, columns - column));
    for (; bits != 0; bits &= bits - 1) {
      const std::int64_t c = column + __builtin_ctzll(bits);
      to.rows[c][to.counts[c]++] = static_cast<std::uint8_t>(row);
    }
  }
}

/// Columns with as many rows follow each other, so that the branches by their number, the same for
/// every block of terms, are foreseen.
inline void order_columns(std::int64_t columns, NeededRows& needed) {
  std::int32_t first[dot_rows + 2] = {};
  for (std::int64_t c = 0; c < columns; ++c) ++first[needed.counts[c] + 1];
  const std::int32_t idle = first[1];
  first[1] = 0;
  for (std::int64_t count = 2; count <= dot_rows; ++count) first[count] += first[count - 1];
  for (std::int64_t c = 0; c < columns; ++c) {
    if (needed.counts[c] != 0) {
      needed.order[first[needed.counts[c]]++] = static_cast<std::uint8_t>(c);
    }
  }
  needed.columns = static_cast<std::int32_t>(columns) - idle;
}

template <int distance, int... lane>
H2LEARN_INLINE Floats moved_down(Floats v, std::integer_sequence<int, lane...> /*lanes*/) {
  return shuffle<(lane + distance) % lanes...>(v, v);
}

template <int distance>
H2LEARN_INLINE Floats add_moved(Floats v) {
  if constexpr (distance == 0) {
    return v;
  } else {
    v += moved_down<distance>(v, std::make_integer_sequence<int, lanes>());
    return add_moved<distance / 2>(v);
  }
}

/// The sum of dot_lanes lanes: halves are added until one is left.
H2LEARN_INLINE float sum_of_lanes(const Floats* parts) {
  Floats half[dot_vectors];
  H2LEARN_UNROLL
  for (int v = 0; v < dot_vectors; ++v) half[v] = parts[v];
  H2LEARN_UNROLL
  for (int left = dot_vectors / 2; left > 0; left /= 2) {
    H2LEARN_UNROLL
    for (int v = 0; v < left; ++v) half[v] += half[v + left];
  }
  return add_moved<lanes / 2>(half[0])[0];
}

/// sums[rows[r] * stride] += values[rows[r]] . weights, for `count` rows; fetches `next` weights.
template <int count>
inline void add_dots(const float* weights, const float* next, const float* values,
                     const std::uint8_t* rows, std::int64_t depth, float* sums, std::int64_t stride,
                     bool first) {
  const float* from[count];
  H2LEARN_UNROLL
  for (int r = 0; r < count; ++r) from[r] = values + rows[r] * dot_block;
  Floats parts[count][dot_vectors] = {};
  for (std::int64_t k = 0; k < depth; k += dot_lanes) {
    __builtin_prefetch(next + k);
    H2LEARN_UNROLL
    for (int v = 0; v < dot_vectors; ++v) {
      const Floats weight = load(weights + k + v * lanes);
      H2LEARN_UNROLL
      for (int r = 0; r < count; ++r) {
        parts[r][v] = multiply_add(load(from[r] + k + v * lanes), weight, parts[r][v]);
      }
    }
  }
  H2LEARN_UNROLL
  for (int r = 0; r < count; ++r) {
    float& to = sums[rows[r] * stride];
    const float sum = sum_of_lanes(parts[r]);
    to = first ? sum : to + sum;
  }
}

/// One block of one tile of rows times all columns: weights[columns][dot_block].
inline void add_needed(const NeededRows& needed, const float* weights, const float* values,
                       std::int64_t depth, float* sums, std::int64_t stride, bool first) {
  for (std::int32_t i = 0; i < needed.columns; ++i) {
    const std::int64_t c = needed.order[i];
    const float* const next =
        weights + needed.order[i + 1 < needed.columns ? i + 1 : i] * dot_block;
    for_each_tile<most_dots>(needed.counts[c], [&]<int count>(std::int64_t r) {
      add_dots<count>(weights + c * dot_block, next, values, needed.rows[c] + r, depth, sums + c,
                      stride, first);
    });
  }
}

}  // namespace
}  // namespace h2learn
