// What both soma implementations, the reference and the kernels, derive from the options before
// the first neuron: computed once, in double, so that every target uses the same float constants.
#pragma once

#include <cstdint>

#include "h2learn/soma.hpp"

namespace h2learn {

/// Constants of one call. The surrogate's formulas, with v = u - threshold in float:
///   rect      peak                                         where |v| < width, else 0
///   triangle  peak * max(0, 1 - |v| * inverse_width)       where |v| < width, else 0
///   atan      peak / (1 + (v * inverse_width)^2)
///   sigmoid   peak * e / (1 + e)^2,  e = exp(-|v| / width), with
///                 n = nearest integer to |v| * steepness (steepness = log2(e) / width)
///                 r = ((|v| - n * half_high) - n * half_low) * inverse_width
///                 e = 2^-n * sum_{k = 0..6} (-r)^k / k!,   0 where |v| * steepness >= 125
///   where half_high + half_low = width * log(2), the distance over which e halves, and n times
///   half_high is exact. The error of phi stays below 1e-6 of phi (for the triangle, of its peak)
///   up to those 125 halvings and below 2^-125 of the peak past them.
struct SomaPlan {
  SomaOptions options;
  SomaShape shape;
  std::int64_t words = 0;  ///< 64-bit words of one row of spikes
  /// From one timestep to the next, in elements: of spikes and mask, of all other tensors of all
  /// timesteps, and of the currents. Larger than a timestep where the neurons are part of a batch;
  /// the currents' may be 0, the same ones at every timestep.
  std::int64_t words_step = 0;
  std::int64_t values_step = 0;
  std::int64_t currents_step = 0;
  bool attached = true;      ///< a gradient passes through s_t in the reset
  float gain = 1.0F;         ///< what x_t enters with: 1, or 1 - decay
  float spike_above = 0.0F;  ///< s_t = u_t > spike_above, whether inclusive or not
  float peak = 0.0F;         ///< the surrogate's constant factor, scale included
  float inverse_width = 0.0F;
  float steepness = 0.0F;
  float half_high = 0.0F;
  float half_low = 0.0F;
};

/// Past this many halvings the sigmoid's e is taken as zero: it would no longer be normal.
constexpr float most_halvings = 125.0F;

/// Adding this to a float of magnitude below 2^22 leaves the nearest integer in its low bits.
constexpr float round_to_integer = 12582912.0F;  // 1.5 * 2^23

/// For all neurons of a batch: steps are a timestep long.
SomaPlan make_plan(const SomaOptions& options, const SomaShape& shape);

/// What soma_forward() refuses before it reads a current.
void require_soma(const SomaOptions& options, const SomaShape& shape, const std::uint64_t* spikes,
                  const std::uint64_t* mask);

/// Throws std::invalid_argument for the value at `index`, which is not finite.
[[noreturn]] void refuse_not_finite(const char* name, float value, std::int64_t index);

/// The index of the first value that is not finite, or -1.
std::int64_t first_not_finite(const float* values, std::int64_t count);

struct SomaKernels;

/// The kernels of the target in use; the scalar one is the reference itself.
const SomaKernels& soma_kernels();

}  // namespace h2learn
