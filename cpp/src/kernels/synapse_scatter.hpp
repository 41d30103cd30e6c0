// Event-driven convolution, for layers of few inputs per output: every set bit adds its weights
// to the outputs whose windows see it, so that nothing is gathered and no output is visited for a
// bit that is not set. For kernel sources only.
//
// Bits are visited in ascending order of row, column and channel. The terms that one output
// receives come in that order, too, which is its ascending fan-in: the sums are those of the
// other kernels, as long as they are one block.
#pragma once

#include <cstdint>

#include "kernels/synapse_choice.hpp"
#include "kernels/synapse_gather.hpp"
#include "kernels/vec.hpp"

namespace h2learn {
namespace {

/// Bits of an image's row must be this few, for column_of() to be exact.
constexpr std::int64_t most_row_bits = std::int64_t{1} << 16;

/// True for spikes whose windows move by one, without holes and groups, in a single block.
inline bool can_scatter(const GatheredRows& rows) {
  const Windows& windows = rows.windows;
  return rows.words != nullptr && has_windows(rows) && rows.groups == 1 &&
         rows.length <= sum_block && windows.stride_height == 1 && windows.stride_width == 1 &&
         windows.window_height * windows.window_width * windows.channels == rows.length &&
         windows.image_width * windows.channels < most_row_bits;
}

/// b / channels for the bits b of a row, by a multiplication.
class ColumnOfBit {
 public:
  explicit ColumnOfBit(std::int64_t channels) : inverse_((std::int64_t{1} << 32) / channels + 1) {}
  std::int64_t operator()(std::int64_t bit) const { return bit * inverse_ >> 32; }

 private:
  std::int64_t inverse_;
};

/// sums[rows][width][stride] of `rows` rows of windows from `first`, for one panel.
template <int vectors>
inline void scatter_bits(const GatheredRows& from, std::int64_t plane, std::int64_t image,
                         std::int64_t first, std::int64_t rows, const float* panel, float* sums,
                         std::int64_t stride) {
  const Windows windows = from.windows;  // a copy: stores of sums cannot change it
  const std::uint64_t* const words =
      from.words + (plane * from.images + image) * from.words_per_image;
  const std::int64_t row_bits = windows.image_width * windows.channels;
  const std::int64_t step = windows.channels * vectors * lanes;  // from one tap to the next
  const std::int64_t row_step = windows.window_width * step;
  const ColumnOfBit column_of(windows.channels);
  for (std::int64_t i = 0; i < rows * windows.width; ++i) {
    H2LEARN_UNROLL
    for (int v = 0; v < vectors; ++v) store(sums + i * stride + v * lanes, Floats{});
  }
  for (std::int64_t r = 0; r < rows + windows.window_height - 1; ++r) {
    const std::int64_t y = first - windows.top + r;
    if (y < 0 || y >= windows.image_height) continue;
    const std::int64_t first_tap = most(0, r - rows + 1);
    const std::int64_t end_tap = least(windows.window_height, r + 1);
    for (std::int64_t begin = 0; begin < row_bits; begin += 64) {
      std::uint64_t set = bits_at(words, y * row_bits + begin, least(64, row_bits - begin));
      for (; set != 0; set &= set - 1) {
        const std::int64_t bit = begin + __builtin_ctzll(set);
        const std::int64_t column = column_of(bit);
        const std::int64_t channel = bit - column * windows.channels;
        // Windows that see this column, through which of their columns.
        const std::int64_t right = column + windows.left;
        const std::int64_t begin_x = most(0, right - windows.width + 1);
        const std::int64_t end_x = least(windows.window_width, right + 1);
        const float* weights = panel + first_tap * row_step + begin_x * step +
                               channel * vectors * lanes;
        float* sum = sums + ((r - first_tap) * windows.width + right - begin_x) * stride;
        for (std::int64_t tap = first_tap; tap < end_tap; ++tap) {
          for (std::int64_t x = 0; x < end_x - begin_x; ++x) {
            H2LEARN_UNROLL
            for (int v = 0; v < vectors; ++v) {
              float* const to = sum - x * stride + v * lanes;
              store(to, load(to) + load(weights + x * step + v * lanes));
            }
          }
          weights += row_step;
          sum -= windows.width * stride;
        }
      }
    }
  }
}

}  // namespace
}  // namespace h2learn
