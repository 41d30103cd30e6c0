#include "digits.hpp"

#include <cmath>
#include <cstddef>
#include <vector>

#include "digits_plan.hpp"
#include "h2learn/digits.hpp"
#include "kernels/digits.hpp"
#include "reference/digits.hpp"
#include "scratch.hpp"
#include "synapse_checks.hpp"
#include "synapse_plan.hpp"

namespace h2learn {
namespace {

std::vector<double> powers_of_two(const std::vector<int>& exponents, int sign, double factor) {
  std::vector<double> powers;
  powers.reserve(exponents.size());
  for (int exponent : exponents) powers.push_back(std::ldexp(factor, sign * exponent));
  return powers;
}

}  // namespace

int digits_of(const Geometry& geometry, const float* weight, std::int64_t planes) {
  geometry.validate();
  require_array("weight", weight, geometry.weights());
  return quantize(geometry, weight, planes).digits;
}

bool forward_by_digits(const Geometry& geometry, const PackedView& spikes, float scale,
                       const float* weight, const float* bias, float* currents) {
  const Quantization numbers = quantize(geometry, weight, spikes.planes);
  if (numbers.digits == 0) return false;
  forward_by_digits(geometry, spikes, scale, weight, bias, currents, numbers);
  return true;
}

void forward_by_digits(const Geometry& geometry, const PackedView& spikes, float scale,
                       const float* weight, const float* bias, float* currents,
                       const Quantization& numbers) {
  if (active_target() == Target::scalar) {
    reference::forward_digits(geometry, spikes, scale, weight, bias, currents, numbers.digits);
    return;
  }
  if (spikes.rows == 0) return;
  const DigitsKernels& kernels = detail::pick_digits_kernels();
  const GatherPlan plan(geometry, GatherPlan::Rows::windows);
  DigitsProduct product = {};
  product.rows = plan.of_spikes(spikes);
  const Windows& windows = product.rows.windows;
  const std::int64_t padded_row =
      ((windows.width - 1) * windows.stride_width + windows.window_width) * windows.channels;
  const WindowBytes bytes = window_bytes(geometry, padded_row, kernels.run_step);
  const std::vector<std::int32_t> places = packed_places(geometry, bytes);
  const std::vector<double> scales = powers_of_two(numbers.exponents, 1, 1);
  const std::vector<double> factors =
      powers_of_two(numbers.exponents, -1, static_cast<double>(scale));

  DigitsPanels panels = {};
  panels.groups = geometry.groups;
  panels.columns = geometry.outputs_per_group();
  panels.digits = numbers.digits;
  panels.length = static_cast<std::int64_t>(bytes.offsets.size()) * bytes.packed_length;
  panels.bytes = static_cast<std::int8_t*>(
      scratch(ScratchSlot::weights, static_cast<std::size_t>(panels.size())));
  kernels.pack(panels, geometry.fan_in(), weight, scales.data(), places.data());

  product.panels = panels;
  product.run_offsets = bytes.offsets.data();
  product.runs = static_cast<std::int64_t>(bytes.offsets.size());
  product.run_length = bytes.packed_length;
  product.factors = factors.data();
  product.bias = bias;
  product.out = currents;
  kernels.product(product);
}

}  // namespace h2learn
