#include "synapse_plan.hpp"

#include <algorithm>
#include <cstddef>
#include <limits>

#include "h2learn/forward.hpp"
#include "scratch.hpp"
#include "synapse_checks.hpp"

namespace h2learn {

GatherPlan::GatherPlan(const Geometry& geometry, Rows rows) : geometry_(geometry), kind_(rows) {
  const bool windows = rows == Rows::windows;
  rows_.positions = windows ? geometry.out_positions() : geometry.in_positions();
  rows_.groups = geometry.groups;
  rows_.group_stride = windows ? geometry.channels_per_group() : geometry.outputs_per_group();
  rows_.length = geometry.taps() * rows_.group_stride;
  rows_.planes = 1;
  rows_.image_stride = windows ? geometry.in_features() : geometry.out_features();
  add_windows();
}

void GatherPlan::add_runs(Choice choice, GatheredRows& rows) {
  if (choice != Choice::gather && choice != Choice::depthwise) return;
  const std::vector<std::int32_t> source_of_tap =
      kind_ == Rows::windows ? geometry_.input_of_output() : geometry_.output_of_input();
  const std::int64_t taps = geometry_.taps();
  const std::int64_t channels = rows.group_stride;
  runs_.reserve(source_of_tap.size());
  first_run_.reserve(static_cast<std::size_t>(rows.positions + 1));
  for (std::int64_t position = 0; position < rows.positions; ++position) {
    const std::size_t first = runs_.size();
    first_run_.push_back(static_cast<std::int32_t>(first));
    for (std::int64_t tap = 0; tap < taps; ++tap) {
      const std::int64_t source = source_of_tap[static_cast<std::size_t>(position * taps + tap)];
      if (source < 0) continue;
      const Run next = {static_cast<std::int32_t>(source * channels * rows.groups),
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
  rows.runs = runs_.data();
  rows.first_run = first_run_.data();
}

void GatherPlan::add_windows() {
  const Geometry& geometry = geometry_;
  const bool reversed = kind_ == Rows::readers;
  Windows& windows = rows_.windows;
  windows.window_height = (geometry.kernel_height - 1) * geometry.dilation_height + 1;
  windows.window_width = (geometry.kernel_width - 1) * geometry.dilation_width + 1;
  windows.channels = rows_.group_stride;
  if (reversed) {
    windows.image_height = geometry.out_height();
    windows.image_width = geometry.out_width();
    windows.height = geometry.in_height;
    windows.width = geometry.in_width;
    windows.stride_height = 1;
    windows.stride_width = 1;
    windows.spread_height = geometry.stride_height;
    windows.spread_width = geometry.stride_width;
    windows.top = windows.window_height - 1 - geometry.padding_height;
    windows.left = windows.window_width - 1 - geometry.padding_width;
  } else {
    windows.image_height = geometry.in_height;
    windows.image_width = geometry.in_width;
    windows.height = geometry.out_height();
    windows.width = geometry.out_width();
    windows.stride_height = geometry.stride_height;
    windows.stride_width = geometry.stride_width;
    windows.spread_height = 1;
    windows.spread_width = 1;
    windows.top = geometry.padding_height;
    windows.left = geometry.padding_width;
  }
  const std::int64_t padded_width =
      (windows.width - 1) * windows.stride_width + windows.window_width;
  for (std::int64_t k = 0, piece; k < rows_.length; k += piece) {
    const std::int64_t tap = k / windows.channels;
    std::int64_t row = tap / geometry.kernel_width * geometry.dilation_height;
    std::int64_t column = tap % geometry.kernel_width * geometry.dilation_width;
    if (reversed) {
      row = windows.window_height - 1 - row;
      column = windows.window_width - 1 - column;
    }
    // No run reaches beyond its tap's channels or its block, except into the next tap's.
    const std::int64_t channel = k % windows.channels;
    piece = std::min(windows.channels - channel, sum_block - k % sum_block);
    const std::int64_t offset = (row * padded_width + column) * windows.channels + channel;
    const bool new_block = k % sum_block == 0;
    if (new_block) first_of_block_.push_back(static_cast<std::int32_t>(window_runs_.size()));
    if (!new_block && window_runs_.back().row == row &&
        window_runs_.back().offset + window_runs_.back().length == offset) {
      window_runs_.back().length += static_cast<std::int32_t>(piece);
    } else {
      window_runs_.push_back({static_cast<std::int32_t>(row), static_cast<std::int32_t>(offset),
                              static_cast<std::int32_t>(k), static_cast<std::int32_t>(piece)});
    }
  }
  first_of_block_.push_back(static_cast<std::int32_t>(window_runs_.size()));
  windows.runs = window_runs_.data();
  windows.first_of_block = first_of_block_.data();
}

GatheredRows GatherPlan::of_spikes(const PackedView& spikes) const {
  GatheredRows rows = rows_;
  rows.images = spikes.rows;
  rows.words = spikes.words;
  rows.planes = spikes.planes;
  rows.words_per_image = spikes.words_per_row();
  return rows;
}

GatheredRows GatherPlan::of_values(const float* values, std::int64_t images) const {
  GatheredRows rows = rows_;
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

std::shared_ptr<const PackedWeights> add_weights(const SynapseKernels& kernels,
                                                 const Geometry& geometry, PackFor use,
                                                 const float* weight, GatherProduct& product) {
  product.weight = weight;
  product.transposed = use == PackFor::backward;
  const WeightShape shape = {geometry.groups, geometry.outputs_per_group(),
                             geometry.channels_per_group(), geometry.taps()};
  bool finite = true;
  product.finite_blocks = false;
  if (kernels.reads_in_place(product)) {
    constexpr float most = std::numeric_limits<float>::max();
    const float largest = kernels.largest_magnitude(weight, geometry.weights());
    finite = largest <= most;
    // Rounding keeps sums in order, so none passes that of sum_block times the same number, which
    // is `most` itself (a test adds them up).
    product.finite_blocks = largest <= most / sum_block;
  } else {
    const std::int64_t rows = product.rows.images * product.rows.positions;
    if (product.rows.positions > 1 && rows <= rows_worth_keeping) {
      auto kept = packed_weights(kernels, shape, use, weight);
      if (kept != nullptr) {
        product.panels = kept->panels();
        return kept;
      }
    }
    const auto floats = static_cast<std::size_t>(kernels.packed_size(shape, use));
    auto* const panels = static_cast<float*>(scratch(ScratchSlot::weights, floats * sizeof(float)));
    finite = kernels.pack_weights(shape, use, weight, panels);
    product.panels = panels;
  }
  // Only when one of them found fault are the weights read again.
  if (!finite) require_finite("weight", weight, geometry.weights());
  return nullptr;
}

}  // namespace h2learn
