// Event-driven convolution, for layers of few inputs per output: every set bit adds its weights
// to the outputs whose windows see it (or these outputs' gradients to its weights), so that
// nothing is gathered and nothing is visited for a bit that is not set. For kernel sources only.
//
// Bits are visited in ascending order of row, column and channel. The terms of one sum come in
// that order, too, and it is their order in the other kernels: ascending fan-in for an output
// (whose blocks are visited one after the other), and ascending positions for a weight.
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

/// Fan-in up to which a block's sums for each weight stay near.
constexpr std::int64_t most_scattered = 1024;

/// True for spikes whose windows move by one, without holes and groups.
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

/// The set bits of one column of an image.
struct Pixel {
  std::int64_t padded_column;  ///< counted from the padding's first
  std::int64_t begin_tap;      ///< columns of the windows that see it, in the range asked for
  std::int64_t end_tap;
  std::int32_t count;
  std::int32_t channels[most_scattered];  ///< ascending
};

/// Calls visit(pixel) for each column with a set bit of row `y` of an image that is seen by
/// windows whose first column is in [left, right].
template <typename Visit>
H2LEARN_INLINE void for_each_pixel(const Windows& windows, const std::uint64_t* words,
                                   std::int64_t y, std::int64_t left, std::int64_t right,
                                   Visit visit) {
  const ColumnOfBit column_of(windows.channels);
  const std::int64_t channels = windows.channels;
  const std::int64_t row = y * windows.image_width * channels;
  const std::int64_t end =
      least(windows.image_width, right - windows.left + windows.window_width) * channels;
  Pixel pixel;
  for (std::int64_t bit = most(0, left - windows.left) * channels; bit < end;) {
    const std::uint64_t ahead = bits_at(words, row + bit, least(64, end - bit));
    if (ahead == 0) {
      bit += 64;
      continue;
    }
    const std::int64_t column = column_of(bit + __builtin_ctzll(ahead));
    pixel.count = 0;
    for (std::int64_t piece = 0; piece < channels; piece += 64) {
      std::uint64_t set = bits_at(words, row + column * channels + piece,
                                  least(64, channels - piece));
      for (; set != 0; set &= set - 1) {
        pixel.channels[pixel.count++] = static_cast<std::int32_t>(piece + __builtin_ctzll(set));
      }
    }
    pixel.padded_column = column + windows.left;
    pixel.begin_tap = most(0, pixel.padded_column - right);
    pixel.end_tap = least(windows.window_width, pixel.padded_column - left + 1);
    visit(pixel);
    bit = (column + 1) * channels;
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

/// The channels of a pixel that a tap has in a block: all, but for a tap that the block's edge
/// cuts in two.
struct BlockEdges {
  std::int64_t begin_tap;
  std::int64_t begin_channel;  ///< of begin_tap, the first
  std::int64_t end_tap;
  std::int64_t end_channel;    ///< of end_tap, one behind the last; may be 0

  BlockEdges(std::int64_t begin, std::int64_t end, std::int64_t channels)
      : begin_tap(begin / channels),
        begin_channel(begin % channels),
        end_tap(end / channels),
        end_channel(end % channels) {}

  std::int32_t first(const Pixel& pixel, std::int64_t tap) const {
    std::int32_t i = 0;
    if (tap == begin_tap) {
      while (i < pixel.count && pixel.channels[i] < begin_channel) ++i;
    }
    return i;
  }
  std::int32_t last(const Pixel& pixel, std::int64_t tap) const {
    std::int32_t i = pixel.count;
    if (tap == end_tap) {
      while (i > 0 && pixel.channels[i - 1] >= end_channel) --i;
    }
    return i;
  }
};

/// sums[rows][width][stride] of `rows` rows of windows from `first`: the terms [begin, end) of one
/// block, for one panel of weights.
template <int vectors>
inline void scatter_weights(const GatheredRows& from, std::int64_t plane, std::int64_t image,
                            std::int64_t first, std::int64_t rows, std::int64_t begin,
                            std::int64_t end, const float* panel, float* sums,
                            std::int64_t stride) {
  constexpr std::int64_t width = vectors * lanes;
  const Windows windows = from.windows;  // a copy: stores of sums cannot change it
  const std::int64_t taps = windows.window_width;
  const BlockEdges edges(begin, end, windows.channels);
  const std::int64_t begin_row = edges.begin_tap / taps;
  const std::int64_t end_row = (end - 1) / windows.channels / taps + 1;
  const std::uint64_t* const words = image_bits(from, plane, image);
  clear_rows<vectors>(rows * windows.width, sums, stride);
  for (std::int64_t r = begin_row; r < rows + end_row - 1; ++r) {
    const std::int64_t y = first - windows.top + r;
    if (y < 0 || y >= windows.image_height) continue;
    const std::int64_t first_row = most(begin_row, r - rows + 1);
    const std::int64_t last_row = least(end_row, r + 1);
    for_each_pixel(windows, words, y, 0, windows.width - 1, [&](const Pixel& pixel) {
      for (std::int64_t row = first_row; row < last_row; ++row) {
        const std::int64_t first_tap = most(row * taps + pixel.begin_tap, edges.begin_tap);
        const std::int64_t last_tap = least(row * taps + pixel.end_tap - 1, edges.end_tap);
        const float* weights = panel + (first_tap * windows.channels - begin) * width;
        float* sum = sums + ((r - row) * windows.width + pixel.padded_column + row * taps -
                             first_tap) * stride;
        for (std::int64_t tap = first_tap; tap <= last_tap; ++tap) {
          const std::int32_t last = edges.last(pixel, tap);
          Floats total[vectors];
          H2LEARN_UNROLL
          for (int v = 0; v < vectors; ++v) total[v] = load(sum + v * lanes);
          for (std::int32_t i = edges.first(pixel, tap); i < last; ++i) {
            H2LEARN_UNROLL
            for (int v = 0; v < vectors; ++v) {
              total[v] += load(weights + pixel.channels[i] * width + v * lanes);
            }
          }
          H2LEARN_UNROLL
          for (int v = 0; v < vectors; ++v) store(sum + v * lanes, total[v]);
          weights += windows.channels * width;
          sum -= stride;
        }
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
    for (std::int64_t row = 0; row < windows.window_height; ++row) {
      const std::int64_t image_row = y - windows.top + row;
      if (image_row < 0 || image_row >= windows.image_height) continue;
      for_each_pixel(windows, words, image_row, x, x + spanned - 1, [&](const Pixel& pixel) {
        float* to = block + (row * windows.window_width + pixel.begin_tap) * windows.channels *
                                width;
        const float* gradient =
            gradients + (done + pixel.padded_column - pixel.begin_tap - x) * width;
        for (std::int64_t tap = pixel.begin_tap; tap < pixel.end_tap; ++tap) {
          for (std::int32_t i = 0; i < pixel.count; ++i) {
            add_row<vectors>(to + pixel.channels[i] * width, gradient);
          }
          to += windows.channels * width;
          gradient -= width;
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
