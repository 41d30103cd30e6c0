// Currents from spikes, X = S . W + b: the forward engine's work.
//
// Order of additions (event and dense kernels; part of the contract, so that the same network
// gives the same spikes whatever the kernel, the instruction set and the number of threads).
// Fan-in index k = tap * channels_per_group + c ascends. It is cut into blocks of `sum_block`
// consecutive k. Within a block the sum starts at +0 and adds weights in ascending k; block sums
// are added in ascending order, starting from the first; the bias is added last. For counts,
// each bit plane is summed so, then currents = scale * (sum_0 + 2 sum_1 + 4 sum_2 + ...) (+ b).
// Analog inputs use fused multiply-adds where the machine has them. Kernel::digits has an
// arithmetic of its own (digits.hpp).
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
