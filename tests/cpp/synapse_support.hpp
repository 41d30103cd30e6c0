// What the synapse's tests share: layer shapes that reach every branch of the kernels, and the
// three products written down once more, in double precision and from their definition.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "h2learn/geometry.hpp"
#include "support.hpp"

namespace h2learn::test {

using Doubles = std::vector<double>;

struct Layer {
  std::string name;
  Geometry geometry;
  std::int64_t images;
};

/// in_channels, in_height, in_width, out_channels, kernel 2, stride 2, padding 2, dilation 2,
/// groups.
inline const std::vector<Layer>& layers() {
  static const std::vector<Layer> all = {
      {"one weight", {1, 1, 1, 1}, 3},
      {"one output", {70, 1, 1, 1}, 5},
      {"one input", {1, 1, 1, 37}, 5},
      {"narrow linear", {300, 1, 1, 10}, 9},
      {"wide linear", {70, 1, 1, 600}, 3},
      {"wide linear, chunks of inputs", {300, 1, 1, 600}, 4},
      {"deep linear", {2500, 1, 1, 6}, 3},
      {"linear, several stretches of positions", {33, 1, 1, 5}, 4500},
      {"linear, behind padding", {5, 1, 1, 7, 1, 1, 3, 3, 1, 1}, 4},
      {"grouped linear", {60, 1, 1, 34, 1, 1, 1, 1, 0, 0, 1, 1, 2}, 7},
      {"two channels, 5 x 5", {2, 9, 12, 16, 5, 5}, 4},
      {"whole words, padded", {64, 6, 6, 40, 3, 3, 1, 1, 1, 1}, 2},
      {"odd channels", {3, 7, 5, 17, 3, 2, 1, 1, 1, 0}, 3},
      {"stride", {5, 9, 10, 12, 3, 3, 2, 3, 1, 1}, 3},
      {"stride beyond the kernel", {4, 11, 13, 9, 2, 2, 3, 3}, 2},
      {"dilation", {6, 11, 12, 8, 3, 3, 1, 1, 2, 2, 2, 3}, 2},
      {"groups", {12, 6, 7, 18, 3, 3, 1, 1, 1, 1, 1, 1, 3}, 2},
      {"groups as wide as a panel of 8", {8, 6, 7, 8, 3, 3, 1, 1, 1, 1, 1, 1, 2}, 2},
      {"groups as wide as a panel of 16", {8, 6, 7, 16, 3, 3, 1, 1, 1, 1, 1, 1, 2}, 2},
      {"groups as wide as a panel of 32", {8, 6, 7, 32, 3, 3, 1, 1, 1, 1, 1, 1, 4}, 2},
      {"grouped words, stride", {128, 5, 6, 8, 3, 3, 1, 2, 1, 1, 1, 1, 2}, 2},
      {"depthwise", {10, 6, 8, 10, 3, 3, 1, 1, 1, 1, 1, 1, 10}, 2},
      {"depthwise, several chunks, stride", {70, 9, 8, 70, 3, 2, 2, 1, 1, 1, 1, 1, 70}, 3},
      {"depthwise, dilation", {64, 7, 9, 64, 2, 3, 1, 1, 1, 2, 2, 2, 64}, 2},
      {"depthwise, blocks of taps", {5, 18, 19, 5, 17, 18, 1, 1, 2, 2, 1, 1, 5}, 2},
      {"depthwise, positions beyond the image", {4, 3, 3, 4, 1, 1, 1, 1, 1, 1, 1, 1, 4}, 2},
      {"depthwise, stretches", {3, 50, 50, 3, 3, 3, 1, 1, 1, 1, 1, 1, 3}, 2},
      {"one tap", {33, 6, 9, 20}, 2},
      {"padding beyond the kernel", {3, 5, 6, 4, 2, 2, 1, 1, 3, 4}, 2},
      {"one output position", {7, 4, 4, 9, 4, 4}, 6},
      {"one row of windows", {9, 1, 40, 6, 1, 5}, 2},
      {"one column of windows", {9, 40, 1, 6, 5, 1}, 2},
      {"blocks end inside taps", {100, 4, 6, 18, 3, 3, 1, 1, 1, 1}, 2},
      {"lists of 64 channels, rows in several tasks", {64, 20, 21, 5, 3, 3, 1, 1, 1, 1}, 2},
      {"lists of 128 channels, dilation", {128, 9, 8, 6, 3, 3, 1, 1, 2, 2, 2, 2}, 3},
      {"lists of 64 of 192 channels, groups", {384, 5, 6, 10, 3, 2, 1, 1, 1, 0, 1, 1, 2}, 2},
      {"lists of 256 channels, few outputs", {256, 3, 5, 8, 2, 2, 1, 1, 1, 0}, 1},
      {"lists of 256 and 128 channels", {256, 3, 5, 128, 2, 2, 1, 1, 1, 0}, 1},
      {"lists of 64 outputs, padding beyond the kernel", {3, 6, 7, 64, 2, 2, 1, 1, 3, 4}, 2},
      {"lists of 64 outputs, stride", {6, 21, 22, 64, 3, 3, 2, 2, 1, 1}, 2},
      {"lists of 128 outputs, strides and dilation", {5, 9, 14, 128, 2, 3, 2, 3, 2, 1, 2, 2}, 3},
      {"lists of 64 outputs, one tap, stride", {9, 7, 8, 64, 1, 1, 2, 2}, 4},
      {"lists of 256 outputs, stride beyond the kernel", {4, 11, 13, 256, 2, 2, 3, 3}, 2},
      {"lists of 64 outputs, no padding", {5, 9, 30, 64, 5, 3}, 1},
  };
  return all;
}

/// Calls body(image, output position, output channel, input feature, weight index) for every
/// product of an input and a weight that the layer adds up: the definition of a convolution.
template <typename Body>
void for_each_product(const Geometry& g, std::int64_t images, Body body) {
  const std::int64_t in_group = g.channels_per_group();
  const std::int64_t out_group = g.outputs_per_group();
  for (std::int64_t image = 0; image < images; ++image) {
    for (std::int64_t oh = 0; oh < g.out_height(); ++oh) {
      for (std::int64_t ow = 0; ow < g.out_width(); ++ow) {
        for (std::int64_t kh = 0; kh < g.kernel_height; ++kh) {
          for (std::int64_t kw = 0; kw < g.kernel_width; ++kw) {
            const std::int64_t ih =
                oh * g.stride_height - g.padding_height + kh * g.dilation_height;
            const std::int64_t iw = ow * g.stride_width - g.padding_width + kw * g.dilation_width;
            if (ih < 0 || ih >= g.in_height || iw < 0 || iw >= g.in_width) continue;
            for (std::int64_t n = 0; n < g.out_channels; ++n) {
              for (std::int64_t c = 0; c < in_group; ++c) {
                const std::int64_t channel = n / out_group * in_group + c;
                body(image, oh * g.out_width() + ow, n,
                     (ih * g.in_width + iw) * g.in_channels + channel,
                     ((n * in_group + c) * g.kernel_height + kh) * g.kernel_width + kw);
              }
            }
          }
        }
      }
    }
  }
}

inline Doubles exact_forward(const Geometry& g, const Floats& inputs, std::int64_t images,
                             const Floats& weight, const Floats& bias) {
  Doubles currents(size(images * g.out_features()));
  for (std::size_t i = 0; i < currents.size() && !bias.empty(); ++i) {
    currents[i] = static_cast<double>(bias[i % bias.size()]);
  }
  for_each_product(g, images, [&](auto image, auto position, auto n, auto feature, auto w) {
    currents[size((image * g.out_positions() + position) * g.out_channels + n)] +=
        static_cast<double>(inputs[size(image * g.in_features() + feature)]) *
        static_cast<double>(weight[size(w)]);
  });
  return currents;
}

inline Doubles exact_backward(const Geometry& g, const Floats& grad_currents, std::int64_t images,
                              const Floats& weight) {
  Doubles grad_inputs(size(images * g.in_features()));
  for_each_product(g, images, [&](auto image, auto position, auto n, auto feature, auto w) {
    grad_inputs[size(image * g.in_features() + feature)] +=
        static_cast<double>(
            grad_currents[size((image * g.out_positions() + position) * g.out_channels + n)]) *
        static_cast<double>(weight[size(w)]);
  });
  return grad_inputs;
}

inline Doubles exact_weight_update(const Geometry& g, const Floats& inputs, std::int64_t images,
                                   const Floats& grad_currents) {
  Doubles grad_weight(size(g.weights()));
  for_each_product(g, images, [&](auto image, auto position, auto n, auto feature, auto w) {
    grad_weight[size(w)] +=
        static_cast<double>(inputs[size(image * g.in_features() + feature)]) *
        static_cast<double>(
            grad_currents[size((image * g.out_positions() + position) * g.out_channels + n)]);
  });
  return grad_weight;
}

/// |values - exact| / |exact| in the Euclidean norm.
inline double relative_error(const Floats& values, const Doubles& exact) {
  double difference = 0;
  double norm = 0;
  for (std::size_t i = 0; i < exact.size(); ++i) {
    const double d = static_cast<double>(values[i]) - exact[i];
    difference += d * d;
    norm += exact[i] * exact[i];
  }
  return norm == 0 ? std::sqrt(difference) : std::sqrt(difference / norm);
}

/// Counts, binary or of several planes, as packed words and as floats.
struct Spikes {
  std::int64_t planes;
  std::int64_t rows;
  std::int64_t features;
  Words words;
  Floats counts;

  Spikes(const Layer& layer, std::int64_t bit_planes, double rate, unsigned seed)
      : planes(bit_planes),
        rows(layer.images),
        features(layer.geometry.in_features()),
        counts(size(rows * features)) {
    float value = 1;
    for (std::int64_t plane = 0; plane < planes; ++plane, value *= 2) {
      const Floats bits = random_binary(rows * features, rate, seed + static_cast<unsigned>(plane));
      Words packed(size(rows * words_for(features)));
      pack(bits.data(), rows, features, packed.data());
      words.insert(words.end(), packed.begin(), packed.end());
      for (std::size_t i = 0; i < bits.size(); ++i) counts[i] += value * bits[i];
    }
  }

  PackedView view() const { return {words.data(), planes, rows, features}; }
};

/// Floats of which a part `density` is not zero.
inline Floats sparse_floats(std::int64_t count, double density, unsigned seed) {
  Floats values = random_floats(count, -1, 1, seed);
  const Floats kept = random_binary(count, density, seed + 1000);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = kept[i] == 0 ? 0 : values[i];
  return values;
}

}  // namespace h2learn::test
