// The input gradient by digits (h2learn/digits.hpp): what src/digits_backward.cpp asks of the
// instruction set in use.
//
// Left operand: gradients as signed bytes, a plane for each digit, of the images around a window
// (Windows, GatherPlan::Rows::readers). Right operand: panels of 16 input channels as
// kernels/digits.hpp has them, but for the order of digits and terms:
// [length / chunk][4 digits][chunk / 4][16 columns][4 bytes].
#pragma once

#include <cstdint>

#include "kernels/synapse.hpp"

namespace h2learn {

struct DigitsPanels;

/// Products of digits are of order 0 to 6, of which the upper four count.
constexpr int backward_orders = 4;

/// What the choice of digits looks at.
struct Magnitudes {
  std::int32_t largest_bits;  ///< of the largest magnitude, as a float's
  std::int64_t exponents;     ///< sum of the biased exponents of numbers that are not zero
  std::int64_t count;         ///< of these
};

/// How the terms of a sum follow each other: slabs of channels, in them rows of taps, in these
/// runs of bytes that lie side by side in an image.
struct BackwardTerms {
  std::int64_t channels;    ///< of a slab; the last may have fewer
  std::int64_t slabs;       ///< only one where runs hold several taps
  std::int64_t rows;        ///< of taps
  std::int64_t row_step;    ///< in the image, from one row of taps to the next
  std::int64_t runs;        ///< in a row of taps
  std::int64_t run_step;    ///< positions from one run to the next
  std::int64_t run_length;  ///< bytes, zero weights behind the last channel included
  std::int64_t chunk;       ///< terms that a panel's digits are interleaved by: 64 for tiles, or 4
  bool in_slabs;            ///< runs of 64 bytes, one tap each, for tiles

  // Always inline: kernel sources include this and may define no weak symbols (dispatch.hpp).
  [[gnu::always_inline]] std::int64_t units() const { return slabs * rows; }
  [[gnu::always_inline]] std::int64_t unit_length() const { return runs * run_length; }
  [[gnu::always_inline]] std::int64_t length() const { return units() * unit_length(); }
};

/// Weights, [groups][outputs][channels][taps], into panels.
struct BackwardWeights {
  const float* weight;
  std::int64_t outputs;  ///< of a group
  std::int64_t taps;
  const double* scales;        ///< 2^e of every input channel
  const std::int32_t* places;  ///< [outputs * taps]: where in the sum that term stands
};

/// grad_inputs[image, position, group * columns + c], all that the contract says.
struct BackwardProduct {
  const float* gradients;  ///< [images][windows.image_height * image_width][groups * outputs]
  std::int64_t images;
  std::int64_t outputs;  ///< of a group
  Windows windows;       ///< with strides of 1; their runs are not looked at
  BackwardTerms terms;
  const std::int8_t* panels;
  std::int64_t groups;
  std::int64_t columns;           ///< of a group
  const std::int32_t* unit_sums;  ///< as pack() leaves them
  const std::int32_t* exponents;  ///< e of every image
  const double* image_factors;    ///< 2^(24 - e) of every image
  const double* column_factors;   ///< 2^-e of every input channel
  const std::uint64_t* mask;      ///< [images][words of an image's inputs], or null
  float* out;
};

struct BackwardKernels {
  /// Channels of a slab, in tiles; 0 where vectors compute, which have no use for slabs.
  std::int64_t slab;
  /// Bytes that runs are packed to a multiple of (but see window_bytes()).
  std::int64_t run_step;
  /// Of every image of `length` numbers.
  void (*measure_images)(const float* values, std::int64_t images, std::int64_t length,
                         Magnitudes* found);
  /// Of every input channel: weights [groups][outputs][channels][taps], found[groups * channels].
  void (*measure_columns)(const float* weight, const WeightShape& shape, Magnitudes* found);
  /// Also 128 times the sums of digits, by which vectors make signed bytes of unsigned ones:
  /// unit_sums[groups][panels][units][orders][16 columns].
  void (*pack)(const BackwardWeights& from, const BackwardTerms& terms, const DigitsPanels& to,
               std::int32_t* unit_sums);
  void (*product)(const BackwardProduct& product);
};

// Each target has one, to which its DigitsKernels point.
namespace baseline {
extern const BackwardKernels backward_kernels;
}
namespace avx2 {
extern const BackwardKernels backward_kernels;
}
namespace avx512 {
extern const BackwardKernels backward_kernels;
}
namespace avx512vnni {
extern const BackwardKernels backward_kernels;
}
namespace amx {
extern const BackwardKernels backward_kernels;
}

}  // namespace h2learn
