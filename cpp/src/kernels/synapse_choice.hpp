// Which kernel a product is worth: by the measured density of what can be skipped. Every choice
// gives the same sums. For kernel sources only.
#pragma once

#include <omp.h>

#include <cstdint>

#include "kernels/synapse_gather.hpp"
#include "kernels/synapse_panels.hpp"
#include "kernels/vec.hpp"

namespace h2learn {
namespace {

/// What a row of one block costs, in units of multiplying and adding one vector. Measured on one
/// Zen 5 core with AVX-512: the kernels of bench/synapse_bench.cpp timed by events and densely at
/// 1 to 70 % density, and the constants fitted to where the two cross for 1 to 49 vectors of
/// columns.
struct Costs {
  float gather_row;   ///< gathering a row, which windows spare
  float list_bit;     ///< looking at one bit for a list
  float list_value;   ///< looking at one float for a list
  float bit_event;    ///< adding one vector at one set bit
  float value_event;  ///< adding one vector, multiplied, at one non-zero
  float start_sum;    ///< one vector's share of walking a list, whatever its length
};
constexpr Costs costs = {250, 0.25F, 1.0F, 1.7F, 2.0F, 12};

/// Multiply-adds below which a second thread costs more than it saves.
constexpr std::int64_t parallel_from = std::int64_t{1} << 18;

inline int threads_for(std::int64_t products) {
  return products < parallel_from ? 1 : omp_get_max_threads();
}

/// Windows must be so many in a row to fill a register tile, and so few that a row of their sums
/// fits a thread's memory.
constexpr std::int64_t least_windows = 4;
constexpr std::int64_t most_windows = 1024;

inline bool has_windows(const GatheredRows& rows) {
  return rows.windows.runs != nullptr && rows.windows.width >= least_windows &&
         rows.windows.width <= most_windows;
}

/// True when a block of `depth` terms, of which a part `density` is set, is multiplied faster by
/// events than densely with `vectors` vectors of columns. `gathering` is what events cost first.
inline bool events_pay(bool bits, float density, std::int64_t depth, std::int64_t vectors,
                       float gathering) {
  const float terms = static_cast<float>(depth);
  const float columns = static_cast<float>(vectors);
  const float listing = terms * (bits ? costs.list_bit : costs.list_value);
  const float adding = density * terms * (bits ? costs.bit_event : costs.value_event);
  return gathering + listing + columns * (adding + costs.start_sum) < columns * terms;
}

/// Part of one plane's bits that are set.
inline float density_of_bits(const GatheredRows& rows, std::int64_t plane) {
  const std::int64_t words = rows.images * rows.words_per_image;
  const std::uint64_t* const from = rows.words + plane * words;
  std::int64_t set = 0;
#pragma omp parallel for schedule(static) reduction(+ : set) if (words > 1 << 16)
  for (std::int64_t i = 0; i < words; ++i) set += __builtin_popcountll(from[i]);
  return static_cast<float>(set) / static_cast<float>(most(words, 1) * 64);
}

/// Part of the floats that are not zero, estimated from pieces spread evenly over all images.
inline float density_of_values(const GatheredRows& rows) {
  constexpr std::int64_t piece = 256;
  constexpr std::int64_t pieces = 256;
  const std::int64_t all = rows.images * rows.image_stride;
  const std::int64_t step = most(all / pieces, piece);
  std::int64_t seen = 0;
  std::int64_t set = 0;
  for (std::int64_t begin = 0; begin < all; begin += step) {
    const std::int64_t end = least(begin + piece, all);
    for (std::int64_t i = begin; i < end; ++i) set += rows.values[i] != 0;
    seen += end - begin;
  }
  return static_cast<float>(set) / static_cast<float>(most(seen, 1));
}

/// Whether a plane (of floats: the values) is multiplied as windows, without gathering.
inline bool windows_pay(const GatheredRows& rows, Method method, std::int64_t plane,
                        std::int64_t columns) {
  if (!has_windows(rows) || method == Method::event || method == Method::tables) return false;
  if (method == Method::dense) return true;
  const bool bits = rows.words != nullptr;
  const float density = bits ? density_of_bits(rows, plane) : density_of_values(rows);
  return !events_pay(bits, density, least(rows.length, sum_block), blocks_of(columns, lanes),
                     costs.gather_row);
}

}  // namespace
}  // namespace h2learn
