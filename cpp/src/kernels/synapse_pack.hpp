// Between torch's order of weights and the kernels' own. For kernel sources only.
#pragma once

#include <cstdint>

#include "kernels/synapse.hpp"

namespace h2learn::H2LEARN_TARGET {

std::int64_t packed_size(const WeightShape& shape, PackFor use);

/// See SynapseKernels::pack_weights.
bool pack_weights(const WeightShape& shape, PackFor use, const float* weight, float* panels);

float largest_magnitude(const float* values, std::int64_t count);

/// grad_weight = scale * sums[group][term][output], rows of sums `stride` apart and padded to
/// whole vectors.
void unpack_gradient(const WeightShape& shape, const float* sums, std::int64_t stride, float scale,
                     float* grad_weight);

/// The same for `terms` terms of one tap times `outputs` outputs: to[output * to_stride + term].
void unpack_task(const float* sums, std::int64_t stride, std::int64_t terms, std::int64_t outputs,
                 float scale, float* to, std::int64_t to_stride);

}  // namespace h2learn::H2LEARN_TARGET
