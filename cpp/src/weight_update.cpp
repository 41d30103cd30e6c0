#include "h2learn/weight_update.hpp"

#include <algorithm>

#include "digits_update.hpp"
#include "fastest.hpp"
#include "reference/synapse.hpp"
#include "synapse_checks.hpp"
#include "synapse_plan.hpp"

namespace h2learn {
namespace {

/// Runs the kernel, or writes the empty sum.
void run(Target target, const Geometry& geometry, GatherPlan& plan, const GatheredRows& rows,
         float scale, const float* grad_currents, float* grad_weight, Method method,
         Tables tables) {
  if (rows.images == 0) {
    std::fill_n(grad_weight, geometry.weights(), 0.0F);
    return;
  }
  OuterProduct product = {};
  product.rows = rows;
  product.columns = geometry.outputs_per_group();
  product.taps = geometry.taps();
  product.gradients = grad_currents;
  product.scale = scale;
  product.rounds_once = rows.planes > 1;
  product.grad_weight = grad_weight;
  product.method = method;
  product.tables = tables;
  const SynapseKernels& kernels = detail::pick_synapse_kernels(target);
  product.choice = kernels.choose_outer(product.rows, product.columns, method);
  plan.add_runs(product.choice, product.rows);
  kernels.outer_product(product);
}

}  // namespace

void weight_update(const Geometry& geometry, const PackedView& spikes, float scale,
                   const float* grad_currents, float* grad_weight, Kernel kernel, LutShape lut) {
  geometry.validate();
  require_spikes(geometry, spikes);
  require_lut(lut);
  require_array("grad_currents", grad_currents, spikes.rows * geometry.out_features());
  require_array("grad_weight", grad_weight, geometry.weights());
  require_finite("scale", scale);
  kernel = resolved(kernel, Product::weight_update, geometry, spikes);
  if (kernel == Kernel::digits &&
      weight_update_by_digits(geometry, spikes, scale, grad_currents, grad_weight)) {
    return;
  }
  const Target target = active_target();
  if (target == Target::scalar) {
    if (kernel == Kernel::lut) {
      reference::weight_update_lut(geometry, spikes, scale, grad_currents, grad_weight, lut);
    } else {
      reference::weight_update(geometry, spikes, scale, grad_currents, grad_weight);
    }
    return;
  }
  GatherPlan plan(geometry, GatherPlan::Rows::windows);
  run(target, geometry, plan, plan.of_spikes(spikes), scale, grad_currents, grad_weight,
      method_of(kernel, true), {lut.inputs, lut.rows});
}

void weight_update(const Geometry& geometry, const float* inputs, std::int64_t images,
                   const float* grad_currents, float* grad_weight, Kernel kernel) {
  geometry.validate();
  require_images("images", images);
  require_array("inputs", inputs, images * geometry.in_features());
  require_array("grad_currents", grad_currents, images * geometry.out_features());
  require_array("grad_weight", grad_weight, geometry.weights());
  require_finite("inputs", inputs, images * geometry.in_features());
  const Target target = active_target();
  if (target == Target::scalar) {
    reference::weight_update(geometry, inputs, images, grad_currents, grad_weight);
    return;
  }
  GatherPlan plan(geometry, GatherPlan::Rows::windows);
  run(target, geometry, plan, plan.of_values(inputs, images), 1, grad_currents, grad_weight,
      method_of(kernel, false), {});
}

void bias_update(const float* grad_currents, std::int64_t positions, std::int64_t out_channels,
                 float* grad_bias) {
  require_images("positions", positions);
  require_images("out_channels", out_channels);
  require_array("grad_currents", grad_currents, positions * out_channels);
  require_array("grad_bias", grad_bias, out_channels);
  const Target target = active_target();
  if (target == Target::scalar) {
    reference::bias_update(grad_currents, positions, out_channels, grad_bias);
  } else {
    detail::pick_synapse_kernels(target).sum_positions(grad_currents, positions, out_channels,
                                                       grad_bias);
  }
}

}  // namespace h2learn
