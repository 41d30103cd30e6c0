// Pooling one window and one channel at a time: what the vector kernels must equal bit for bit.
#pragma once

#include "h2learn/pooling.hpp"

namespace h2learn::reference {

void count_pool(const PoolGeometry& geometry, const PackedView& spikes, std::uint64_t* out);

void max_pool(const PoolGeometry& geometry, const PackedView& spikes, std::uint64_t* out);

/// Adds the windows' terms to each input in row-major order of the windows, from zero.
void average_pool_backward(const PoolGeometry& geometry, const float* grad_outputs,
                           std::int64_t rows, float* grad_inputs);

/// As average_pool_backward in the order of its sums.
void max_pool_backward(const PoolGeometry& geometry, const PackedView& spikes,
                       const float* grad_outputs, float* grad_inputs);

}  // namespace h2learn::reference
