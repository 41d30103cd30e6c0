// The order in which sums over positions are added: the weight's and the bias's gradients, which
// add up to millions of terms, in every kernel and in the scalar reference.
//
// Positions (image by image, positions of an image ascending) are cut into blocks of `sum_block`
// (forward.hpp); a block's terms are added in ascending order from +0. The block sums of
// `blocks_per_stretch` consecutive blocks are added in ascending order from the first, and so
// are the sums of these stretches. Three levels keep the rounding error of a sum of n terms near
// that of its longest level instead of growing with n, and since a stretch is a sum of its own,
// stretches are what threads share out when a layer has too few weights to share.
//
// The table kernel follows the chip instead: see reference/synapse.hpp.
//
// Gradients at few needed inputs (backward.hpp) are sums of their own, of blocks of `dot_block`
// terms with `dot_lanes` partial sums: term k is added, fused, to partial sum k % dot_lanes, from
// +0; then the upper half of the partial sums is added to the lower until one is left.
#pragma once

#include <cstdint>

#include "h2learn/forward.hpp"

namespace h2learn {

constexpr std::int64_t blocks_per_stretch = 16;
constexpr std::int64_t stretch_positions = sum_block * blocks_per_stretch;
constexpr int dot_lanes = 16;
constexpr std::int64_t dot_block = 256;

}  // namespace h2learn
