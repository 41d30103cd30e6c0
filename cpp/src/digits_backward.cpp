#include "digits_backward.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>

#include "digits_plan.hpp"
#include "h2learn/digits.hpp"
#include "kernels/digits.hpp"
#include "reference/digits.hpp"
#include "scratch.hpp"
#include "synapse_checks.hpp"
#include "synapse_plan.hpp"

namespace h2learn {
namespace {

/// The threshold of digits.hpp for both sides together, as a power of two.
constexpr double digits_of_both_from = -50;

/// Exponents of some sets of numbers; `worst` is the largest log2 of a set's step 2^-e beside
/// its typical number, and infinite where a number is.
struct Steps {
  std::vector<std::int32_t> exponents;
  double worst = -1000;
};

Steps steps_of(const std::vector<Magnitudes>& sets) {
  Steps steps;
  steps.exponents.reserve(sets.size());
  for (const Magnitudes& set : sets) {
    int exponent = 0;
    steps.worst = std::max(steps.worst, step_beside_typical(set, exponent));
    steps.exponents.push_back(exponent);
  }
  return steps;
}

}  // namespace

bool backward_fits(const Geometry& geometry) {
  // Its one channel would be one of a panel's 16 columns.
  const bool depthwise = geometry.groups > 1 && geometry.channels_per_group() == 1;
  if (depthwise) return false;
  return geometry.stride_height == 1 && geometry.stride_width == 1 &&
         geometry.taps() * geometry.outputs_per_group() < backward_terms_limit;
}

namespace {

constexpr std::int64_t up(std::int64_t n, std::int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

/// Terms as the kernels want them, and where in a sum they stand: places[output * taps + tap].
struct TermPlan {
  BackwardTerms terms = {};
  std::vector<std::int32_t> places;
};

TermPlan plan_terms(const Geometry& geometry, const BackwardKernels& kernels) {
  const std::int64_t outputs = geometry.outputs_per_group();
  // One slab's windows: the channels are this layer's outputs.
  Geometry slab;
  slab.in_channels = outputs;
  slab.kernel_height = geometry.kernel_height;
  slab.kernel_width = geometry.kernel_width;
  slab.dilation_width = geometry.dilation_width;
  WindowBytes bytes = window_bytes(slab, 0, kernels.run_step);
  TermPlan plan;
  BackwardTerms& terms = plan.terms;
  terms.slabs = 1;
  terms.rows = geometry.kernel_height;
  terms.row_step = geometry.dilation_height;
  terms.runs = static_cast<std::int64_t>(bytes.offsets.size()) / terms.rows;
  terms.run_step = geometry.dilation_width;
  if (kernels.slab != 0) {
    const std::int64_t by_slabs = geometry.kernel_width * up(outputs, kernels.slab);
    const std::int64_t by_runs = terms.runs * up(bytes.length, kernels.slab);
    terms.in_slabs = 3 * by_slabs <= 4 * by_runs;
  }
  if (terms.in_slabs) {
    slab.in_channels = kernels.slab;
    slab.dilation_width = 2;  // no tap is another's neighbour
    bytes = window_bytes(slab, 0, kernels.run_step);
    terms.slabs = up(outputs, kernels.slab) / kernels.slab;
    terms.runs = geometry.kernel_width;
  }
  terms.channels = slab.in_channels;
  terms.run_length = bytes.packed_length;
  terms.chunk = terms.run_length % kernels.run_step == 0 ? kernels.run_step : 4;
  const std::vector<std::int32_t> of_slab = packed_places(slab, bytes);
  const std::int64_t taps = geometry.taps();
  plan.places.reserve(static_cast<std::size_t>(outputs * taps));
  for (std::int64_t n = 0; n < outputs; ++n) {
    const std::int64_t begin = n / terms.channels * terms.rows * terms.unit_length();
    for (std::int64_t tap = 0; tap < taps; ++tap) {
      // The window's last tap reads through the weight's first.
      const std::int64_t place = n % terms.channels * taps + taps - 1 - tap;
      plan.places.push_back(
          static_cast<std::int32_t>(begin + of_slab[static_cast<std::size_t>(place)]));
    }
  }
  return plan;
}

}  // namespace

BackwardNumbers quantize_backward(const Geometry& geometry, const float* grad_currents,
                                  std::int64_t images, const float* weight) {
  BackwardNumbers numbers;
  if (!backward_fits(geometry)) return numbers;
  const BackwardKernels& kernels = *detail::pick_digits_kernels(active_target()).backward;
  std::vector<Magnitudes> of_images(static_cast<std::size_t>(images));
  kernels.measure_images(grad_currents, images, geometry.out_features(), of_images.data());
  Steps gradients = steps_of(of_images);
  if (!(gradients.worst <= digits_from)) return numbers;
  std::vector<Magnitudes> of_channels(static_cast<std::size_t>(geometry.in_channels));
  const WeightShape shape = {geometry.groups, geometry.outputs_per_group(),
                             geometry.channels_per_group(), geometry.taps()};
  kernels.measure_columns(weight, shape, of_channels.data());
  Steps weights = steps_of(of_channels);
  if (std::isinf(weights.worst)) require_finite("weight", weight, geometry.weights());
  numbers.apply =
      weights.worst <= digits_from && gradients.worst + weights.worst <= digits_of_both_from;
  numbers.images = std::move(gradients.exponents);
  numbers.channels = std::move(weights.exponents);
  return numbers;
}

bool backward_has_digits(const Geometry& geometry, const float* grad_currents, std::int64_t images,
                         const float* weight) {
  geometry.validate();
  require_images("images", images);
  require_array("grad_currents", grad_currents, images * geometry.out_features());
  require_array("weight", weight, geometry.weights());
  return quantize_backward(geometry, grad_currents, images, weight).apply;
}

void backward_by_digits(const Geometry& geometry, const float* grad_currents, std::int64_t images,
                        const float* weight, const std::uint64_t* mask,
                        const BackwardNumbers& numbers, float* grad_inputs) {
  const Target target = active_target();
  if (target == Target::scalar) {
    reference::backward_digits(geometry, grad_currents, images, weight, mask, grad_inputs);
    return;
  }
  const BackwardKernels& kernels = *detail::pick_digits_kernels(target).backward;
  const TermPlan plan = plan_terms(geometry, kernels);
  const std::vector<double> scales = powers_of_two(numbers.channels, 1, 1);
  const std::vector<double> column_factors = powers_of_two(numbers.channels, -1, 1);
  const std::vector<double> image_factors =
      powers_of_two(numbers.images, -1, std::ldexp(1.0, 8 * (number_digits - 1)));
  DigitsPanels panels = {};
  panels.groups = geometry.groups;
  panels.columns = geometry.channels_per_group();
  panels.length = plan.terms.length();
  const bool by_vectors = plan.terms.chunk == 4;
  const std::int64_t unit_sums = by_vectors ? panels.groups * panels.panels() * plan.terms.units() *
                                                  backward_orders * digits_panel_columns
                                            : 0;
  const std::int64_t sums_at = up(panels.size(), 64);
  panels.bytes = static_cast<std::int8_t*>(scratch(
      ScratchSlot::weights, static_cast<std::size_t>(sums_at) +
                                static_cast<std::size_t>(unit_sums) * sizeof(std::int32_t)));
  auto* const sums = reinterpret_cast<std::int32_t*>(panels.bytes + sums_at);
  const BackwardWeights weights = {weight, geometry.outputs_per_group(), geometry.taps(),
                                   scales.data(), plan.places.data()};
  kernels.pack(weights, plan.terms, panels, by_vectors ? sums : nullptr);
  const GatherPlan windows(geometry, GatherPlan::Rows::readers);
  BackwardProduct product = {};
  product.gradients = grad_currents;
  product.images = images;
  product.outputs = geometry.outputs_per_group();
  product.windows = windows.of_values(grad_currents, images).windows;
  product.terms = plan.terms;
  product.panels = panels.bytes;
  product.groups = panels.groups;
  product.columns = panels.columns;
  product.unit_sums = sums;
  product.exponents = numbers.images.data();
  product.image_factors = image_factors.data();
  product.column_factors = column_factors.data();
  product.mask = mask;
  product.out = grad_inputs;
  kernels.product(product);
}

}  // namespace h2learn
