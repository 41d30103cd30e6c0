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
/// backward engine has no tables. `Kernel::sampled`, and `Kernel::automatic` where needs_few(),
/// compute only what the mask needs. `Kernel::digits` adds integers (digits.hpp), or runs as
/// `Kernel::automatic` where backward_has_digits() says no.
///
/// Order of additions. Term k = tap * outputs_per_group + n ascends, in blocks of sum_block whose
/// sums are added in ascending order. Within a block, terms are added one after the other from +0;
/// computed as Kernel::sampled, by the partial sums of src/summation.hpp. Products are fused with
/// their addition where the machine can.
void backward(const Geometry& geometry, const float* grad_currents, std::int64_t images,
              const float* weight, const std::uint64_t* mask, float* grad_inputs,
              Kernel kernel = Kernel::automatic);

/// True when so few gradients are needed, and so many grad_currents are not zero, that computing
/// each by itself pays, by the costs in src/sampled_costs.inc: a choice by the numbers alone, the
/// same on every machine, since it decides in which order they are added. Arguments as those of
/// backward(), not validated.
bool needs_few(const Geometry& geometry, const float* grad_currents, std::int64_t images,
               const std::uint64_t* mask);

}  // namespace h2learn
