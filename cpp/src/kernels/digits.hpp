// Products by digits (h2learn/digits.hpp): what src/digits*.cpp ask of the instruction set in use.
//
// Left operand: the images as bytes, one a spike or count, padded; a window is `runs` stretches of
// them, read in place. Right operand: panels of 16 columns, a plane of bytes for each digit,
// [length / 4][16 columns][4 bytes], which is how both VNNI and AMX take four terms at a time.
#pragma once

#include <cstdint>

#include "h2learn/digits.hpp"
#include "kernels/digits_backward.hpp"
#include "kernels/synapse.hpp"

namespace h2learn {

constexpr std::int64_t digits_panel_columns = 16;

/// Packed weights: [groups][panels of a group][digits][length / 4][16 columns][4].
struct DigitsPanels {
  std::int8_t* bytes;
  std::int64_t groups;
  std::int64_t columns;  ///< of a group
  std::int64_t length;   ///< of a packed window, a multiple of 4

  // Always inline: kernel sources include this and may define no weak symbols (dispatch.hpp).
  [[gnu::always_inline]] std::int64_t panels() const {
    return (columns + digits_panel_columns - 1) / digits_panel_columns;
  }
  [[gnu::always_inline]] std::int64_t digit_bytes() const { return length * digits_panel_columns; }
  [[gnu::always_inline]] std::int64_t panel_bytes() const { return number_digits * digit_bytes(); }
  [[gnu::always_inline]] std::int64_t size() const { return groups * panels() * panel_bytes(); }
};

/// currents[image, position, group * columns + n], all that the contract says.
struct DigitsProduct {
  GatheredRows rows;  ///< words, planes and windows; the runs of both are not looked at
  DigitsPanels panels;
  const std::int64_t* run_offsets;  ///< from a window's origin, in a padded image of one group
  std::int64_t runs;
  std::int64_t run_length;  ///< packed
  const double* factors;    ///< scale * 2^-e of each output channel
  const float* bias;        ///< or null
  float* out;
};

constexpr std::int64_t step_images = 64;

/// Consecutive steps of a tap: `steps` of the outputs from `output` on read inputs from `input` on,
/// a window's stride apart.
struct OuterRun {
  std::int32_t input;
  std::int32_t output;
  std::int32_t steps;
};

/// A block of the weight gradient's sums: some rows of outputs of some images. A step of the sums
/// is one position of 64 images, so the 64 inputs that a tap reads lie side by side for every tap,
/// and nothing is gathered.
struct OuterBlock {
  std::int64_t first_image;
  std::int64_t stacks;  ///< of 64 images; the last may lack some
  std::int64_t first_row;
  std::int64_t rows;  ///< of outputs
  std::int64_t first_input_row;
  std::int64_t input_rows;
  const OuterRun* runs;
  const std::int32_t* first_run;  ///< runs of each chunk and tap: [chunks * taps + 1]
  std::int64_t chunks;            ///< of steps whose operands stay in the first-level cache
};

/// grad_weight[n, c, tap] by digits, a block at a time.
struct DigitsOuter {
  GatheredRows rows;     ///< words, planes and images; of windows the image's size and strides
  std::int64_t columns;  ///< of a group
  std::int64_t out_height;
  std::int64_t out_width;
  std::int64_t taps;
  const float* gradients;  ///< [images * out_height * out_width, groups * columns]
  float* grad_weight;
  std::int64_t byte_stride;  ///< from a channel's bytes to the next's
  std::int64_t panel_steps;  ///< steps that a panel has room for
  /// Inputs of a block: [groups][byte_rows()][byte_stride], a row's
  /// [stacks][input rows][image width][64 images].
  std::uint8_t* bytes;
  /// Gradients of a block: [groups][panel_count()][4 digits][steps][16][16 columns][4 images], of
  /// panel_steps; steps are [stacks][rows][out_width].
  std::int8_t* panels;
  double* sums;  ///< [groups][panel_count()][taps][byte_rows()][16]

  [[gnu::always_inline]] std::int64_t panel_count() const {
    return (columns + digits_panel_columns - 1) / digits_panel_columns;
  }
  [[gnu::always_inline]] std::int64_t all_columns() const { return rows.groups * columns; }
  /// Channels of a group, up to whole tiles.
  [[gnu::always_inline]] std::int64_t byte_rows() const {
    return (rows.windows.channels + 15) / 16 * 16;
  }
  [[gnu::always_inline]] std::int64_t digit_bytes() const {
    return panel_steps * step_images * digits_panel_columns;
  }
  [[gnu::always_inline]] std::int64_t panel_bytes() const { return number_digits * digit_bytes(); }
  [[gnu::always_inline]] std::int64_t panel_sums() const {
    return taps * byte_rows() * digits_panel_columns;
  }
};

/// What the choice of digits looks at in columns of gradients, [columns] each.
struct ColumnMeasures {
  std::int32_t* largest_bits;  ///< of the largest magnitude, as a float's; beyond finite ones: NaN
  std::int32_t* exponents;     ///< sum of the exponent fields of those that are not zero
  std::int32_t* counts;        ///< of these
};

struct DigitsKernels {
  /// Bytes that the runs of a window are packed to a multiple of (but see window_bytes()).
  std::int64_t run_step;
  /// From torch's order: `fan_in` weights an output, each times its output's scale (2^e), to
  /// `places` in the packed window.
  void (*pack)(const DigitsPanels& to, std::int64_t fan_in, const float* weight,
               const double* scales, const std::int32_t* places);
  void (*product)(const DigitsProduct& product);
  /// Adds a block's gradients to measures of all columns.
  void (*measure_outer)(const DigitsOuter& outer, const OuterBlock& block,
                        const ColumnMeasures& to);
  /// Adds a block to `sums`, or begins these. `scales` (two for each column, whose product is 2^e:
  /// [2][columns]) and `factors` (scale * 2^-e) are of all columns.
  void (*add_outer)(const DigitsOuter& outer, const OuterBlock& block, const float* scales,
                    const double* factors, bool first);
  /// `sums` to grad_weight.
  void (*finish_outer)(const DigitsOuter& outer);
  const BackwardKernels* backward;
};

// Unlike other concepts, this one has a table of its own for every target (dispatch.hpp).
namespace baseline {
extern const DigitsKernels digits_kernels;
}
namespace avx2 {
extern const DigitsKernels digits_kernels;
}
namespace avx512 {
extern const DigitsKernels digits_kernels;
}
namespace avx512vnni {
extern const DigitsKernels digits_kernels;
}
namespace amx {
extern const DigitsKernels digits_kernels;
}

namespace detail {
inline const DigitsKernels& pick_digits_kernels(Target target) {
  switch (target) {
#ifdef H2LEARN_AMX_TARGET
    case Target::amx:
      return amx::digits_kernels;
#endif
#ifdef H2LEARN_X86_TARGETS
    case Target::avx512vnni:
      return avx512vnni::digits_kernels;
    case Target::avx512:
      return avx512::digits_kernels;
    case Target::avx2:
      return avx2::digits_kernels;
#endif
    default:
      return baseline::digits_kernels;
  }
}
}  // namespace detail

}  // namespace h2learn
