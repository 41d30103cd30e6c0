// Sums of digits for a tile of 16 windows by 16 columns, each digit's for itself. By vectors, and
// where the instruction set has them by AMX's tiles. For kernel sources only.
#pragma once

#include <cstdint>

#include "kernels/digits.hpp"
#include "kernels/digits_dot.hpp"
#include "kernels/synapse_gather.hpp"
#include "kernels/vec.hpp"

namespace h2learn {
namespace {

constexpr std::int64_t tile_windows = 16;
constexpr std::int64_t tile_sums = tile_windows * digits_panel_columns;

/// Multiplications below which a second thread costs more than it saves.
constexpr std::int64_t digits_parallel_from = std::int64_t{1} << 20;

/// Sums of one tile: [digits][tile_windows][columns].
typedef std::int32_t TileSums[number_digits * tile_sums];

/// A thread's share of a product: some rows of windows of some images, times some panels.
struct Task {
  std::int64_t group;
  std::int64_t first_image;
  std::int64_t images;
  std::int64_t first_row;
  std::int64_t rows;
  std::int64_t first_panel;
  std::int64_t panels;
};

/// Windows of a tile: the first one's origin, and bytes from one to the next.
struct TileRows {
  const std::uint8_t* origin;
  std::int64_t step;
  std::int64_t count;
};

/// What one window's sums, digit by digit, make for column n, times its factor.
H2LEARN_INLINE double value_of_sums(const std::int32_t* sums, const double* factors, int n) {
  const auto sum = [&](int d) { return static_cast<double>(sums[d * tile_sums + n]); };
  // Each half is exact in a double's 53 bits, and so is 2^16 times one: only their sum is rounded,
  // to what an exact sum would be rounded to.
  const double low = sum(0) + 256 * sum(1);
  const double high = sum(2) + 256 * sum(3);
  return (low + 65536 * high) * factors[n];
}

/// Windows whose sums stay in registers: `digits` vectors for each.
constexpr int register_rows = vector_bytes == 64 ? 4 : 2;

template <bool wide>
inline void sum_tile(const DigitsProduct& product, const TileRows& rows, const std::int8_t* panel,
                     std::int32_t* sums) {
  const std::int64_t digit_bytes = product.panels.digit_bytes();
  for (std::int64_t first = 0; first < rows.count; first += register_rows) {
    // Beyond the last window the last one is read again; nobody reads its sums.
    const std::uint8_t* from[register_rows];
    H2LEARN_UNROLL
    for (int r = 0; r < register_rows; ++r) {
      from[r] = rows.origin + least(first + r, rows.count - 1) * rows.step;
    }
    for (std::int64_t column = 0; column < digits_panel_columns; column += lanes) {
      Ints sum[register_rows][number_digits] = {};
      const std::int8_t* terms = panel + column * 4;
      for (std::int64_t run = 0; run < product.runs; ++run) {
        const std::int64_t begin = product.run_offsets[run];
        const std::int64_t end = begin + product.run_length;
        for (std::int64_t k = begin; k < end; k += 4, terms += 4 * digits_panel_columns) {
          Ints digit[number_digits];
          H2LEARN_UNROLL
          for (int d = 0; d < number_digits; ++d) digit[d] = load_bytes(terms + d * digit_bytes);
          H2LEARN_UNROLL
          for (int r = 0; r < register_rows; ++r) {
            const FourValues values = values_at<wide>(from[r] + k);
            H2LEARN_UNROLL
            for (int d = 0; d < number_digits; ++d) {
              sum[r][d] = add_dot<wide>(sum[r][d], values, digit[d]);
            }
          }
        }
      }
      H2LEARN_UNROLL
      for (int r = 0; r < register_rows; ++r) {
        H2LEARN_UNROLL
        for (int d = 0; d < number_digits; ++d) {
          std::int32_t* const to =
              sums + d * tile_sums + (first + r) * digits_panel_columns + column;
          *reinterpret_cast<UnalignedInts*>(to) = sum[r][d];
        }
      }
    }
  }
}

inline void sum_tile_by_vectors(const DigitsProduct& product, const TileRows& rows,
                                const std::int8_t* panel, std::int32_t* sums) {
  const bool wide = product.rows.planes == 8;
  wide ? sum_tile<true>(product, rows, panel, sums) : sum_tile<false>(product, rows, panel, sums);
}

}  // namespace
}  // namespace h2learn
