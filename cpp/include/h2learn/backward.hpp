// Error at the input spikes, dS = dU . W^T, only where it is needed: the backward engine's work.
#pragma once

#include <cstdint>

#include "h2learn/geometry.hpp"
#include "h2learn/kernel.hpp"

namespace h2learn {

/// grad_inputs[images, in_positions, in_channels] from
/// grad_currents[images, out_positions, out_channels].
/// `mask` (null: everything is needed) is packed like the input spikes, one plane,
/// [images, words_for(in_features)]; where its bit is 0 the result is exactly +0.
/// `Kernel::event` skips exact zeros of grad_currents; `Kernel::lut` runs dense, as the chip's
/// backward engine has no tables.
void backward(const Geometry& geometry, const float* grad_currents, std::int64_t images,
              const float* weight, const std::uint64_t* mask, float* grad_inputs,
              Kernel kernel = Kernel::automatic);

}  // namespace h2learn
