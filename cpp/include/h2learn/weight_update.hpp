// Weight gradient, dW = S^T . dU summed over images and positions: the weight-update engine's
// work. The order of its additions is part of the contract as the forward pass's is, and written in
// src/summation.hpp.
#pragma once

#include <cstdint>

#include "h2learn/geometry.hpp"
#include "h2learn/kernel.hpp"
#include "h2learn/spikes.hpp"

namespace h2learn {

/// grad_weight (torch's order, overwritten) from packed spikes or counts and
/// grad_currents[rows, out_positions, out_channels].
/// With `Kernel::lut` a table covers `lut.inputs` positions of one output channel and is indexed
/// by one input's spike bits at those positions.
void weight_update(const Geometry& geometry, const PackedView& spikes, float scale,
                   const float* grad_currents, float* grad_weight,
                   Kernel kernel = Kernel::automatic, LutShape lut = {5, 32});

/// The same from analog inputs[images, in_positions, in_channels].
void weight_update(const Geometry& geometry, const float* inputs, std::int64_t images,
                   const float* grad_currents, float* grad_weight,
                   Kernel kernel = Kernel::automatic);

/// grad_bias[out_channels]: sums grad_currents[positions, out_channels] over all positions
/// (images * out_positions of them).
void bias_update(const float* grad_currents, std::int64_t positions, std::int64_t out_channels,
                 float* grad_bias);

}  // namespace h2learn
