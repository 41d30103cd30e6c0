// Currents from spikes, X = S . W + b: the forward engine's work.
//
// Order of additions (event and dense kernels; part of the contract, so that the same network
// gives the same spikes whatever the kernel, the instruction set and the number of threads).
// Fan-in index k = tap * channels_per_group + c ascends. It is cut into blocks of `sum_block`
// consecutive k. Within a block the sum starts at +0 and adds spike * weight, count * weight or
// input * weight in ascending k, each product and its sum rounded once (a fused multiply-add);
// block sums are added in ascending order, starting from the first; the total is multiplied by the
// scale of spikes or counts; the bias is added last. Kernel::lut and Kernel::digits have
// arithmetics of their own (kernel.hpp, digits.hpp).
#pragma once

#include <cstdint>

#include "h2learn/geometry.hpp"
#include "h2learn/kernel.hpp"
#include "h2learn/spikes.hpp"

namespace h2learn {

constexpr std::int64_t sum_block = 256;

/// currents[rows, out_positions, out_channels] from packed spikes or counts.
/// `bias` may be null. `spikes.features` must equal `geometry.in_features()`.
void forward(const Geometry& geometry, const PackedView& spikes, float scale, const float* weight,
             const float* bias, float* currents, Kernel kernel = Kernel::automatic,
             LutShape lut = {});

/// The same from analog inputs[images, in_positions, in_channels].
/// `Kernel::event` skips exact zeros; `Kernel::lut` has no meaning here and runs dense,
/// `Kernel::digits` neither and runs as `Kernel::automatic`.
void forward(const Geometry& geometry, const float* inputs, std::int64_t images,
             const float* weight, const float* bias, float* currents,
             Kernel kernel = Kernel::automatic);

}  // namespace h2learn
