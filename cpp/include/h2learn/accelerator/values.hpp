// The numbers that the machine computes, beside the time it takes ("Arithmetic" in
// docs/microarchitecture.md): what goes in and what comes out, layer by layer.
#pragma once

#include <vector>

#include "h2learn/accelerator/machine.hpp"
#include "h2learn/accelerator/precision.hpp"
#include "h2learn/accelerator/result.hpp"
#include "h2learn/accelerator/work.hpp"

namespace h2learn::accelerator {

/// Rows are images in the order of the workload (row = timestep * samples + sample), features are
/// channels-last.
struct LayerValues {
  // In; somebody else owns them.
  const float* weight = nullptr;         ///< in torch's order
  const float* bias = nullptr;           ///< [N]; null: none
  const float* grad_currents = nullptr;  ///< [rows, P_out, N]; null: no backward
  float scale = 1.0F;                    ///< of the inputs: value = scale * sum of plane weights
  std::vector<float> plane_weights;      ///< [planes]; empty: 2^plane

  // Out; resized by the simulation. Empty where the pass did not exist.
  std::vector<float> currents;         ///< [rows, P_out, N]
  std::vector<float> grad_inputs;      ///< [rows, P_in, C]; zero where the mask is not set
  std::vector<float> weight_gradient;  ///< in torch's order
};

/// As `simulate_clocked(machine, step)`, and computes the numbers as it ticks.
/// `values` has one element a layer. `precision` must have the machine's `value_bytes`.
/// Throws std::invalid_argument when these contradict the machine or the work.
Result simulate_clocked(const Machine& machine, const StepWork& step, Precision precision,
                        std::vector<LayerValues>& values);

}  // namespace h2learn::accelerator
