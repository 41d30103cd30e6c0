// The kernels of the operations on packed spikes, one table for each instruction set; see
// reference/spikes.hpp for what they take and must equal.
#pragma once

#include "dispatch.hpp"
#include "h2learn/spikes.hpp"

namespace h2learn {

struct SpikesKernels {
  bool (*pack)(const float* dense, std::int64_t rows, std::int64_t features, std::uint64_t* words);
  void (*pack_nonzero)(const float* dense, std::int64_t rows, std::int64_t features,
                       std::uint64_t* words);
  void (*unpack)(const PackedView& packed, float scale, float* dense);
  std::int64_t (*popcount)(const std::uint64_t* words, std::int64_t count);
  void (*transpose_matrices)(const std::uint64_t* bits, std::int64_t matrices, std::int64_t words,
                             std::int64_t rows, std::int64_t columns, std::uint64_t* out);
  void (*transpose_bits)(const std::uint64_t* bits, std::int64_t rows, std::int64_t columns,
                         std::uint64_t* out);
};

H2LEARN_DECLARE_KERNELS(SpikesKernels, spikes)

}  // namespace h2learn
