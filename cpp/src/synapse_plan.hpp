// From a layer's geometry to the kernels' arguments (kernels/synapse.hpp).
#pragma once

#include <cstdint>
#include <vector>

#include "h2learn/geometry.hpp"
#include "h2learn/kernel.hpp"
#include "h2learn/spikes.hpp"
#include "kernels/synapse.hpp"

namespace h2learn {

/// Which elements of an image a row gathers, for every position; owns what GatheredRows points to.
class GatherPlan {
 public:
  /// Rows are the inputs in each output position's window, [tap][channels of a group].
  static GatherPlan windows(const Geometry& geometry);

  /// Rows are the outputs that read each input position, [tap][outputs of a group].
  static GatherPlan readers(const Geometry& geometry);

  GatheredRows of_spikes(const PackedView& spikes) const;
  GatheredRows of_values(const float* values, std::int64_t images) const;

 private:
  GatherPlan(const std::vector<std::int32_t>& source_of_target, std::int64_t positions,
             std::int64_t taps, std::int64_t source_positions, std::int64_t channels,
             std::int64_t groups);

  void add_windows(const Geometry& geometry, bool reversed);
  GatheredRows rows(std::int64_t images) const;

  std::vector<Run> runs_;
  std::vector<std::int32_t> first_run_;
  std::vector<WindowRun> window_runs_;
  std::vector<std::int32_t> first_of_block_;
  GatheredRows rows_ = {};
};

/// The kernels' name for how bits (or, without tables, floats) are to be multiplied.
Method method_of(Kernel kernel, bool has_tables);

/// The weights in panels, in this thread's scratch memory (slot `weights`). Throws
/// std::invalid_argument when one is not finite.
const float* pack_weights(const SynapseKernels& kernels, const Geometry& geometry, PackFor use,
                          const float* weight);

}  // namespace h2learn
