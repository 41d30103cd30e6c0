// The weight gradient by digits (h2learn/digits.hpp).
#pragma once

#include "h2learn/geometry.hpp"
#include "h2learn/spikes.hpp"

namespace h2learn {

/// Arguments are weight_update()'s, checked. Returns false, and writes nothing, where the layer or
/// the gradients are left to the float kernels.
bool weight_update_by_digits(const Geometry& geometry, const PackedView& spikes, float scale,
                             const float* grad_currents, float* grad_weight);

}  // namespace h2learn
