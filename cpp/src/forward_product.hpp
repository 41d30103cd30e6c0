// The forward product, prepared once and computed for all images or for some at a time: what
// forward() and fused_forward() share.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "digits.hpp"
#include "h2learn/geometry.hpp"
#include "h2learn/kernel.hpp"
#include "h2learn/spikes.hpp"
#include "synapse_plan.hpp"

namespace h2learn {

/// Kernels chosen, by what all images are, and weights packed where they are not read in place. The
/// packed weights may lie in this thread's scratch memory (slot `weights`): the thread may prepare
/// no other product meanwhile.
class ForwardProduct {
 public:
  /// Refuses what forward() refuses, but for the currents. Keeps what the pointers point to.
  ForwardProduct(const Geometry& geometry, const PackedView& spikes, float scale,
                 const float* weight, const float* bias, Kernel kernel, LutShape lut);
  ForwardProduct(const Geometry& geometry, const float* inputs, std::int64_t images,
                 const float* weight, const float* bias, Kernel kernel);

  /// currents[rows, out_positions, out_channels] of some of the images that it was prepared for.
  /// They are the same bits whichever images come with them.
  void compute(const PackedView& spikes, float* currents);
  void compute(const float* inputs, std::int64_t images, float* currents);

 private:
  void require_weights() const;
  void prepare(Target target, Method method);
  void gather(float* currents);

  Geometry geometry_;
  const float* weight_;
  const float* bias_;
  float scale_ = 1;
  bool lut_ = false;
  LutShape lut_shape_ = {};
  std::optional<DigitsForward> digits_;
  std::optional<GatherPlan> plan_;  ///< neither: the scalar target's reference computes
  const SynapseKernels* kernels_ = nullptr;
  std::shared_ptr<const PackedWeights> kept_;
  GatherProduct product_ = {};
};

}  // namespace h2learn
