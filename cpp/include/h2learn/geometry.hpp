// Which inputs reach which outputs. A linear layer is a 2-D convolution with one position and
// one tap, so one description serves every synapse of the library.
#pragma once

#include <cstdint>
#include <vector>

namespace h2learn {

/// Shape of a synapse layer for one image. All sizes in elements; weights are in torch's order,
/// [out_channels, in_channels / groups, kernel_height, kernel_width].
struct Geometry {
  std::int64_t in_channels = 1;
  std::int64_t in_height = 1;
  std::int64_t in_width = 1;
  std::int64_t out_channels = 1;
  std::int64_t kernel_height = 1;
  std::int64_t kernel_width = 1;
  std::int64_t stride_height = 1;
  std::int64_t stride_width = 1;
  std::int64_t padding_height = 0;
  std::int64_t padding_width = 0;
  std::int64_t dilation_height = 1;
  std::int64_t dilation_width = 1;
  std::int64_t groups = 1;

  std::int64_t out_height() const {
    return (in_height + 2 * padding_height - dilation_height * (kernel_height - 1) - 1) /
               stride_height +
           1;
  }
  std::int64_t out_width() const {
    return (in_width + 2 * padding_width - dilation_width * (kernel_width - 1) - 1) / stride_width +
           1;
  }
  std::int64_t in_positions() const { return in_height * in_width; }
  std::int64_t out_positions() const { return out_height() * out_width(); }
  std::int64_t taps() const { return kernel_height * kernel_width; }
  std::int64_t in_features() const { return in_positions() * in_channels; }
  std::int64_t out_features() const { return out_positions() * out_channels; }
  std::int64_t channels_per_group() const { return in_channels / groups; }
  std::int64_t outputs_per_group() const { return out_channels / groups; }
  std::int64_t fan_in() const { return taps() * channels_per_group(); }
  std::int64_t weights() const { return out_channels * fan_in(); }

  /// Throws std::invalid_argument, naming the field and its value, when the shape is impossible.
  void validate() const;

  /// index[out_position * taps + tap]: the input position that this tap reads, -1 in the padding.
  std::vector<std::int32_t> input_of_output() const;

  /// index[in_position * taps + tap]: the output position that reads this input through this
  /// tap, -1 where there is none.
  std::vector<std::int32_t> output_of_input() const;
};

}  // namespace h2learn
