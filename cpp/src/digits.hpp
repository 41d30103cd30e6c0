// The forward product by digits, or the answer that the float kernels are to compute it.
#pragma once

#include "digits_plan.hpp"
#include "h2learn/geometry.hpp"
#include "h2learn/spikes.hpp"

namespace h2learn {

/// False, and nothing written, where digits_of() is 0. Arguments are forward()'s, checked but for
/// the weights' being finite.
bool forward_by_digits(const Geometry& geometry, const PackedView& spikes, float scale,
                       const float* weight, const float* bias, float* currents);

/// The same with 3 or 4 digits that are given, for all weights finite.
void forward_by_digits(const Geometry& geometry, const PackedView& spikes, float scale,
                       const float* weight, const float* bias, float* currents,
                       const Quantization& numbers);

}  // namespace h2learn
