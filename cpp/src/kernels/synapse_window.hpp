// Dense products of windows that slide over an image, without gathering: the part of the image
// that some rows of windows read is copied once as padded floats, and register tiles of
// neighbouring windows read it in place. For kernel sources only.
#pragma once

#include <cstdint>

#include "kernels/synapse_block.hpp"
#include "kernels/synapse_gather.hpp"
#include "kernels/vec.hpp"

namespace h2learn {
namespace {

/// Floats from one row of the padded copy to the next.
H2LEARN_INLINE std::int64_t padded_row(const Windows& windows) {
  return ((windows.width - 1) * windows.stride_width + windows.window_width) * windows.channels;
}

/// Rows of the padded copy that `rows` rows of windows read.
H2LEARN_INLINE std::int64_t padded_rows(const Windows& windows, std::int64_t rows) {
  return (rows - 1) * windows.stride_height + windows.window_height;
}

/// Writes zeros to [to, end); returns `end`.
H2LEARN_INLINE float* fill_zeros(float* to, float* end) {
  for (; to < end; ++to) *to = 0;
  return end;
}

/// The padded copy for rows [first, first + rows) of windows: [padded_rows][padded_row], and a
/// vector of slack.
inline void copy_padded(const GatheredRows& from, std::int64_t group, std::int64_t image,
                        std::int64_t first, std::int64_t rows, float* to) {
  const Windows& windows = from.windows;
  const std::int64_t channels = windows.channels;
  const std::int64_t row_floats = padded_row(windows);
  // Columns of the image inside the copy.
  const std::int64_t begin = most(0, -windows.left);
  const std::int64_t end =
      most(begin, least(windows.image_width, row_floats / channels - windows.left));
  for (std::int64_t r = 0; r < padded_rows(windows, rows); ++r) {
    float* const row_end = to + row_floats;
    const std::int64_t y = first * windows.stride_height + r - windows.top;
    if (y >= 0 && y < windows.image_height && begin < end) {
      to = fill_zeros(to, to + (begin + windows.left) * channels);
      const std::int64_t source = (y * windows.image_width + begin) * channels * from.groups;
      if (from.groups == 1) {
        to = copy_elements(from, image, source, (end - begin) * channels, to);
      } else {
        for (std::int64_t x = 0; x < end - begin; ++x) {
          to = copy_elements(from, image, source + (x * from.groups + group) * channels, channels,
                             to);
        }
      }
    }
    to = fill_zeros(to, row_end);
  }
}

/// True when the run's row lies inside the image for row `y` of windows: else it adds zeros.
H2LEARN_INLINE bool in_image(const Windows& windows, const WindowRun& run, std::int64_t y) {
  const std::int64_t row = y * windows.stride_height + run.row - windows.top;
  return row >= 0 && row < windows.image_height;
}

/// `rows` neighbouring windows, `step` floats apart, times the terms of one block.
template <int rows, int vectors, bool once>
H2LEARN_TILE void multiply_windows(const Windows& windows, std::int64_t block, std::int64_t y,
                                   const float* origin, std::int64_t step, const float* panel,
                                   float* sums, std::int64_t stride, bool first) {
  Floats sum[rows][vectors] = {};
  for (std::int32_t i = windows.first_of_block[block]; i < windows.first_of_block[block + 1]; ++i) {
    const WindowRun& run = windows.runs[i];
    if (!in_image(windows, run, y)) continue;
    // Four windows share a pointer and use its addressing modes: there are too few registers
    // for a pointer each.
    constexpr int pointers = (rows + 3) / 4;
    const float* from[pointers];
    H2LEARN_UNROLL
    for (int p = 0; p < pointers; ++p) from[p] = origin + run.offset + p * 4 * step;
    const float* row = panel + (run.target - block * sum_block) * vectors * lanes;
    const float* const end = row + run.length * vectors * lanes;
    for (; row < end; row += vectors * lanes) {
      Floats terms[vectors];
      H2LEARN_UNROLL
      for (int v = 0; v < vectors; ++v) terms[v] = load(row + v * lanes);
      H2LEARN_UNROLL
      for (int r = 0; r < rows; ++r) {
        const Floats value = broadcast(from[r / 4][r % 4 * step]);
        H2LEARN_UNROLL
        for (int v = 0; v < vectors; ++v) {
          sum[r][v] = multiply_add<once>(value, terms[v], sum[r][v]);
        }
      }
      H2LEARN_UNROLL
      for (int p = 0; p < pointers; ++p) ++from[p];
    }
  }
  H2LEARN_UNROLL
  for (int r = 0; r < rows; ++r) add_to<vectors>(sums + r * stride, sum[r], first);
}

/// One row of windows times one panel.
template <int vectors, bool once>
inline void multiply_window_row(const Windows& windows, std::int64_t block, std::int64_t y,
                                const float* origin, const float* panel, float* sums,
                                std::int64_t stride, bool first) {
  const std::int64_t step = windows.stride_width * windows.channels;
  for_each_tile<tile_rows<vectors>>(windows.width, [&]<int rows>(std::int64_t x) {
    multiply_windows<rows, vectors, once>(windows, block, y, origin + x * step, step, panel,
                                          sums + x * stride, stride, first);
  });
}

/// Consecutive windows of one row, for sums over positions.
struct WindowSpan {
  const float* origin;  ///< of the first window, in a padded copy
  std::int64_t first;   ///< position in the block
  std::int64_t count;
};

/// `rows` consecutive elements of the windows (from `offset`), summed over the positions of one
/// block: sums[rows][stride] += element * gradients.
template <int rows, int vectors, bool once>
H2LEARN_TILE void multiply_positions(const WindowSpan* spans, std::int64_t count,
                                     std::int64_t offset, std::int64_t step, const float* gradients,
                                     float* sums, std::int64_t stride, bool first) {
  Floats sum[rows][vectors] = {};
  for (std::int64_t s = 0; s < count; ++s) {
    const float* element = spans[s].origin + offset;
    const float* gradient = gradients + spans[s].first * vectors * lanes;
    const float* const end = gradient + spans[s].count * vectors * lanes;
    for (; gradient < end; gradient += vectors * lanes, element += step) {
      Floats terms[vectors];
      H2LEARN_UNROLL
      for (int v = 0; v < vectors; ++v) terms[v] = load(gradient + v * lanes);
      H2LEARN_UNROLL
      for (int r = 0; r < rows; ++r) {
        const Floats value = broadcast(element[r]);
        H2LEARN_UNROLL
        for (int v = 0; v < vectors; ++v) {
          sum[r][v] = multiply_add<once>(value, terms[v], sum[r][v]);
        }
      }
    }
  }
  H2LEARN_UNROLL
  for (int r = 0; r < rows; ++r) add_to<vectors>(sums + r * stride, sum[r], first);
}

}  // namespace
}  // namespace h2learn
