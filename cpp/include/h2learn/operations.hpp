// Counts synaptic operations from the bits themselves, whatever kernel ran.
#pragma once

#include <cstdint>

#include "h2learn/geometry.hpp"
#include "h2learn/spikes.hpp"

namespace h2learn {

/// Sum over images, output positions and groups of
///     (set input bits in the window, over all planes) * outputs[image, position, group].
/// `outputs` null means every output of the group: the count of the forward pass. With the
/// number of non-zero gradients of each position it is the work that the weight update cannot
/// skip, and with the mask for `inputs` also the work that the backward engine cannot skip.
std::int64_t count_operations(const Geometry& geometry, const PackedView& inputs,
                              const std::int64_t* outputs);

/// Multiply-accumulates of a dense layer without skipping: rows * windows' real taps * outputs
/// (taps that fall in the padding are not counted).
std::int64_t count_dense_operations(const Geometry& geometry, std::int64_t rows);

}  // namespace h2learn
