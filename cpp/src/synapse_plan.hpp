// From a layer's geometry to the kernels' arguments (kernels/synapse.hpp).
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "h2learn/geometry.hpp"
#include "h2learn/kernel.hpp"
#include "h2learn/spikes.hpp"
#include "kernels/synapse.hpp"
#include "packed_weights.hpp"

namespace h2learn {

/// Which elements of an image a row of the product's left operand is made of, for every position;
/// owns what GatheredRows points to.
class GatherPlan {
 public:
  enum class Rows {
    windows,  ///< the inputs in each output position's window, [tap][channels of a group]
    readers,  ///< the outputs that read each input position, [tap][outputs of a group]
  };
  GatherPlan(const Geometry& geometry, Rows rows);
  GatherPlan(const GatherPlan&) = delete;
  GatherPlan& operator=(const GatherPlan&) = delete;

  /// Operands without their runs; the plan must outlive them.
  GatheredRows of_spikes(const PackedView& spikes) const;
  GatheredRows of_values(const float* values, std::int64_t images) const;

  /// Makes the runs, in time proportional to positions * taps, unless nothing is gathered.
  void add_runs(Choice choice, GatheredRows& rows);

 private:
  void add_windows();

  Geometry geometry_;
  Rows kind_;
  std::vector<Run> runs_;
  std::vector<std::int32_t> first_run_;
  std::vector<WindowRun> window_runs_;
  std::vector<std::int32_t> first_of_block_;
  GatheredRows rows_ = {};
};

/// The kernels' name for how bits (or, without tables, floats) are to be multiplied; by density
/// for a kernel that computes only other products.
Method method_of(Kernel kernel, bool has_tables);

/// Gives the product, whose rows, method and choice are set, its weights: where they are, or in
/// panels. These lie in this thread's scratch memory (slot `weights`), or, of a product so small
/// that they are kept from call to call, in what is returned, which must outlive the product.
/// Throws std::invalid_argument when a weight is not finite.
[[nodiscard]] std::shared_ptr<const PackedWeights> add_weights(const SynapseKernels& kernels,
                                                               const Geometry& geometry,
                                                               PackFor use, const float* weight,
                                                               GatherProduct& product);

}  // namespace h2learn
