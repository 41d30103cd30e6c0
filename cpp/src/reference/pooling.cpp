#include "reference/pooling.hpp"

#include <algorithm>

namespace h2learn::reference {
namespace {

/// One output of one image: window (oh, ow), channel c.
struct Window {
  const PoolGeometry& geometry;
  std::int64_t oh = 0;
  std::int64_t ow = 0;
  std::int64_t c = 0;

  std::int64_t output() const { return (oh * geometry.out_width() + ow) * geometry.channels + c; }
  std::int64_t taps() const { return geometry.kernel_height * geometry.kernel_width; }
  std::int64_t input(std::int64_t tap) const {
    const std::int64_t ih = oh * geometry.stride_height + tap / geometry.kernel_width;
    const std::int64_t iw = ow * geometry.stride_width + tap % geometry.kernel_width;
    return (ih * geometry.in_width + iw) * geometry.channels + c;
  }
};

template <typename Body>
void for_each_window(const PoolGeometry& geometry, Body body) {
  for (std::int64_t oh = 0; oh < geometry.out_height(); ++oh) {
    for (std::int64_t ow = 0; ow < geometry.out_width(); ++ow) {
      for (std::int64_t c = 0; c < geometry.channels; ++c) body(Window{geometry, oh, ow, c});
    }
  }
}

bool bit_at(const std::uint64_t* words, std::int64_t index) {
  return ((words[index / word_bits] >> (index % word_bits)) & 1U) != 0;
}

std::int64_t spikes_in(const Window& window, const std::uint64_t* image) {
  std::int64_t count = 0;
  for (std::int64_t tap = 0; tap < window.taps(); ++tap) count += bit_at(image, window.input(tap));
  return count;
}

std::int64_t first_spike(const Window& window, const std::uint64_t* image) {
  for (std::int64_t tap = 0; tap < window.taps(); ++tap) {
    if (bit_at(image, window.input(tap))) return tap;
  }
  return 0;
}

/// Writes count(window) into the bit planes of its output.
template <typename Count>
void write_planes(const PoolGeometry& geometry, const PackedView& spikes, std::int64_t planes,
                  std::uint64_t* out, Count count) {
  const std::int64_t row_words = words_for(geometry.out_features());
  std::fill_n(out, planes * spikes.rows * row_words, std::uint64_t{0});
  for (std::int64_t r = 0; r < spikes.rows; ++r) {
    for_each_window(geometry, [&](const Window& window) {
      const auto value = static_cast<std::uint64_t>(count(window, spikes.row(0, r)));
      const std::int64_t f = window.output();
      for (std::int64_t p = 0; p < planes; ++p) {
        out[(p * spikes.rows + r) * row_words + f / word_bits] |= ((value >> p) & 1U)
                                                                  << (f % word_bits);
      }
    });
  }
}

}  // namespace

void count_pool(const PoolGeometry& geometry, const PackedView& spikes, std::uint64_t* out) {
  write_planes(geometry, spikes, geometry.planes(), out, spikes_in);
}

void max_pool(const PoolGeometry& geometry, const PackedView& spikes, std::uint64_t* out) {
  write_planes(geometry, spikes, 1, out, [](const Window& window, const std::uint64_t* image) {
    return spikes_in(window, image) > 0 ? 1 : 0;
  });
}

void average_pool_backward(const PoolGeometry& geometry, const float* grad_outputs,
                           std::int64_t rows, float* grad_inputs) {
  std::fill_n(grad_inputs, rows * geometry.in_features(), 0.0F);
  for (std::int64_t r = 0; r < rows; ++r) {
    float* const image = grad_inputs + r * geometry.in_features();
    for_each_window(geometry, [&](const Window& window) {
      const float grad = grad_outputs[r * geometry.out_features() + window.output()];
      const float share = grad / static_cast<float>(window.taps());
      for (std::int64_t tap = 0; tap < window.taps(); ++tap) image[window.input(tap)] += share;
    });
  }
}

void max_pool_backward(const PoolGeometry& geometry, const PackedView& spikes,
                       const float* grad_outputs, float* grad_inputs) {
  std::fill_n(grad_inputs, spikes.rows * geometry.in_features(), 0.0F);
  for (std::int64_t r = 0; r < spikes.rows; ++r) {
    float* const image = grad_inputs + r * geometry.in_features();
    for_each_window(geometry, [&](const Window& window) {
      const std::int64_t tap = first_spike(window, spikes.row(0, r));
      image[window.input(tap)] += grad_outputs[r * geometry.out_features() + window.output()];
    });
  }
}

}  // namespace h2learn::reference
