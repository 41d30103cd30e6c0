// Event-driven convolution, for layers of few inputs per output: every set bit adds its weights
// to the outputs whose windows see it (or these outputs' gradients to its weights), so that
// nothing is gathered and nothing is visited for a bit that is not set. For kernel sources only.
//
// Bits are visited in ascending order of row, column and channel. The terms of one sum come in
// that order, too, and it is their order in the other kernels: ascending fan-in for an output,
// as long as that is one block, and ascending positions for a weight.
#pragma once

#include <cstdint>

#include "kernels/synapse_block.hpp"
#include "kernels/synapse_choice.hpp"
#include "kernels/synapse_gather.hpp"
#include "kernels/vec.hpp"

namespace h2learn {
namespace {

/// Bits of an image's row must be this few, for ColumnOfBit to be exact.
constexpr std::int64_t most_row_bits = std::int64_t{1} << 16;

/// True for spikes whose windows move by one, without holes and groups, in a single block.
inline bool can_scatter(const GatheredRows& rows) {
  const Windows& windows = rows.windows;
  return rows.words != nullptr && has_windows(rows) && rows.groups == 1 &&
         rows.length <= sum_block && windows.stride_height == 1 && windows.stride_width == 1 &&
         windows.window_height * windows.window_width * windows.channels == rows.length &&
         windows.image_width * windows.channels < most_row_bits;
}

/// bit / channels for the bits of a row, by a multiplication.
class ColumnOfBit {
 public:
  explicit ColumnOfBit(std::int64_t channels) : inverse_((std::int64_t{1} << 32) / channels + 1) {}
  std::int64_t operator()(std::int64_t bit) const { return bit * inverse_ >> 32; }

 private:
  std::int64_t inverse_;
};

/// Calls visit(column, channel, begin, end) for each set bit of columns [first, last) of row `y`
/// of an image: the windows whose first column is in [left, right] see the bit through their
/// columns [begin, end).
template <typename Visit>
H2LEARN_INLINE void for_each_bit(const Windows& windows, const std::uint64_t* words,
                                 std::int64_t y, std::int64_t left, std::int64_t right,
                                 Visit visit) {
  const ColumnOfBit column_of(windows.channels);
  const std::int64_t row = y * windows.image_width * windows.channels;
  const std::int64_t first = most(0, left - windows.left) * windows.channels;
  const std::int64_t last =
      least(windows.image_width, right - windows.left + windows.window_width) * windows.channels;
  for (std::int64_t piece = first; piece < last; piece += 64) {
    std::uint64_t set = bits_at(words, row + piece, least(64, last - piece));
    for (; set != 0; set &= set - 1) {
      const std::int64_t bit = piece + __builtin_ctzll(set);
      const std::int64_t column = column_of(bit);
      const std::int64_t padded = column + windows.left;
      visit(padded, bit - column * windows.channels, most(0, padded - right),
            least(windows.window_width, padded - left + 1));
    }
  }
}

H2LEARN_INLINE const std::uint64_t* image_bits(const GatheredRows& from, std::int64_t plane,
                                               std::int64_t image) {
  return from.words + (plane * from.images + image) * from.words_per_image;
}

template <int vectors>
H2LEARN_INLINE void add_row(float* to, const float* terms) {
  H2LEARN_UNROLL
  for (int v = 0; v < vectors; ++v) {
    store(to + v * lanes, load(to + v * lanes) + load(terms + v * lanes));
  }
}

template <int vectors>
H2LEARN_INLINE void clear_rows(std::int64_t rows, float* to, std::int64_t stride) {
  for (std::int64_t r = 0; r < rows; ++r) {
    H2LEARN_UNROLL
    for (int v = 0; v < vectors; ++v) store(to + r * stride + v * lanes, Floats{});
  }
}

/// sums[rows][width][stride] of `rows` rows of windows from `first`, for one panel of weights.
template <int vectors>
inline void scatter_weights(const GatheredRows& from, std::int64_t plane, std::int64_t image,
                            std::int64_t first, std::int64_t rows, const float* panel,
                            float* sums, std::int64_t stride) {
  const Windows windows = from.windows;  // a copy: stores of sums cannot change it
  const std::uint64_t* const words = image_bits(from, plane, image);
  const std::int64_t step = windows.channels * vectors * lanes;  // from one tap to the next
  clear_rows<vectors>(rows * windows.width, sums, stride);
  for (std::int64_t r = 0; r < rows + windows.window_height - 1; ++r) {
    const std::int64_t y = first - windows.top + r;
    if (y < 0 || y >= windows.image_height) continue;
    const std::int64_t first_tap = most(0, r - rows + 1);
    const std::int64_t end_tap = least(windows.window_height, r + 1);
    for_each_bit(windows, words, y, 0, windows.width - 1,
                 [&](std::int64_t column, std::int64_t channel, std::int64_t begin,
                     std::int64_t end) {
      const float* weights = panel + (first_tap * windows.window_width + begin) * step +
                             channel * vectors * lanes;
      float* sum = sums + ((r - first_tap) * windows.width + column - begin) * stride;
      for (std::int64_t tap = first_tap; tap < end_tap; ++tap) {
        for (std::int64_t x = 0; x < end - begin; ++x) {
          add_row<vectors>(sum - x * stride, weights + x * step);
        }
        weights += windows.window_width * step;
        sum -= windows.width * stride;
      }
    });
  }
}

/// sums[fan-in][stride] += the sums over `count` positions of all images from `first`, one block,
/// for one panel of their gradients. `block` is memory for [fan-in] rows of a panel.
template <int vectors>
inline void scatter_gradients(const GatheredRows& from, std::int64_t plane, std::int64_t first,
                              std::int64_t count, const float* gradients, float* block,
                              float* sums, std::int64_t stride, bool is_first) {
  constexpr std::int64_t width = vectors * lanes;
  const Windows windows = from.windows;
  clear_rows<vectors>(from.length, block, width);
  for (std::int64_t done = 0; done < count;) {
    const std::int64_t image = (first + done) / from.positions;
    const std::int64_t position = (first + done) % from.positions;
    const std::int64_t y = position / windows.width;
    const std::int64_t x = position % windows.width;
    const std::int64_t spanned = least(windows.width - x, count - done);
    const std::uint64_t* const words = image_bits(from, plane, image);
    for (std::int64_t tap = 0; tap < windows.window_height; ++tap) {
      const std::int64_t row = y - windows.top + tap;
      if (row < 0 || row >= windows.image_height) continue;
      for_each_bit(windows, words, row, x, x + spanned - 1,
                   [&](std::int64_t column, std::int64_t channel, std::int64_t begin,
                       std::int64_t end) {
        float* const to =
            block + (tap * windows.window_width * windows.channels + channel) * width;
        for (std::int64_t c = begin; c < end; ++c) {
          add_row<vectors>(to + c * windows.channels * width,
                           gradients + (done + column - c - x) * width);
        }
      });
    }
    done += spanned;
  }
  for (std::int64_t k = 0; k < from.length; ++k) {
    Floats sum[vectors];
    for (int v = 0; v < vectors; ++v) sum[v] = load(block + k * width + v * lanes);
    add_to<vectors>(sums + k * stride, sum, is_first);
  }
}

}  // namespace
}  // namespace h2learn
