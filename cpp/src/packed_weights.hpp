// Packed weights kept from call to call, for products so small that packing would cost as much:
// a layer run timestep by timestep, or on a sample at a time.
//
// Weights are compared bit by bit with those that were packed, on every call. So it does not matter
// who changes them, and how: an optimiser in place, or somebody who writes to their memory behind
// torch's back. Comparing reads what packing reads, and writes nothing.
#pragma once

#include <cstdint>
#include <memory>

#include "kernels/synapse.hpp"

namespace h2learn {

/// Rows (images times positions) of a product that are worth keeping panels for. With more, packing
/// is a few hundredths of the product, and training changes the weights before they come again.
constexpr std::int64_t rows_worth_keeping = 2048;

/// Bytes that all kept weights take at most; those not used for longest make room.
constexpr std::int64_t most_kept_bytes = std::int64_t{1} << 26;

/// A copy of a layer's weights, and the panels made of them.
class PackedWeights {
 public:
  /// Throws OutOfMemory.
  PackedWeights(std::int64_t weights, std::int64_t panel_floats);

  float* copy() { return memory_.get(); }
  const float* panels() const { return memory_.get() + panels_at_; }
  float* panels() { return memory_.get() + panels_at_; }
  std::int64_t bytes() const { return bytes_; }
  bool holds(const float* weight) const;

 private:
  struct Free {
    void operator()(float* memory) const;
  };
  std::int64_t weights_;
  std::int64_t panels_at_;
  std::int64_t bytes_;
  std::unique_ptr<float, Free> memory_;
};

/// The panels of `weight` in torch's order, packed now unless they are kept. Null when a weight is
/// not finite, or when they are too many to be kept.
std::shared_ptr<const PackedWeights> packed_weights(const SynapseKernels& kernels,
                                                    const WeightShape& shape, PackFor use,
                                                    const float* weight);

/// Bytes that are kept.
std::int64_t kept_weight_bytes();

void forget_packed_weights();

}  // namespace h2learn
