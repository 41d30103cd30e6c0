// From a layer's weights and geometry to what the digits kernels compute with (kernels/digits.hpp):
// each column's power of two, where a window's bytes lie, and the blocks of weight gradients.
#pragma once

#include <cstdint>
#include <vector>

#include "h2learn/geometry.hpp"
#include "kernels/digits.hpp"

namespace h2learn {

/// The largest absolute number of digits that are all 127.
constexpr std::int64_t largest_number = 0x7f7f7f7f;

/// The largest integer e with magnitude * 2^e <= largest_number, of the bits of a positive, finite
/// float.
int exponent_of(std::int32_t magnitude_bits);

/// factor * 2^(sign * exponent) of each.
std::vector<double> powers_of_two(const std::vector<int>& exponents, int sign, double factor);

/// e of every output channel (digits.hpp); none for the float kernels.
struct Quantization {
  bool applies = false;
  std::vector<int> exponents;
};

/// Whether the layer's shape and the planes of its counts suit currents by digits.
bool forward_fits(const Geometry& geometry, std::int64_t planes);

/// Throws std::invalid_argument when a weight is not finite.
Quantization quantize(const Geometry& geometry, const float* weight, std::int64_t planes);

/// The threshold of digits.hpp, as a power of two: of the step 2^-e beside the typical number 2^g.
constexpr double digits_from = -22;

/// log2 of a column's step 2^-e beside its typical number, and e; infinite where a number is not
/// finite, and -infinite of zeros.
double step_beside_typical(const Magnitudes& column, int& exponent);

/// The column's e; false where digits are too few (digits.hpp), or a number is
/// not finite.
bool choose_exponent(const Magnitudes& column, int& exponent);

/// Adds one row of columns to their measures.
void measure_row(const float* values, std::int64_t columns, const ColumnMeasures& to);

/// Blocks of the weight gradient's sums by digits (OuterBlock). They follow from the layer's shape
/// and the number of images alone.
class OuterBlocks {
 public:
  OuterBlocks(const Geometry& geometry, std::int64_t images);

  /// Whether a block's sums of such values fit 32 bits, and its operands a few MB.
  bool fit(std::int64_t planes) const;
  std::int64_t count() const { return stack_blocks_ * bands_; }
  /// Of output position `position` of all images.
  std::int64_t block_of(std::int64_t position) const;
  /// The block `number`, whose runs are valid until the next call.
  OuterBlock block(std::int64_t number);
  std::int64_t most_input_rows() const;
  std::int64_t most_steps() const { return stacks_ * rows_ * geometry_.out_width(); }
  std::int64_t stacks() const { return stacks_; }

 private:
  void add_runs(const OuterBlock& block);

  Geometry geometry_;
  std::int64_t images_;
  std::int64_t stacks_;  ///< of a block
  std::int64_t stack_blocks_;
  std::int64_t rows_;  ///< of a block
  std::int64_t bands_;
  std::vector<OuterRun> runs_;
  std::vector<std::int32_t> first_run_;
};

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
