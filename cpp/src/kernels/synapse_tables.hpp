// The table engine (reference/synapse.hpp), vectorised over a panel's columns. For kernel
// sources only.
//
// One table is built and read by all rows before the next one is built, so that it stays in the
// nearest cache whatever the engine's shape. The adder tree over tables that come one after the
// other is a binary counter: level l holds a sum of 2^l tables or nothing, and a new table is
// carried upwards through the occupied levels. That adds exactly what a balanced tree adds.
#pragma once

#include <cstdint>

#include "kernels/synapse_gather.hpp"
#include "kernels/synapse_panels.hpp"
#include "kernels/vec.hpp"

namespace h2learn {
namespace {

constexpr int max_tree_levels = 11;  // 1024 rows of tables

/// Terms of the sums: row i holds term i of every column.
struct Terms {
  const float* rows;
  std::int64_t stride;
  std::int64_t columns;  ///< that may be read
};

struct TableScratch {
  std::uint16_t* index;  ///< [tables][rows]: each row's bits at a table's terms
  float* table;          ///< [2^inputs][panel_columns]
  float* levels;         ///< [max_tree_levels][rows][panel_columns]
};

/// Cuts each row's `length` bits, bits[rows][row_words], into one index for each table.
inline void index_tables(const std::uint64_t* bits, std::int64_t rows, std::int64_t row_words,
                         std::int64_t length, std::int64_t inputs, std::uint16_t* index) {
  for (std::int64_t begin = 0; begin < length; begin += inputs) {
    const std::int64_t count = least(inputs, length - begin);
    for (std::int64_t r = 0; r < rows; ++r) {
      *index++ = static_cast<std::uint16_t>(bits_at(bits + r * row_words, begin, count));
    }
  }
}

template <int vectors>
inline void build_table(const Terms& terms, std::int64_t first, std::int64_t count, float* table) {
  constexpr std::int64_t width = vectors * lanes;
  for (std::int64_t i = 0; i < width; ++i) table[i] = 0;
  for (std::int64_t entry = 1; entry < std::int64_t{1} << count; ++entry) {
    const std::int64_t rest = entry & (entry - 1);
    const std::int64_t term = first + __builtin_ctzll(static_cast<std::uint64_t>(entry));
    H2LEARN_UNROLL
    for (int v = 0; v < vectors; ++v) {
      const Floats added =
          load_first(terms.rows + term * terms.stride + v * lanes, terms.columns - v * lanes);
      store(table + entry * width + v * lanes, load(table + rest * width + v * lanes) + added);
    }
  }
}

/// sums[rows][stride] += the tree's sums over the tables that cover `length` terms.
template <int vectors>
inline void add_tables(const Terms& terms, std::int64_t length, std::int64_t inputs,
                       std::int64_t rows, const TableScratch& scratch_memory, float* sums,
                       std::int64_t stride) {
  constexpr std::int64_t width = vectors * lanes;
  const std::int64_t tables = blocks_of(length, inputs);
  const auto level_of = [&](int level, std::int64_t r) {
    return scratch_memory.levels + (level * rows + r) * width;
  };
  for (std::int64_t t = 0; t < tables; ++t) {
    build_table<vectors>(terms, t * inputs, least(inputs, length - t * inputs),
                         scratch_memory.table);
    const std::uint16_t* const index = scratch_memory.index + t * rows;
    const int carries = __builtin_ctzll(~static_cast<std::uint64_t>(t));
    for (std::int64_t r = 0; r < rows; ++r) {
      const float* const entry = scratch_memory.table + index[r] * width;
      H2LEARN_UNROLL
      for (int v = 0; v < vectors; ++v) {
        Floats sum = load(entry + v * lanes);
        for (int level = 0; level < carries; ++level) {
          sum = load(level_of(level, r) + v * lanes) + sum;
        }
        store(level_of(carries, r) + v * lanes, sum);
      }
    }
  }
  const int lowest = __builtin_ctzll(static_cast<std::uint64_t>(tables));
  for (std::int64_t r = 0; r < rows; ++r) {
    H2LEARN_UNROLL
    for (int v = 0; v < vectors; ++v) {
      Floats sum = load(level_of(lowest, r) + v * lanes);
      for (int level = lowest + 1; tables >> level != 0; ++level) {
        if ((tables >> level & 1) != 0) sum = load(level_of(level, r) + v * lanes) + sum;
      }
      float* const total = sums + r * stride + v * lanes;
      store(total, load(total) + sum);
    }
  }
}

}  // namespace
}  // namespace h2learn
