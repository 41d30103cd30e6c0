// The forward product by digits (h2learn/digits.hpp): what src/digits.cpp asks of the instruction
// set in use.
//
// Left operand: the images as bytes, one a spike or count, padded; a window is `runs` stretches of
// them, read in place. Right operand: panels of 16 columns, a plane of bytes for each digit,
// [length / 4][16 columns][4 bytes], which is how both VNNI and AMX take four terms at a time.
#pragma once

#include <cstdint>

#include "kernels/synapse.hpp"

namespace h2learn {

constexpr std::int64_t digits_panel_columns = 16;

/// Packed weights: [groups][panels of a group][digits][length / 4][16 columns][4].
struct DigitsPanels {
  std::int8_t* bytes;
  std::int64_t groups;
  std::int64_t columns;  ///< of a group
  std::int64_t length;   ///< of a packed window, a multiple of 4
  int digits;            ///< 3 or 4

  // Always inline: kernel sources include this and may define no weak symbols (dispatch.hpp).
  [[gnu::always_inline]] std::int64_t panels() const {
    return (columns + digits_panel_columns - 1) / digits_panel_columns;
  }
  [[gnu::always_inline]] std::int64_t digit_bytes() const { return length * digits_panel_columns; }
  [[gnu::always_inline]] std::int64_t panel_bytes() const { return digits * digit_bytes(); }
  [[gnu::always_inline]] std::int64_t size() const { return groups * panels() * panel_bytes(); }
};

/// What the choice of digits looks at in one column.
struct DigitsColumn {
  std::int32_t largest_bits;  ///< of the largest magnitude, as a float's
  std::int64_t exponents;     ///< sum of floor(log2 |w|) over weights that are not zero
  std::int64_t count;         ///< of these
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

struct DigitsKernels {
  /// Bytes that the runs of a window are packed to a multiple of (but see window_bytes()).
  std::int64_t run_step;
  /// From torch's order: `fan_in` weights an output, each times its output's scale (2^e), to
  /// `places` in the packed window.
  void (*pack)(const DigitsPanels& to, std::int64_t fan_in, const float* weight,
               const double* scales, const std::int32_t* places);
  void (*product)(const DigitsProduct& product);
  DigitsColumn (*measure)(const float* weight, std::int64_t length);
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
inline const DigitsKernels& pick_digits_kernels() {
  switch (active_target()) {
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
