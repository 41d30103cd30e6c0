// Pooling on packed spikes. Averages become counts in bit planes; the maximum is an OR.
#pragma once

#include <cstdint>

#include "h2learn/spikes.hpp"

namespace h2learn {

/// Windows of one image, no padding; windows that would cross the border are dropped, as torch
/// does with ceil_mode=False.
struct PoolGeometry {
  std::int64_t channels = 1;
  std::int64_t in_height = 1;
  std::int64_t in_width = 1;
  std::int64_t kernel_height = 2;
  std::int64_t kernel_width = 2;
  std::int64_t stride_height = 2;
  std::int64_t stride_width = 2;

  std::int64_t out_height() const { return (in_height - kernel_height) / stride_height + 1; }
  std::int64_t out_width() const { return (in_width - kernel_width) / stride_width + 1; }
  std::int64_t in_features() const { return in_height * in_width * channels; }
  std::int64_t out_features() const { return out_height() * out_width() * channels; }

  /// Bit planes that a count of the window's spikes needs.
  std::int64_t planes() const;
  void validate() const;
};

/// Counts of binary spikes: out[planes(), rows, words_for(out_features())].
/// The average is the count times 1 / (kernel_height * kernel_width).
void count_pool(const PoolGeometry& geometry, const PackedView& spikes, std::uint64_t* out);

/// OR over each window: out[rows, words_for(out_features())].
void max_pool(const PoolGeometry& geometry, const PackedView& spikes, std::uint64_t* out);

/// grad_inputs[rows, in_features] = sum over the windows that hold the input of
/// grad_outputs[rows, out_features] / window size.
void average_pool_backward(const PoolGeometry& geometry, const float* grad_outputs,
                           std::int64_t rows, float* grad_inputs);

/// The gradient goes to the window's first spike in row-major order, or to its first element
/// when none fired: what torch does with ties.
void max_pool_backward(const PoolGeometry& geometry, const PackedView& spikes,
                       const float* grad_outputs, float* grad_inputs);

}  // namespace h2learn
