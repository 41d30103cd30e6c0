// Event-driven convolution, for layers of few inputs per output: every set bit adds its weights
// to the outputs whose windows see it (or these outputs' gradients to its weights), so that
// nothing is gathered and nothing is visited for a bit that is not set. For kernel sources only.
//
// Bits are visited in ascending order of row, column and channel. The terms of one sum come in
// that order, too, and it is their order in the other kernels: ascending fan-in for an output
// (whose blocks are visited one after the other), and ascending positions for a weight.
#pragma once

#include <cstdint>

#include "h2learn/spikes.hpp"
#include "kernels/synapse_block.hpp"
#include "kernels/synapse_choice.hpp"
#include "kernels/synapse_gather.hpp"
#include "kernels/vec.hpp"

namespace h2learn {
namespace {

/// Bits of an image's row must be this few, for ColumnOfBit to be exact.
constexpr std::int64_t most_row_bits = std::int64_t{1} << 16;

/// Fan-in up to which a block's sums for each weight stay near.
constexpr std::int64_t most_scattered = 1024;

/// True for spikes and counts whose windows move by one, without holes and groups.
inline bool can_scatter(const GatheredRows& rows) {
  const Windows& windows = rows.windows;
  return rows.words != nullptr && has_windows(rows) && rows.groups == 1 &&
         rows.length <= most_scattered && windows.stride_height == 1 && windows.stride_width == 1 &&
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

/// Calls visit(value, column, channel, begin, end) for each spike (or count that is not 0) in row
/// `y` of an image that is seen by windows whose first column is in [left, right]: they see it
/// through their columns [begin, end). `column` counts from the padding's first; spikes have the
/// value 1.
template <bool counts, typename Visit>
H2LEARN_INLINE void for_each_spike(const GatheredRows& from, std::int64_t image, std::int64_t y,
                                   std::int64_t left, std::int64_t right, Visit visit) {
  const Windows& windows = from.windows;
  const std::uint64_t* const words = image_words(from, 0, image);
  const ColumnOfBit column_of(windows.channels);
  const std::int64_t row = y * windows.image_width * windows.channels;
  const std::int64_t first = most(0, left - windows.left) * windows.channels;
  const std::int64_t last =
      least(windows.image_width, right - windows.left + windows.window_width) * windows.channels;
  for (std::int64_t piece = first; piece < last; piece += 64) {
    const std::int64_t bits = least(64, last - piece);
    std::uint64_t set = bits_at(words, row + piece, bits);
    std::uint64_t plane_bits[most_planes] = {set};
    for (std::int64_t plane = 1; counts && plane < from.planes; ++plane) {
      plane_bits[plane] = bits_at(words + plane * plane_words(from), row + piece, bits);
      set |= plane_bits[plane];
    }
    for (; set != 0; set &= set - 1) {
      const int number = __builtin_ctzll(set);
      std::uint64_t value = counts ? 0 : 1;
      for (std::int64_t plane = 0; counts && plane < from.planes; ++plane) {
        value |= (plane_bits[plane] >> number & 1) << plane;
      }
      const std::int64_t bit = piece + number;
      const std::int64_t column = column_of(bit);
      const std::int64_t padded = column + windows.left;
      visit(static_cast<float>(value), padded, bit - column * windows.channels,
            most(0, padded - right), least(windows.window_width, padded - left + 1));
    }
  }
}

template <int vectors>
H2LEARN_INLINE void add_row(float* to, const float* terms) {
  H2LEARN_UNROLL
  for (int v = 0; v < vectors; ++v) {
    store(to + v * lanes, load(to + v * lanes) + load(terms + v * lanes));
  }
}

/// to += value * terms.
template <int vectors>
H2LEARN_INLINE void add_row(float* to, float value, const float* terms) {
  H2LEARN_UNROLL
  for (int v = 0; v < vectors; ++v) {
    store(to + v * lanes,
          multiply_add_once(broadcast(value), load(terms + v * lanes), load(to + v * lanes)));
  }
}

template <int vectors>
H2LEARN_INLINE void clear_rows(std::int64_t rows, float* to, std::int64_t stride) {
  for (std::int64_t r = 0; r < rows; ++r) {
    H2LEARN_UNROLL
    for (int v = 0; v < vectors; ++v) store(to + r * stride + v * lanes, Floats{});
  }
}

/// sums[rows][width][stride] of `rows` rows of windows from `first`: the terms [begin, end) of one
/// block, for one panel of weights.
template <int vectors, bool counts>
inline void scatter_weights(const GatheredRows& from, std::int64_t image, std::int64_t first,
                            std::int64_t rows, std::int64_t begin, std::int64_t end,
                            const float* panel, float* sums, std::int64_t stride) {
  const Windows windows = from.windows;  // a copy: stores of sums cannot change it
  const std::int64_t channels = windows.channels;
  const std::int64_t taps = windows.window_width;
  const std::int64_t step = channels * vectors * lanes;  // from one tap to the next
  // The block has the taps [begin / channels, end / channels) of a channel, and one later for
  // the channels that lie before the block's edge.
  const std::int64_t begin_tap = begin / channels;
  const std::int64_t end_tap = end / channels;
  const std::int64_t begin_channel = begin % channels;
  const std::int64_t end_channel = end % channels;
  const std::int64_t begin_row = begin_tap / taps;
  const std::int64_t end_row = (end - 1) / channels / taps + 1;
  clear_rows<vectors>(rows * windows.width, sums, stride);
  for (std::int64_t r = begin_row; r < rows + end_row - 1; ++r) {
    const std::int64_t y = first - windows.top + r;
    if (y < 0 || y >= windows.image_height) continue;
    const std::int64_t first_row = most(begin_row, r - rows + 1);
    const std::int64_t last_row = least(end_row, r + 1);
    const auto add_spike = [&](float value, std::int64_t column, std::int64_t channel,
                               std::int64_t first_column, std::int64_t last_column) {
      const std::int64_t first_tap = begin_tap + (channel < begin_channel);
      const std::int64_t last_tap = end_tap + (channel < end_channel);
      const std::int64_t first_weight = first_row * taps * channels + channel - begin;
      const std::int64_t first_sum = (r - first_row) * windows.width + column;
      for (std::int64_t row = first_row; row < last_row; ++row) {
        const std::int64_t x_begin = most(first_column, first_tap - row * taps);
        const std::int64_t x_end = least(last_column, last_tap - row * taps);
        const float* weights =
            panel + first_weight * vectors * lanes + ((row - first_row) * taps + x_begin) * step;
        float* sum = sums + (first_sum - (row - first_row) * windows.width - x_begin) * stride;
        for (std::int64_t x = x_begin; x < x_end; ++x) {
          if constexpr (counts) {
            add_row<vectors>(sum, value, weights);
          } else {
            add_row<vectors>(sum, weights);
          }
          weights += step;
          sum -= stride;
        }
      }
    };
    for_each_spike<counts>(from, image, y, 0, windows.width - 1, add_spike);
  }
}

/// sums[fan-in][stride] += the sums over `count` positions of all images from `first`, one block,
/// for one panel of their gradients. `block` is memory for [fan-in] rows of a panel.
template <int vectors, bool counts>
inline void scatter_gradients(const GatheredRows& from, std::int64_t first, std::int64_t count,
                              const float* gradients, float* block, float* sums,
                              std::int64_t stride, bool is_first) {
  constexpr std::int64_t width = vectors * lanes;
  const Windows windows = from.windows;
  const std::int64_t step = windows.channels * width;  // from one tap to the next
  clear_rows<vectors>(from.length, block, width);
  for (std::int64_t done = 0; done < count;) {
    const std::int64_t image = (first + done) / from.positions;
    const std::int64_t position = (first + done) % from.positions;
    const std::int64_t y = position / windows.width;
    const std::int64_t x = position % windows.width;
    const std::int64_t spanned = least(windows.width - x, count - done);
    for (std::int64_t row = 0; row < windows.window_height; ++row) {
      const std::int64_t image_row = y - windows.top + row;
      if (image_row < 0 || image_row >= windows.image_height) continue;
      const auto add_spike = [&](float value, std::int64_t column, std::int64_t channel,
                                 std::int64_t begin, std::int64_t end) {
        float* const to = block + row * windows.window_width * step + channel * width;
        for (std::int64_t tap = begin; tap < end; ++tap) {
          const float* const terms = gradients + (done + column - tap - x) * width;
          if constexpr (counts) {
            add_row<vectors>(to + tap * step, value, terms);
          } else {
            add_row<vectors>(to + tap * step, terms);
          }
        }
      };
      for_each_spike<counts>(from, image, image_row, x, x + spanned - 1, add_spike);
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
