#include "reference/digits.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace h2learn::reference {
namespace {

constexpr std::int64_t base = 256;
using Digits = std::array<std::int64_t, number_digits>;

/// One output channel's weights as numbers: weight ~ number * 2^-exponent.
struct Column {
  int exponent = 0;
  std::vector<Digits> weights;
};

Digits digits_of(std::int64_t number) {
  Digits digits = {};
  for (std::int64_t& digit : digits) {
    // What is left is a multiple of 256 once the digit in [-128, 127] is taken off.
    digit = ((number + base / 2) % base + base) % base - base / 2;
    number = (number - digit) / base;
  }
  return digits;
}

Column column_of(const float* weight, std::int64_t length) {
  std::int64_t limit = 0;
  for (int i = 0; i < number_digits; ++i) limit = limit * base + 127;
  double largest = 0;
  for (std::int64_t i = 0; i < length; ++i) {
    largest = std::max(largest, std::abs(static_cast<double>(weight[i])));
  }
  Column column;
  if (largest > 0) {
    column.exponent = -200;  // too little for any float
    while (std::ldexp(largest, column.exponent + 1) <= static_cast<double>(limit)) {
      ++column.exponent;
    }
  }
  for (std::int64_t i = 0; i < length; ++i) {
    // nearbyint rounds halves to even.
    const double number =
        std::nearbyint(std::ldexp(static_cast<double>(weight[i]), column.exponent));
    column.weights.push_back(digits_of(static_cast<std::int64_t>(number)));
  }
  return column;
}

/// The sum that the digits' sums make, times `factor`.
double value_of(const Digits& sums, double factor) {
  std::int64_t total = 0;
  for (std::size_t i = sums.size(); i > 0; --i) total = total * base + sums[i - 1];
  return static_cast<double>(total) * factor;
}

std::int64_t value_at(const PackedView& spikes, std::int64_t image, std::int64_t feature) {
  std::int64_t value = 0;
  for (std::int64_t plane = 0; plane < spikes.planes; ++plane) {
    const std::uint64_t word = spikes.row(plane, image)[feature / word_bits];
    value += static_cast<std::int64_t>(word >> (feature % word_bits) & 1) << plane;
  }
  return value;
}

}  // namespace

void forward_digits(const Geometry& geometry, const PackedView& spikes, float scale,
                    const float* weight, const float* bias, float* currents) {
  const std::vector<std::int32_t> input_of_output = geometry.input_of_output();
  const std::int64_t channels = geometry.channels_per_group();
  const std::int64_t taps = geometry.taps();
  for (std::int64_t n = 0; n < geometry.out_channels; ++n) {
    const Column column = column_of(weight + n * geometry.fan_in(), geometry.fan_in());
    const std::int64_t first_channel = n / geometry.outputs_per_group() * channels;
    const double factor = std::ldexp(static_cast<double>(scale), -column.exponent);
    for (std::int64_t image = 0; image < spikes.rows; ++image) {
      for (std::int64_t position = 0; position < geometry.out_positions(); ++position) {
        Digits sums = {};
        for (std::int64_t tap = 0; tap < taps; ++tap) {
          const std::int64_t input =
              input_of_output[static_cast<std::size_t>(position * taps + tap)];
          if (input < 0) continue;
          for (std::int64_t c = 0; c < channels; ++c) {
            const std::int64_t value =
                value_at(spikes, image, input * geometry.in_channels + first_channel + c);
            if (value == 0) continue;
            const Digits& weight_digits = column.weights[static_cast<std::size_t>(c * taps + tap)];
            for (std::size_t i = 0; i < sums.size(); ++i) sums[i] += value * weight_digits[i];
          }
        }
        const auto current = static_cast<float>(value_of(sums, factor));
        currents[(image * geometry.out_positions() + position) * geometry.out_channels + n] =
            bias == nullptr ? current : current + bias[n];
      }
    }
  }
}

void weight_update_digits(const Geometry& geometry, const OuterBlocks& blocks,
                          const PackedView& spikes, float scale, const float* grad_currents,
                          float* grad_weight) {
  const std::vector<std::int32_t> input_of_output = geometry.input_of_output();
  const std::int64_t channels = geometry.channels_per_group();
  const std::int64_t taps = geometry.taps();
  const std::int64_t positions = geometry.out_positions();
  std::vector<std::vector<std::int64_t>> places_of(static_cast<std::size_t>(blocks.count()));
  for (std::int64_t p = 0; p < spikes.rows * positions; ++p) {
    places_of[static_cast<std::size_t>(blocks.block_of(p))].push_back(p);
  }
  for (std::int64_t n = 0; n < geometry.out_channels; ++n) {
    const std::int64_t first_channel = n / geometry.outputs_per_group() * channels;
    std::vector<double> totals(static_cast<std::size_t>(geometry.fan_in()));
    for (std::int64_t block = 0; block < blocks.count(); ++block) {
      const std::vector<std::int64_t>& places = places_of[static_cast<std::size_t>(block)];
      std::vector<float> gradients;
      for (std::int64_t p : places)
        gradients.push_back(grad_currents[p * geometry.out_channels + n]);
      const Column column =
          column_of(gradients.data(), static_cast<std::int64_t>(gradients.size()));
      const double factor = std::ldexp(static_cast<double>(scale), -column.exponent);
      for (std::int64_t c = 0; c < channels; ++c) {
        for (std::int64_t tap = 0; tap < taps; ++tap) {
          Digits sums = {};
          for (std::size_t i = 0; i < places.size(); ++i) {
            const std::int64_t input =
                input_of_output[static_cast<std::size_t>(places[i] % positions * taps + tap)];
            if (input < 0) continue;
            const std::int64_t value = value_at(spikes, places[i] / positions,
                                                input * geometry.in_channels + first_channel + c);
            if (value == 0) continue;
            for (std::size_t d = 0; d < sums.size(); ++d) sums[d] += value * column.weights[i][d];
          }
          const double sum = value_of(sums, factor);
          double& total = totals[static_cast<std::size_t>(c * taps + tap)];
          total = block == 0 ? sum : total + sum;
        }
      }
    }
    for (std::size_t i = 0; i < totals.size(); ++i) {
      grad_weight[n * geometry.fan_in() + static_cast<std::int64_t>(i)] =
          static_cast<float>(totals[i]);
    }
  }
}

void backward_digits(const Geometry& geometry, const float* grad_currents, std::int64_t images,
                     const float* weight, const std::uint64_t* mask, float* grad_inputs) {
  const std::vector<std::int32_t> output_of_input = geometry.output_of_input();
  const std::int64_t taps = geometry.taps();
  const std::int64_t outputs = geometry.outputs_per_group();
  const std::int64_t channels = geometry.channels_per_group();
  std::vector<Column> rows;
  for (std::int64_t image = 0; image < images; ++image) {
    rows.push_back(
        column_of(grad_currents + image * geometry.out_features(), geometry.out_features()));
  }
  for (std::int64_t c = 0; c < geometry.in_channels; ++c) {
    const std::int64_t first_output = c / channels * outputs;
    std::vector<float> weights;
    for (std::int64_t n = 0; n < outputs; ++n) {
      const float* const from = weight + ((first_output + n) * channels + c % channels) * taps;
      weights.insert(weights.end(), from, from + taps);
    }
    const Column column = column_of(weights.data(), outputs * taps);
    for (std::int64_t image = 0; image < images; ++image) {
      const Column& row = rows[static_cast<std::size_t>(image)];
      for (std::int64_t position = 0; position < geometry.in_positions(); ++position) {
        const std::int64_t feature = position * geometry.in_channels + c;
        float& result = grad_inputs[image * geometry.in_features() + feature];
        result = 0;
        if (mask != nullptr) {
          const std::uint64_t* const words = mask + image * words_for(geometry.in_features());
          if ((words[feature / word_bits] >> (feature % word_bits) & 1) == 0) continue;
        }
        std::int64_t total = 0;  // of products of order 3 and more, times 2^-24
        for (std::int64_t tap = 0; tap < taps; ++tap) {
          const std::int64_t output =
              output_of_input[static_cast<std::size_t>(position * taps + tap)];
          if (output < 0) continue;
          for (std::int64_t n = 0; n < outputs; ++n) {
            const Digits& g = row.weights[static_cast<std::size_t>(output * geometry.out_channels +
                                                                   first_output + n)];
            const Digits& w = column.weights[static_cast<std::size_t>(n * taps + tap)];
            for (int i = 0; i < number_digits; ++i) {
              for (int j = number_digits - 1 - i; j < number_digits; ++j) {
                const auto product =
                    g[static_cast<std::size_t>(i)] * w[static_cast<std::size_t>(j)];
                total += product << (8 * (i + j - (number_digits - 1)));
              }
            }
          }
        }
        result = static_cast<float>(static_cast<double>(total) *
                                    std::ldexp(1.0, 24 - row.exponent - column.exponent));
      }
    }
  }
}

}  // namespace h2learn::reference
