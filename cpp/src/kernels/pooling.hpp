// The pooling kernels, one table for each instruction set; see reference/pooling.hpp for what
// they must equal.
#pragma once

#include "dispatch.hpp"
#include "h2learn/pooling.hpp"

namespace h2learn {

struct PoolingKernels {
  void (*count_pool)(const PoolGeometry& geometry, const PackedView& spikes, std::uint64_t* out);
  void (*max_pool)(const PoolGeometry& geometry, const PackedView& spikes, std::uint64_t* out);
  void (*average_pool_backward)(const PoolGeometry& geometry, const float* grad_outputs,
                                std::int64_t rows, float* grad_inputs);
  void (*max_pool_backward)(const PoolGeometry& geometry, const PackedView& spikes,
                            const float* grad_outputs, float* grad_inputs);
};

H2LEARN_DECLARE_KERNELS(PoolingKernels, pooling)

}  // namespace h2learn
