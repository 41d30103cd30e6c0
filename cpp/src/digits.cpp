#include "digits.hpp"

#include <cmath>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "h2learn/digits.hpp"
#include "reference/digits.hpp"
#include "scratch.hpp"
#include "synapse_checks.hpp"

namespace h2learn {
bool forward_has_digits(const Geometry& geometry, const float* weight, std::int64_t planes) {
  geometry.validate();
  require_array("weight", weight, geometry.weights());
  if (planes < 1) {
    throw std::invalid_argument("planes must be at least 1, got " + std::to_string(planes));
  }
  return quantize(geometry, weight, planes).applies;
}

DigitsForward::DigitsForward(const Geometry& geometry, float scale, const float* weight,
                             const float* bias, Quantization numbers)
    : geometry_(geometry),
      scale_(scale),
      weight_(weight),
      bias_(bias),
      numbers_(std::move(numbers)),
      plan_(geometry, GatherPlan::Rows::windows) {
  const Target target = active_target();
  if (target == Target::scalar) return;
  kernels_ = &detail::pick_digits_kernels(target);
  pack();
}

void DigitsForward::pack() {
  const Windows windows = plan_.of_spikes({}).windows;
  const std::int64_t padded_row =
      ((windows.width - 1) * windows.stride_width + windows.window_width) * windows.channels;
  const WindowBytes bytes = window_bytes(geometry_, padded_row, kernels_->run_step);
  const std::vector<std::int32_t> places = packed_places(geometry_, bytes);
  const std::vector<double> scales = powers_of_two(numbers_.exponents, 1, 1);
  factors_ = powers_of_two(numbers_.exponents, -1, static_cast<double>(scale_));
  run_offsets_ = bytes.offsets;
  run_length_ = bytes.packed_length;

  panels_.groups = geometry_.groups;
  panels_.columns = geometry_.outputs_per_group();
  panels_.length = static_cast<std::int64_t>(run_offsets_.size()) * run_length_;
  panels_.bytes = static_cast<std::int8_t*>(
      scratch(ScratchSlot::weights, static_cast<std::size_t>(panels_.size())));
  kernels_->pack(panels_, geometry_.fan_in(), weight_, scales.data(), places.data());
}

void DigitsForward::compute(const PackedView& spikes, float* currents) const {
  if (kernels_ == nullptr) {
    reference::forward_digits(geometry_, spikes, scale_, weight_, bias_, currents);
    return;
  }
  if (spikes.rows == 0) return;
  DigitsProduct product = {};
  product.rows = plan_.of_spikes(spikes);
  product.panels = panels_;
  product.run_offsets = run_offsets_.data();
  product.runs = static_cast<std::int64_t>(run_offsets_.size());
  product.run_length = run_length_;
  product.factors = factors_.data();
  product.bias = bias_;
  product.out = currents;
  kernels_->product(product);
}

}  // namespace h2learn
