#include "reference/synapse.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "summation.hpp"

namespace h2learn::reference {
namespace {

/// Sums `count` terms in blocks; `step(sum, i)` returns the sum with term i added, or untouched.
template <typename Step>
float blocked_sum(std::int64_t begin, std::int64_t end, Step step) {
  float total = 0;
  for (std::int64_t block = begin; block < end; block += sum_block) {
    float sum = 0;
    for (std::int64_t i = block; i < std::min(block + sum_block, end); ++i) sum = step(sum, i);
    total = block == begin ? sum : total + sum;
  }
  return total;
}

/// The same with partial sums in each block (summation.hpp).
template <typename Step>
float dot(std::int64_t length, Step step) {
  float total = 0;
  for (std::int64_t block = 0; block < length; block += dot_block) {
    float partial[dot_lanes] = {};
    for (std::int64_t i = block; i < std::min(block + dot_block, length); ++i) {
      partial[i % dot_lanes] = step(partial[i % dot_lanes], i);
    }
    for (int left = dot_lanes / 2; left > 0; left /= 2) {
      for (int i = 0; i < left; ++i) partial[i] += partial[i + left];
    }
    total = block == 0 ? partial[0] : total + partial[0];
  }
  return total;
}

/// The same over positions, with the third level of summation.hpp.
template <typename Step>
float positions_sum(std::int64_t positions, Step step) {
  float total = 0;
  for (std::int64_t begin = 0; begin < positions; begin += stretch_positions) {
    const float sum = blocked_sum(begin, std::min(begin + stretch_positions, positions), step);
    total = begin == 0 ? sum : total + sum;
  }
  return total;
}

/// The table engine's sum of `count` terms: `bit(i)` says whether term(i) takes part.
template <typename Bit, typename Term>
float table_sum(std::int64_t count, LutShape lut, Bit bit, Term term) {
  const std::int64_t tile = std::int64_t{lut.inputs} * lut.rows;
  float accumulator = 0;
  std::vector<float> level;
  level.reserve(static_cast<std::size_t>(std::min<std::int64_t>(lut.rows, count)));
  for (std::int64_t begin = 0; begin < count; begin += tile) {
    level.clear();
    const std::int64_t end = std::min(begin + tile, count);
    for (std::int64_t table = begin; table < end; table += lut.inputs) {
      // What the entry at these bits is built of, innermost first: its highest bit's term.
      float entry = 0;
      for (std::int64_t i = std::min(table + lut.inputs, end) - 1; i >= table; --i) {
        if (bit(i)) entry += term(i);
      }
      level.push_back(entry);
    }
    while (level.size() > 1) {
      std::size_t sums = 0;
      for (std::size_t i = 0; i < level.size(); i += 2) {
        level[sums++] = i + 1 < level.size() ? level[i] + level[i + 1] : level[i];
      }
      level.resize(sums);
    }
    accumulator += level.front();
  }
  return accumulator;
}

/// scale * (sum_0 + 2 sum_1 + 4 sum_2 + ...).
template <typename PlaneSum>
float scaled_planes(std::int64_t planes, float scale, PlaneSum plane_sum) {
  float combined = plane_sum(0);
  for (std::int64_t plane = 1; plane < planes; ++plane) {
    combined += std::ldexp(plane_sum(plane), static_cast<int>(plane));
  }
  return scale * combined;
}

/// Index arithmetic shared by the products: which input feeds fan-in index k of an output.
class Windows {
 public:
  explicit Windows(const Geometry& geometry)
      : in_channels_(geometry.in_channels),
        channels_(geometry.channels_per_group()),
        outputs_(geometry.outputs_per_group()),
        taps_(geometry.taps()),
        input_of_output_(geometry.input_of_output()) {
    for (std::int32_t tap = 0; tap < taps_; ++tap) {
      for (std::int32_t channel = 0; channel < channels_; ++channel) {
        terms_.push_back({tap, channel});
      }
    }
  }

  /// The feature of an image that fan-in index k of (position, output channel) reads, or -1.
  std::int64_t feature(std::int64_t position, std::int64_t output, std::int64_t k) const {
    const Term& term = terms_[static_cast<std::size_t>(k)];
    const std::int64_t group = output / outputs_;
    const std::int64_t input =
        input_of_output_[static_cast<std::size_t>(position * taps_ + term.tap)];
    if (input < 0) return -1;
    return input * in_channels_ + group * channels_ + term.channel;
  }

  /// Where torch's order keeps the weight of fan-in index k.
  std::int64_t weight_index(std::int64_t output, std::int64_t k) const {
    const Term& term = terms_[static_cast<std::size_t>(k)];
    return (output * channels_ + term.channel) * taps_ + term.tap;
  }

 private:
  /// Of a fan-in index, which is tap * channels + channel: looked up, since dividing takes longer
  /// than all else that is done for a term.
  struct Term {
    std::int32_t tap;
    std::int32_t channel;
  };

  std::int64_t in_channels_;
  std::int64_t channels_;  ///< of a group
  std::int64_t outputs_;   ///< of a group
  std::int64_t taps_;
  std::vector<std::int32_t> input_of_output_;
  std::vector<Term> terms_;
};

bool bit_at(const PackedView& spikes, std::int64_t plane, std::int64_t image,
            std::int64_t feature) {
  return (spikes.row(plane, image)[feature / word_bits] >> (feature % word_bits) & 1) != 0;
}

/// sum + count * factor, fused; nothing is added outside the image, whose feature is -1.
float add_count(const PackedView& spikes, std::int64_t image, std::int64_t feature, float factor,
                float sum) {
  if (feature < 0) return sum;
  std::int64_t count = 0;
  for (std::int64_t plane = 0; plane < spikes.planes; ++plane) {
    count |= std::int64_t{bit_at(spikes, plane, image, feature)} << plane;
  }
  return count == 0 ? sum : std::fma(static_cast<float>(count), factor, sum);
}

template <typename Current>
void for_each_current(const Geometry& geometry, std::int64_t images, const float* bias,
                      float* currents, Current current) {
  for (std::int64_t image = 0; image < images; ++image) {
    for (std::int64_t position = 0; position < geometry.out_positions(); ++position) {
      for (std::int64_t n = 0; n < geometry.out_channels; ++n) {
        const float sum = current(image, position, n);
        *currents++ = bias == nullptr ? sum : sum + bias[n];
      }
    }
  }
}

template <typename Gradient>
void for_each_weight(const Geometry& geometry, const Windows& windows, float* grad_weight,
                     Gradient gradient) {
  for (std::int64_t n = 0; n < geometry.out_channels; ++n) {
    for (std::int64_t k = 0; k < geometry.fan_in(); ++k) {
      grad_weight[windows.weight_index(n, k)] = gradient(n, k);
    }
  }
}

}  // namespace

void forward(const Geometry& geometry, const PackedView& spikes, float scale, const float* weight,
             const float* bias, float* currents) {
  const Windows windows(geometry);
  const auto current = [&](std::int64_t image, std::int64_t position, std::int64_t n) {
    return scale * blocked_sum(0, geometry.fan_in(), [&](float sum, std::int64_t k) {
             return add_count(spikes, image, windows.feature(position, n, k),
                              weight[windows.weight_index(n, k)], sum);
           });
  };
  for_each_current(geometry, spikes.rows, bias, currents, current);
}

void forward_lut(const Geometry& geometry, const PackedView& spikes, float scale,
                 const float* weight, const float* bias, float* currents, LutShape lut) {
  const Windows windows(geometry);
  const auto current = [&](std::int64_t image, std::int64_t position, std::int64_t n) {
    return scaled_planes(spikes.planes, scale, [&](std::int64_t plane) {
      return table_sum(
          geometry.fan_in(), lut,
          [&](std::int64_t k) {
            const std::int64_t feature = windows.feature(position, n, k);
            return feature >= 0 && bit_at(spikes, plane, image, feature);
          },
          [&](std::int64_t k) { return weight[windows.weight_index(n, k)]; });
    });
  };
  for_each_current(geometry, spikes.rows, bias, currents, current);
}

void forward(const Geometry& geometry, const float* inputs, std::int64_t images,
             const float* weight, const float* bias, float* currents) {
  const Windows windows(geometry);
  const auto current = [&](std::int64_t image, std::int64_t position, std::int64_t n) {
    const float* const features = inputs + image * geometry.in_features();
    return blocked_sum(0, geometry.fan_in(), [&](float sum, std::int64_t k) {
      const std::int64_t feature = windows.feature(position, n, k);
      return feature < 0 ? sum
                         : std::fma(features[feature], weight[windows.weight_index(n, k)], sum);
    });
  };
  for_each_current(geometry, images, bias, currents, current);
}

void backward(const Geometry& geometry, const float* grad_currents, std::int64_t images,
              const float* weight, const std::uint64_t* mask, bool sampled, float* grad_inputs) {
  const Windows windows(geometry);
  const std::vector<std::int32_t> output_of_input = geometry.output_of_input();
  const std::int64_t outputs = geometry.outputs_per_group();
  const std::int64_t channels = geometry.channels_per_group();
  const std::int64_t mask_words = words_for(geometry.in_features());
  for (std::int64_t image = 0; image < images; ++image) {
    const float* const gradients = grad_currents + image * geometry.out_features();
    for (std::int64_t feature = 0; feature < geometry.in_features(); ++feature) {
      const std::int64_t position = feature / geometry.in_channels;
      const std::int64_t group = feature % geometry.in_channels / channels;
      const std::int64_t channel = feature % channels;
      const bool needed =
          mask == nullptr ||
          (mask[image * mask_words + feature / word_bits] >> (feature % word_bits) & 1) != 0;
      const auto add_output = [&](float sum, std::int64_t k) {
        const std::int64_t tap = k / outputs;
        const std::int64_t n = group * outputs + k % outputs;
        const std::int64_t output =
            output_of_input[static_cast<std::size_t>(position * geometry.taps() + tap)];
        if (output < 0) return sum;
        return std::fma(gradients[output * geometry.out_channels + n],
                        weight[windows.weight_index(n, tap * channels + channel)], sum);
      };
      const std::int64_t length = geometry.taps() * outputs;
      if (!needed) {
        *grad_inputs++ = 0;
      } else if (sampled) {
        *grad_inputs++ = dot(length, add_output);
      } else {
        *grad_inputs++ = blocked_sum(0, length, add_output);
      }
    }
  }
}

void weight_update(const Geometry& geometry, const PackedView& spikes, float scale,
                   const float* grad_currents, float* grad_weight) {
  const Windows windows(geometry);
  const std::int64_t positions = geometry.out_positions();
  const auto gradient = [&](std::int64_t n, std::int64_t k) {
    return scale * positions_sum(spikes.rows * positions, [&](float sum, std::int64_t m) {
             return add_count(spikes, m / positions, windows.feature(m % positions, n, k),
                              grad_currents[m * geometry.out_channels + n], sum);
           });
  };
  for_each_weight(geometry, windows, grad_weight, gradient);
}

void weight_update_lut(const Geometry& geometry, const PackedView& spikes, float scale,
                       const float* grad_currents, float* grad_weight, LutShape lut) {
  const Windows windows(geometry);
  const std::int64_t positions = geometry.out_positions();
  const auto gradient = [&](std::int64_t n, std::int64_t k) {
    return scaled_planes(spikes.planes, scale, [&](std::int64_t plane) {
      return table_sum(
          spikes.rows * positions, lut,
          [&](std::int64_t m) {
            const std::int64_t feature = windows.feature(m % positions, n, k);
            return feature >= 0 && bit_at(spikes, plane, m / positions, feature);
          },
          [&](std::int64_t m) { return grad_currents[m * geometry.out_channels + n]; });
    });
  };
  for_each_weight(geometry, windows, grad_weight, gradient);
}

void weight_update(const Geometry& geometry, const float* inputs, std::int64_t images,
                   const float* grad_currents, float* grad_weight) {
  const Windows windows(geometry);
  const std::int64_t positions = geometry.out_positions();
  const auto gradient = [&](std::int64_t n, std::int64_t k) {
    return positions_sum(images * positions, [&](float sum, std::int64_t m) {
      const std::int64_t feature = windows.feature(m % positions, n, k);
      if (feature < 0) return sum;
      const float input = inputs[m / positions * geometry.in_features() + feature];
      return std::fma(input, grad_currents[m * geometry.out_channels + n], sum);
    });
  };
  for_each_weight(geometry, windows, grad_weight, gradient);
}

void bias_update(const float* grad_currents, std::int64_t positions, std::int64_t out_channels,
                 float* grad_bias) {
  for (std::int64_t n = 0; n < out_channels; ++n) {
    grad_bias[n] = positions_sum(positions, [&](float sum, std::int64_t m) {
      return sum + grad_currents[m * out_channels + n];
    });
  }
}

}  // namespace h2learn::reference
