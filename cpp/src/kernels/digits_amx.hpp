// The same sums by AMX's tiles of int8: 16 windows of 64 bytes times 64 bytes of 16 columns. For
// kernel sources only.
//
// Windows are loaded straight from the padded bytes: a tile's row is 64 bytes of one window, and
// the next window's lie a constant step on. Registers 0 to 3 hold sums. GCC's tile operations are
// volatile assembly that does not say which memory it reads, so nothing that they read may still be
// on its way to memory: before a series of loads stands a barrier for the compiler.
#pragma once

#include <cstdint>

#include "kernels/digits_tile.hpp"

#if defined(__AMX_INT8__)

#include <immintrin.h>

namespace h2learn {
namespace {

/// Bytes of a window in one tile, and of sums from one window to the next.
constexpr std::int64_t tile_bytes = 64;

H2LEARN_INLINE void finish_stores() { __asm__ volatile("" ::: "memory"); }

/// Every tile of the calling thread: 16 rows of 64 bytes.
inline void configure_tiles() {
  struct Configuration {
    std::uint8_t palette;
    std::uint8_t start_row;
    std::uint8_t reserved[14];
    std::uint16_t row_bytes[16];
    std::uint8_t rows[16];
  };
  static_assert(sizeof(Configuration) == 64);
  alignas(64) Configuration configuration = {};
  configuration.palette = 1;
  for (int tile = 0; tile < 8; ++tile) {
    configuration.row_bytes[tile] = tile_bytes;
    configuration.rows[tile] = tile_windows;
  }
  finish_stores();
  _tile_loadconfig(&configuration);
}

inline void release_tiles() { _tile_release(); }

/// Calls step(windows' bytes from an origin, panel's bytes) for every 64 bytes of a packed window,
/// from the first to the last or the other way round.
template <bool upwards, typename Step>
H2LEARN_INLINE void for_each_step(const DigitsProduct& product, Step step) {
  finish_stores();
  constexpr std::int64_t step_terms = tile_bytes * digits_panel_columns;
  std::int64_t terms = upwards ? 0 : product.panels.digit_bytes() - step_terms;
  for (std::int64_t i = 0; i < product.runs; ++i) {
    const std::int64_t begin = product.run_offsets[upwards ? i : product.runs - 1 - i];
    for (std::int64_t k = 0; k < product.run_length; k += tile_bytes) {
      step(begin + (upwards ? k : product.run_length - tile_bytes - k), terms);
      terms += upwards ? step_terms : -step_terms;
    }
  }
}

/// Two digits of two tiles of windows, from `panel` to `first` and `second`; calls
/// between() after every step.
template <bool upwards, typename Between>
inline void sum_pair(const DigitsProduct& product, const TileRows* tiles, const std::int8_t* panel,
                     std::int32_t* first, std::int32_t* second, Between between) {
  const std::int8_t* const next = panel + product.panels.digit_bytes();
  const TileRows& one = tiles[0];
  const TileRows& two = tiles[1];
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for_each_step<upwards>(product, [&](std::int64_t bytes, std::int64_t terms) {
    _tile_loadd(4, one.origin + bytes, one.step);
    _tile_loadd(6, panel + terms, tile_bytes);
    _tile_loadd(5, two.origin + bytes, two.step);
    _tile_loadd(7, next + terms, tile_bytes);
    _tile_dpbusd(0, 4, 6);
    _tile_dpbusd(1, 5, 6);
    _tile_dpbusd(2, 4, 7);
    _tile_dpbusd(3, 5, 7);
    between();
  });
  _tile_stored(0, first, tile_bytes);
  _tile_stored(1, second, tile_bytes);
  _tile_stored(2, first + tile_sums, tile_bytes);
  _tile_stored(3, second + tile_sums, tile_bytes);
}

/// Operands of add_runs(): rows of a tile lie `stride` bytes apart and a run's steps `step`; the
/// second digit's terms `digit_bytes` behind the first's.
struct OuterTiles {
  const std::uint8_t* rows;
  std::int64_t stride;
  std::int64_t step;
  const std::int8_t* terms;
  std::int64_t digit_bytes;
  bool begin;  ///< sums are put to memory, not added to what is there
};

/// Two digits of one or two tiles of rows.
template <int tiles>
H2LEARN_INLINE void add_runs(const OuterTiles& work, const OuterRun* run, const OuterRun* end,
                             std::int32_t* one, std::int32_t* two) {
  finish_stores();
  if (work.begin) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, one, tile_bytes);
    _tile_loadd(2, one + tile_sums, tile_bytes);
    if constexpr (tiles == 2) {
      _tile_loadd(1, two, tile_bytes);
      _tile_loadd(3, two + tile_sums, tile_bytes);
    }
  }
  for (; run < end; ++run) {
    const std::uint8_t* rows = work.rows + run->input * tile_bytes;
    const std::int8_t* terms = work.terms + run->output * tile_bytes * digits_panel_columns;
    for (std::int32_t step = 0; step < run->steps; ++step) {
      _tile_loadd(4, rows, work.stride);
      _tile_loadd(6, terms, tile_bytes);
      _tile_loadd(7, terms + work.digit_bytes, tile_bytes);
      _tile_dpbusd(0, 4, 6);
      _tile_dpbusd(2, 4, 7);
      if constexpr (tiles == 2) {
        _tile_loadd(5, rows + tile_windows * work.stride, work.stride);
        _tile_dpbusd(1, 5, 6);
        _tile_dpbusd(3, 5, 7);
      }
      rows += work.step;
      terms += tile_bytes * digits_panel_columns;
    }
  }
  _tile_stored(0, one, tile_bytes);
  _tile_stored(2, one + tile_sums, tile_bytes);
  if constexpr (tiles == 2) {
    _tile_stored(1, two, tile_bytes);
    _tile_stored(3, two + tile_sums, tile_bytes);
  }
}

/// All digits of one tile of windows.
template <typename Between>
inline void sum_single_tile(const DigitsProduct& product, const TileRows& rows,
                            const std::int8_t* panel, std::int32_t* sums, Between between) {
  const std::int64_t digit_bytes = product.panels.digit_bytes();
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for_each_step<true>(product, [&](std::int64_t bytes, std::int64_t terms) {
    const std::int8_t* const from = panel + terms;
    _tile_loadd(4, rows.origin + bytes, rows.step);
    _tile_loadd(5, from, tile_bytes);
    _tile_loadd(6, from + digit_bytes, tile_bytes);
    _tile_loadd(7, from + 2 * digit_bytes, tile_bytes);
    _tile_dpbusd(0, 4, 5);
    _tile_dpbusd(1, 4, 6);
    _tile_dpbusd(2, 4, 7);
    _tile_loadd(5, from + 3 * digit_bytes, tile_bytes);
    _tile_dpbusd(3, 4, 5);
    between();
  });
  _tile_stored(0, sums, tile_bytes);
  _tile_stored(1, sums + tile_sums, tile_bytes);
  _tile_stored(2, sums + 2 * tile_sums, tile_bytes);
  _tile_stored(3, sums + 3 * tile_sums, tile_bytes);
}

/// One or two tiles of windows. Rows beyond a tile's count are read all the same and must be
/// memory; nobody reads their sums. Two tiles take two passes, two digits in each: the second goes
/// back over the windows that the first ended with, and the next pair's first (`odd` in turn) over
/// the part of the panel that this one's second ended with, which the first-level cache still has.
template <typename Between>
inline void sum_by_tiles(const DigitsProduct& product, const TileRows* tiles, std::int64_t count,
                         const std::int8_t* panel, bool odd, TileSums* sums, Between between) {
  if (count == 1) {
    sum_single_tile(product, tiles[0], panel, sums[0], between);
    return;
  }
  const std::int8_t* const rest = panel + 2 * product.panels.digit_bytes();
  std::int32_t* const first = sums[0] + 2 * tile_sums;
  std::int32_t* const second = sums[1] + 2 * tile_sums;
  if (odd) {
    sum_pair<true>(product, tiles, rest, first, second, between);
    sum_pair<false>(product, tiles, panel, sums[0], sums[1], between);
  } else {
    sum_pair<true>(product, tiles, panel, sums[0], sums[1], between);
    sum_pair<false>(product, tiles, rest, first, second, between);
  }
}

}  // namespace
}  // namespace h2learn

#endif
