// From a layer's weights and geometry to what the digits kernels compute with (kernels/digits.hpp):
// how many digits, each column's power of two, and where a window's bytes lie.
#pragma once

#include <cstdint>
#include <vector>

#include "h2learn/geometry.hpp"

namespace h2learn {

/// The largest absolute number that `digits` digits, all 127, make.
std::int64_t largest_number(int digits);

/// The largest integer e with magnitude * 2^e <= largest_number(digits); `magnitude` > 0, finite.
int exponent_of(float magnitude, int digits);

/// factor * 2^(sign * exponent) of each.
std::vector<double> powers_of_two(const std::vector<int>& exponents, int sign, double factor);

/// Digits of the layer, and e of every output channel (digits.hpp); 0 digits for the float kernels.
struct Quantization {
  int digits = 0;
  std::vector<int> exponents;
};

/// Throws std::invalid_argument when a weight is not finite.
Quantization quantize(const Geometry& geometry, const float* weight, std::int64_t planes);

/// A window's bytes in a padded image of one group's channels: `offsets.size()` runs of `length`
/// bytes, each packed to `packed_length` by zero weights behind it.
struct WindowBytes {
  std::vector<std::int64_t> offsets;
  std::int64_t length = 0;
  std::int64_t packed_length = 0;
};

/// Runs are packed to a multiple of `step` bytes, or of 4 where that would more than double them.
WindowBytes window_bytes(const Geometry& geometry, std::int64_t padded_row, std::int64_t step);

/// place[channel * taps + tap]: where in a packed window that weight's input lies.
std::vector<std::int32_t> packed_places(const Geometry& geometry, const WindowBytes& bytes);

}  // namespace h2learn
