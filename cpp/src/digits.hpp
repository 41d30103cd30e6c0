// The forward product by digits, its weights packed once.
#pragma once

#include <cstdint>
#include <vector>

#include "digits_plan.hpp"
#include "h2learn/geometry.hpp"
#include "h2learn/spikes.hpp"
#include "kernels/digits.hpp"
#include "synapse_plan.hpp"

namespace h2learn {

/// Weights as digits, in this thread's scratch memory (slot `weights`) until it asks for that
/// again.
class DigitsForward {
 public:
  /// Arguments are forward()'s, checked; `numbers` applies.
  DigitsForward(const Geometry& geometry, float scale, const float* weight, const float* bias,
                Quantization numbers);

  /// currents[rows, out_positions, out_channels].
  void compute(const PackedView& spikes, float* currents) const;

 private:
  void pack();

  Geometry geometry_;
  float scale_;
  const float* weight_;
  const float* bias_;
  Quantization numbers_;
  GatherPlan plan_;
  const DigitsKernels* kernels_ = nullptr;  ///< null: the scalar target's reference computes
  DigitsPanels panels_ = {};
  std::vector<std::int64_t> run_offsets_;
  std::int64_t run_length_ = 0;
  std::vector<double> factors_;
};

}  // namespace h2learn
