#include "digits_update.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "digits_plan.hpp"
#include "h2learn/digits.hpp"
#include "kernels/digits.hpp"
#include "reference/digits.hpp"
#include "scratch.hpp"
#include "synapse_plan.hpp"

namespace h2learn {
namespace {

std::size_t size(std::int64_t n) { return static_cast<std::size_t>(n); }

/// Exponents of a block's columns, or none where four digits are too few for one of them.
class BlockExponents {
 public:
  explicit BlockExponents(std::int64_t columns)
      : largest_(size(columns)),
        exponents_(size(columns)),
        counts_(size(columns)),
        chosen_(size(columns)) {}

  ColumnMeasures clear() {
    std::fill(largest_.begin(), largest_.end(), 0);
    std::fill(exponents_.begin(), exponents_.end(), 0);
    std::fill(counts_.begin(), counts_.end(), 0);
    return {largest_.data(), exponents_.data(), counts_.data()};
  }

  bool choose() {
    for (std::size_t n = 0; n < chosen_.size(); ++n) {
      if (!choose_exponent({largest_[n], exponents_[n], counts_[n]}, chosen_[n])) {
        return false;
      }
    }
    return true;
  }

  const std::vector<int>& chosen() const { return chosen_; }

 private:
  std::vector<std::int32_t> largest_;
  std::vector<std::int32_t> exponents_;
  std::vector<std::int32_t> counts_;
  std::vector<int> chosen_;
};

bool by_reference(const Geometry& geometry, const OuterBlocks& blocks, const PackedView& spikes,
                  float scale, const float* grad_currents, float* grad_weight) {
  std::vector<std::vector<std::int64_t>> positions(size(blocks.count()));
  for (std::int64_t p = 0; p < spikes.rows * geometry.out_positions(); ++p) {
    positions[size(blocks.block_of(p))].push_back(p);
  }
  BlockExponents exponents(geometry.out_channels);
  for (const std::vector<std::int64_t>& of_block : positions) {
    const ColumnMeasures to = exponents.clear();
    for (std::int64_t p : of_block) {
      measure_row(grad_currents + p * geometry.out_channels, geometry.out_channels, to);
    }
    if (!exponents.choose()) return false;
  }
  reference::weight_update_digits(geometry, blocks, spikes, scale, grad_currents, grad_weight);
  return true;
}

}  // namespace

bool weight_update_by_digits(const Geometry& geometry, const PackedView& spikes, float scale,
                             const float* grad_currents, float* grad_weight) {
  OuterBlocks blocks(geometry, spikes.rows);
  if (spikes.rows == 0 || !blocks.fit(spikes.planes)) return false;
  const Target target = active_target();
  if (target == Target::scalar) {
    return by_reference(geometry, blocks, spikes, scale, grad_currents, grad_weight);
  }
  const GatherPlan plan(geometry, GatherPlan::Rows::windows);
  DigitsOuter outer = {};
  outer.rows = plan.of_spikes(spikes);
  outer.columns = geometry.outputs_per_group();
  outer.out_height = geometry.out_height();
  outer.out_width = geometry.out_width();
  outer.taps = geometry.taps();
  outer.gradients = grad_currents;
  outer.grad_weight = grad_weight;

  // An odd number of cache lines, so that a tile's rows do not compete for the same ones.
  outer.byte_stride =
      (blocks.stacks() * blocks.most_input_rows() * geometry.in_width | 1) * step_images;
  outer.panel_steps = blocks.most_steps();

  const DigitsKernels& kernels = detail::pick_digits_kernels(target);
  const std::int64_t panels = geometry.groups * outer.panel_count();
  outer.bytes = static_cast<std::uint8_t*>(scratch(
      ScratchSlot::operands, size(geometry.groups * outer.byte_rows() * outer.byte_stride)));
  outer.panels =
      static_cast<std::int8_t*>(scratch(ScratchSlot::weights, size(panels * outer.panel_bytes())));
  outer.sums = static_cast<double*>(
      scratch(ScratchSlot::output, size(panels * outer.panel_sums()) * sizeof(double)));

  BlockExponents exponents(geometry.out_channels);
  std::vector<float> scales(size(2 * geometry.out_channels));
  std::vector<double> factors(size(geometry.out_channels));
  for (std::int64_t number = 0; number < blocks.count(); ++number) {
    const OuterBlock block = blocks.block(number);
    kernels.measure_outer(outer, block, exponents.clear());
    if (!exponents.choose()) return false;
    for (std::size_t n = 0; n < factors.size(); ++n) {
      const int exponent = exponents.chosen()[n];
      scales[n] = std::ldexp(1.0F, exponent / 2);
      scales[factors.size() + n] = std::ldexp(1.0F, exponent - exponent / 2);
      factors[n] = std::ldexp(static_cast<double>(scale), -exponent);
    }
    kernels.add_outer(outer, block, scales.data(), factors.data(), number == 0);
  }
  kernels.finish_outer(outer);
  return true;
}

}  // namespace h2learn
