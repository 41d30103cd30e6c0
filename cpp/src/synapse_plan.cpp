#include "synapse_plan.hpp"

#include <cstddef>

#include "scratch.hpp"
#include "synapse_checks.hpp"

namespace h2learn {

GatherPlan::GatherPlan(const std::vector<std::int32_t>& source_of_target, std::int64_t positions,
                       std::int64_t taps, std::int64_t source_positions, std::int64_t channels,
                       std::int64_t groups) {
  const std::int64_t all_channels = channels * groups;
  runs_.reserve(source_of_target.size());
  first_run_.reserve(static_cast<std::size_t>(positions + 1));
  for (std::int64_t position = 0; position < positions; ++position) {
    const std::size_t first = runs_.size();
    first_run_.push_back(static_cast<std::int32_t>(first));
    for (std::int64_t tap = 0; tap < taps; ++tap) {
      const std::int64_t source = source_of_target[static_cast<std::size_t>(position * taps + tap)];
      if (source < 0) continue;
      const Run next = {static_cast<std::int32_t>(source * all_channels),
                        static_cast<std::int32_t>(tap * channels),
                        static_cast<std::int32_t>(channels)};
      // Neighbouring taps of one window row are neighbours in the image: one run.
      if (runs_.size() > first && runs_.back().source + runs_.back().length == next.source &&
          runs_.back().target + runs_.back().length == next.target) {
        runs_.back().length += next.length;
      } else {
        runs_.push_back(next);
      }
    }
  }
  first_run_.push_back(static_cast<std::int32_t>(runs_.size()));
  rows_.positions = positions;
  rows_.length = taps * channels;
  rows_.group_stride = channels;
  rows_.groups = groups;
  rows_.planes = 1;
  rows_.image_stride = source_positions * all_channels;
}

GatherPlan GatherPlan::windows(const Geometry& geometry) {
  return {geometry.input_of_output(), geometry.out_positions(),        geometry.taps(),
          geometry.in_positions(),    geometry.channels_per_group(), geometry.groups};
}

GatherPlan GatherPlan::readers(const Geometry& geometry) {
  return {geometry.output_of_input(), geometry.in_positions(),        geometry.taps(),
          geometry.out_positions(),   geometry.outputs_per_group(), geometry.groups};
}

GatheredRows GatherPlan::of_spikes(const PackedView& spikes) const {
  GatheredRows rows = rows_;
  rows.runs = runs_.data();
  rows.first_run = first_run_.data();
  rows.images = spikes.rows;
  rows.words = spikes.words;
  rows.planes = spikes.planes;
  rows.words_per_image = spikes.words_per_row();
  return rows;
}

GatheredRows GatherPlan::of_values(const float* values, std::int64_t images) const {
  GatheredRows rows = rows_;
  rows.runs = runs_.data();
  rows.first_run = first_run_.data();
  rows.images = images;
  rows.values = values;
  return rows;
}

Method method_of(Kernel kernel, bool has_tables) {
  switch (kernel) {
    case Kernel::event:
      return Method::event;
    case Kernel::dense:
      return Method::dense;
    case Kernel::lut:
      return has_tables ? Method::tables : Method::dense;
    default:
      return Method::by_density;
  }
}

const float* pack_weights(const SynapseKernels& kernels, const Geometry& geometry, PackFor use,
                          const float* weight) {
  const WeightShape shape = {geometry.groups, geometry.outputs_per_group(),
                             geometry.channels_per_group(), geometry.taps()};
  const auto floats = static_cast<std::size_t>(kernels.packed_size(shape, use));
  auto* const panels =
      static_cast<float*>(scratch(ScratchSlot::weights, floats * sizeof(float)));
  // Packing looks at every weight anyway; only when it finds fault are they read again.
  if (!kernels.pack_weights(shape, use, weight, panels)) {
    require_finite("weight", weight, geometry.weights());
  }
  return panels;
}

}  // namespace h2learn
