// Windows at a block of positions, read in place, for the weight update. For kernel sources only.
#pragma once

#include <cstdint>

#include "kernels/synapse_window.hpp"
#include "kernels/synapse_workspace.hpp"

namespace h2learn {
namespace {

/// The windows at up to sum_block positions, in padded copies of what they see.
struct BlockWindows {
  float* padded;
  WindowSpan* spans;
  std::int64_t span_count;
};

inline BlockWindows carve_windows(Carver& carver, const GatheredRows& rows) {
  const Windows& windows = rows.windows;
  // Whole images, and at either end of the block parts of one.
  const std::int64_t images = sum_block / rows.positions + 2;
  const std::int64_t window_rows =
      least(images * windows.height, sum_block / windows.width + 2 * images);
  BlockWindows block = {};
  block.padded = carver.take<float>(
      (window_rows * windows.stride_height + images * windows.window_height) * padded_row(windows) +
      lanes);
  block.spans = carver.take<WindowSpan>(window_rows);
  return block;
}

/// Copies what the windows at positions [first, first + count) of all images see.
inline void copy_windows(const GatheredRows& from, std::int64_t group, std::int64_t first,
                         std::int64_t count, BlockWindows& to) {
  const Windows& windows = from.windows;
  const std::int64_t row_floats = padded_row(windows);
  const std::int64_t step = windows.stride_width * windows.channels;
  float* padded = to.padded;
  to.span_count = 0;
  for (std::int64_t done = 0; done < count;) {
    const std::int64_t image = (first + done) / from.positions;
    const std::int64_t begin = (first + done) % from.positions;
    const std::int64_t end = least(begin + count - done, from.positions);
    const std::int64_t first_row = begin / windows.width;
    const std::int64_t rows = (end - 1) / windows.width - first_row + 1;
    copy_padded(from, group, image, first_row, rows, padded);
    for (std::int64_t position = begin; position < end;) {
      const std::int64_t x = position % windows.width;
      const std::int64_t spanned = least(windows.width - x, end - position);
      const std::int64_t row = position / windows.width - first_row;
      to.spans[to.span_count++] = {padded + row * windows.stride_height * row_floats + x * step,
                                   done, spanned};
      position += spanned;
      done += spanned;
    }
    padded += padded_rows(windows, rows) * row_floats;
  }
}

/// sums[terms][stride] += windows' elements [first_term, first_term + terms) times the panel of
/// the block's gradients.
template <int vectors, bool once>
inline void add_windows(const Windows& windows, const BlockWindows& block, std::int64_t first_term,
                        std::int64_t terms, const float* gradients, float* sums,
                        std::int64_t stride, bool first) {
  const std::int64_t step = windows.stride_width * windows.channels;
  const std::int64_t end_term = first_term + terms;
  const std::int32_t first_run = windows.first_of_block[first_term / sum_block];
  const std::int32_t end_run = windows.first_of_block[blocks_of(end_term, sum_block)];
  for (const WindowRun* run = windows.runs + first_run; run < windows.runs + end_run; ++run) {
    const std::int64_t begin = most(run->target, first_term);
    const std::int64_t end = least(run->target + run->length, end_term);
    if (begin >= end) continue;
    for_each_tile<tile_rows<vectors>>(end - begin, [&]<int rows>(std::int64_t term) {
      multiply_positions<rows, vectors, once>(
          block.spans, block.span_count, run->offset + begin + term - run->target, step, gradients,
          sums + (begin + term - first_term) * stride, stride, first);
    });
  }
}

}  // namespace
}  // namespace h2learn
