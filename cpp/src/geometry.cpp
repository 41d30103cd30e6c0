#include "h2learn/geometry.hpp"

#include <limits>
#include <stdexcept>
#include <string>

namespace h2learn {
namespace {

// Sizes beyond this would overflow 32-bit indices, and their products 64-bit ones.
constexpr std::int64_t largest = std::numeric_limits<std::int32_t>::max();

bool product_fits(std::int64_t a, std::int64_t b) {
  return a <= largest && b <= largest && a * b <= largest;
}

void require_size(const char* field, std::int64_t value, std::int64_t least) {
  if (value < least || value > largest) {
    const bool small = value < least;
    throw std::invalid_argument(std::string(field) + " must be at " + (small ? "least " : "most ") +
                                std::to_string(small ? least : largest) + ", got " +
                                std::to_string(value));
  }
}

void require_divides(const char* field, std::int64_t value, std::int64_t groups) {
  if (value % groups != 0) {
    throw std::invalid_argument(std::string(field) + " must be a multiple of groups (" +
                                std::to_string(groups) + "), got " + std::to_string(value));
  }
}

/// Elements of an index of every position's taps, which are counted in 32 bits.
std::size_t index_size(std::int64_t positions, std::int64_t taps) {
  if (!product_fits(positions, taps)) {
    throw std::invalid_argument(
        "positions of one image times the kernel's taps must be below 2^31 "
        "where they are listed, got " +
        std::to_string(positions) + " times " + std::to_string(taps));
  }
  return static_cast<std::size_t>(positions * taps);
}

/// The output coordinate that reads input `in` through kernel offset `tap`, or -1.
std::int64_t output_coordinate(std::int64_t in, std::int64_t tap, std::int64_t padding,
                               std::int64_t dilation, std::int64_t stride, std::int64_t outputs) {
  const std::int64_t shifted = in + padding - tap * dilation;
  if (shifted < 0 || shifted % stride != 0 || shifted / stride >= outputs) return -1;
  return shifted / stride;
}

}  // namespace

void Geometry::validate() const {
  require_size("in_channels", in_channels, 1);
  require_size("in_height", in_height, 1);
  require_size("in_width", in_width, 1);
  require_size("out_channels", out_channels, 1);
  require_size("kernel_height", kernel_height, 1);
  require_size("kernel_width", kernel_width, 1);
  require_size("stride_height", stride_height, 1);
  require_size("stride_width", stride_width, 1);
  require_size("padding_height", padding_height, 0);
  require_size("padding_width", padding_width, 0);
  require_size("dilation_height", dilation_height, 1);
  require_size("dilation_width", dilation_width, 1);
  require_size("groups", groups, 1);
  require_divides("in_channels", in_channels, groups);
  require_divides("out_channels", out_channels, groups);
  if (in_height + 2 * padding_height < dilation_height * (kernel_height - 1) + 1 ||
      in_width + 2 * padding_width < dilation_width * (kernel_width - 1) + 1) {
    throw std::invalid_argument(
        "kernel of " + std::to_string(kernel_height) + " x " + std::to_string(kernel_width) +
        " (dilation " + std::to_string(dilation_height) + " x " + std::to_string(dilation_width) +
        ") must fit the padded input of " + std::to_string(in_height + 2 * padding_height) + " x " +
        std::to_string(in_width + 2 * padding_width));
  }
  if (!product_fits(in_height, in_width) || !product_fits(in_positions(), in_channels) ||
      !product_fits(kernel_height, kernel_width) || !product_fits(taps(), channels_per_group()) ||
      !product_fits(taps(), outputs_per_group()) || !product_fits(out_height(), out_width()) ||
      !product_fits(out_positions(), out_channels)) {
    throw std::invalid_argument(
        "one image must have fewer than 2^31 inputs, outputs, weights per output and weights per "
        "input");
  }
  // Windows are read from an image with its padding around it: of the inputs for the outputs'
  // windows, of the outputs for the inputs'.
  const std::int64_t window_height = dilation_height * (kernel_height - 1) + 1;
  const std::int64_t window_width = dilation_width * (kernel_width - 1) + 1;
  const auto row_fits = [](std::int64_t height, std::int64_t width, std::int64_t channels) {
    return product_fits(height, width) && product_fits(height * width, channels);
  };
  if (!row_fits(window_height, in_width + 2 * padding_width, channels_per_group()) ||
      !row_fits(window_height, in_width - 1 + window_width, outputs_per_group())) {
    throw std::invalid_argument(
        "the rows of one window, padding included, must have fewer than 2^31 inputs and outputs, "
        "got " +
        std::to_string(window_height) + " rows, an input of " + std::to_string(in_width) +
        " columns and padding of " + std::to_string(padding_width));
  }
}

std::vector<std::int32_t> Geometry::input_of_output() const {
  std::vector<std::int32_t> index;
  index.reserve(index_size(out_positions(), taps()));
  for (std::int64_t oh = 0; oh < out_height(); ++oh) {
    for (std::int64_t ow = 0; ow < out_width(); ++ow) {
      for (std::int64_t kh = 0; kh < kernel_height; ++kh) {
        for (std::int64_t kw = 0; kw < kernel_width; ++kw) {
          const std::int64_t ih = oh * stride_height - padding_height + kh * dilation_height;
          const std::int64_t iw = ow * stride_width - padding_width + kw * dilation_width;
          const bool inside = ih >= 0 && ih < in_height && iw >= 0 && iw < in_width;
          index.push_back(inside ? static_cast<std::int32_t>(ih * in_width + iw) : -1);
        }
      }
    }
  }
  return index;
}

std::vector<std::int32_t> Geometry::output_of_input() const {
  std::vector<std::int32_t> index;
  index.reserve(index_size(in_positions(), taps()));
  for (std::int64_t ih = 0; ih < in_height; ++ih) {
    for (std::int64_t iw = 0; iw < in_width; ++iw) {
      for (std::int64_t kh = 0; kh < kernel_height; ++kh) {
        for (std::int64_t kw = 0; kw < kernel_width; ++kw) {
          const std::int64_t oh = output_coordinate(ih, kh, padding_height, dilation_height,
                                                    stride_height, out_height());
          const std::int64_t ow =
              output_coordinate(iw, kw, padding_width, dilation_width, stride_width, out_width());
          index.push_back(oh < 0 || ow < 0 ? -1 : static_cast<std::int32_t>(oh * out_width() + ow));
        }
      }
    }
  }
  return index;
}

}  // namespace h2learn
