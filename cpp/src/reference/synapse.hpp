// The synapse's products, one element at a time: what the vector kernels must compute, addition
// for addition. Arguments are those of the public functions, already validated.
//
// The table engine (`*_lut`). One table covers `inputs` consecutive terms: entry e is the entry
// without e's lowest set bit plus that bit's term, entry 0 is +0. `rows` consecutive tables are
// one tile: their read-outs are added pairwise, neighbours first, an odd one out passing to the
// next level, as a balanced adder tree does; the tree's result is added to the accumulator. Terms
// are the weights of one output in ascending fan-in (forward) or the gradients of one output
// channel in ascending position (weight update).
#pragma once

#include <cstdint>

#include "h2learn/geometry.hpp"
#include "h2learn/kernel.hpp"
#include "h2learn/spikes.hpp"

namespace h2learn::reference {

void forward(const Geometry& geometry, const PackedView& spikes, float scale, const float* weight,
             const float* bias, float* currents);
void forward_lut(const Geometry& geometry, const PackedView& spikes, float scale,
                 const float* weight, const float* bias, float* currents, LutShape lut);
void forward(const Geometry& geometry, const float* inputs, std::int64_t images,
             const float* weight, const float* bias, float* currents);

void backward(const Geometry& geometry, const float* grad_currents, std::int64_t images,
              const float* weight, const std::uint64_t* mask, bool sampled, float* grad_inputs);

void weight_update(const Geometry& geometry, const PackedView& spikes, float scale,
                   const float* grad_currents, float* grad_weight);
void weight_update_lut(const Geometry& geometry, const PackedView& spikes, float scale,
                       const float* grad_currents, float* grad_weight, LutShape lut);
void weight_update(const Geometry& geometry, const float* inputs, std::int64_t images,
                   const float* grad_currents, float* grad_weight);

void bias_update(const float* grad_currents, std::int64_t positions, std::int64_t out_channels,
                 float* grad_bias);

}  // namespace h2learn::reference
