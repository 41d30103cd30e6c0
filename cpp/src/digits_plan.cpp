#include "digits_plan.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>

#include "h2learn/digits.hpp"
#include "kernels/digits.hpp"
#include "synapse_checks.hpp"

namespace h2learn {
namespace {

/// The thresholds of digits.hpp, as powers of two; and their measure: log2 of the step 2^-e beside
/// the typical weight 2^g.
constexpr double three_digits_from = -26;
constexpr std::int64_t three_digits_least_weights = 16384;
constexpr double four_digits_from = -22;

bool enough_digits(const DigitsColumn& column, int exponent, int digits) {
  const auto count = static_cast<double>(column.count);
  const double typical = static_cast<double>(column.exponents) / count;
  const double step = -exponent - typical;
  if (digits == 3) {
    return column.count >= three_digits_least_weights &&
           step <= three_digits_from + 0.5 * std::log2(count);
  }
  return step <= four_digits_from;
}

bool fits(const Geometry& geometry, std::int64_t planes) {
  if (planes > max_digits_planes) return false;
  const std::int64_t largest_value = (std::int64_t{1} << planes) - 1;
  return geometry.fan_in() * largest_value < digits_sum_limit;
}

}  // namespace

std::int64_t largest_number(int digits) {
  std::int64_t number = 0;
  for (int i = 0; i < digits; ++i) number = number * 256 + 127;
  return number;
}

int exponent_of(float magnitude, int digits) {
  const auto limit = static_cast<double>(largest_number(digits));
  const auto value = static_cast<double>(magnitude);
  const int exponent = std::ilogb(limit) - std::ilogb(value);
  return std::ldexp(value, exponent) <= limit ? exponent : exponent - 1;
}

Quantization quantize(const Geometry& geometry, const float* weight, std::int64_t planes) {
  const std::int64_t length = geometry.fan_in();
  const std::int64_t columns = geometry.out_channels;
  const DigitsKernels& kernels = detail::pick_digits_kernels();
  std::vector<DigitsColumn> measured(static_cast<std::size_t>(columns));
  constexpr std::int64_t parallel_from = std::int64_t{1} << 18;
#pragma omp parallel for schedule(static) if (columns * length >= parallel_from)
  for (std::int64_t n = 0; n < columns; ++n) {
    measured[static_cast<std::size_t>(n)] = kernels.measure(weight + n * length, length);
  }
  constexpr std::int32_t infinity_bits = 0x7f800000;
  for (const DigitsColumn& column : measured) {
    if (column.largest_bits >= infinity_bits) require_finite("weight", weight, columns * length);
  }
  Quantization chosen;
  if (!fits(geometry, planes)) return chosen;
  for (int digits : {3, 4}) {
    chosen.exponents.assign(measured.size(), 0);
    bool enough = true;
    for (std::size_t n = 0; n < measured.size() && enough; ++n) {
      if (measured[n].count == 0) continue;
      const int exponent = exponent_of(std::bit_cast<float>(measured[n].largest_bits), digits);
      enough = enough_digits(measured[n], exponent, digits);
      chosen.exponents[n] = exponent;
    }
    if (enough) {
      chosen.digits = digits;
      return chosen;
    }
  }
  return chosen;
}

WindowBytes window_bytes(const Geometry& geometry, std::int64_t padded_row, std::int64_t step) {
  const auto up = [](std::int64_t n, std::int64_t multiple) {
    return (n + multiple - 1) / multiple * multiple;
  };
  const std::int64_t channels = geometry.channels_per_group();
  // Neighbouring taps of a row are neighbours in the image, unless taps are spread.
  const std::int64_t taps = geometry.dilation_width == 1 ? geometry.kernel_width : 1;
  WindowBytes bytes;
  bytes.length = taps * channels;
  const std::int64_t least = up(bytes.length, 4);
  bytes.packed_length = up(bytes.length, step) <= 2 * least ? up(bytes.length, step) : least;
  for (std::int64_t row = 0; row < geometry.kernel_height; ++row) {
    for (std::int64_t tap = 0; tap < geometry.kernel_width; tap += taps) {
      bytes.offsets.push_back(row * geometry.dilation_height * padded_row +
                              tap * geometry.dilation_width * channels);
    }
  }
  return bytes;
}

std::vector<std::int32_t> packed_places(const Geometry& geometry, const WindowBytes& bytes) {
  const std::int64_t channels = geometry.channels_per_group();
  std::vector<std::int32_t> places;
  places.reserve(static_cast<std::size_t>(geometry.fan_in()));
  for (std::int64_t channel = 0; channel < channels; ++channel) {
    for (std::int64_t tap = 0; tap < geometry.taps(); ++tap) {
      const std::int64_t k = tap * channels + channel;
      places.push_back(
          static_cast<std::int32_t>(k / bytes.length * bytes.packed_length + k % bytes.length));
    }
  }
  return places;
}

}  // namespace h2learn
