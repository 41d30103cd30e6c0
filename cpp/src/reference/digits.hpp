// Products by digits, from the definition in h2learn/digits.hpp: one number, one digit and one
// input at a time, in 64-bit integers.
#pragma once

#include "digits_plan.hpp"
#include "h2learn/geometry.hpp"
#include "h2learn/spikes.hpp"

namespace h2learn::reference {

/// Arguments are forward()'s, validated.
void forward_digits(const Geometry& geometry, const PackedView& spikes, float scale,
                    const float* weight, const float* bias, float* currents);

/// Arguments are weight_update()'s, validated; the gradients have enough digits.
void weight_update_digits(const Geometry& geometry, const OuterBlocks& blocks,
                          const PackedView& spikes, float scale, const float* grad_currents,
                          float* grad_weight);

/// Arguments are backward()'s, validated; for strides of 1.
void backward_digits(const Geometry& geometry, const float* grad_currents, std::int64_t images,
                     const float* weight, const std::uint64_t* mask, float* grad_inputs);

}  // namespace h2learn::reference
