#include "h2learn/forward.hpp"

#include "digits.hpp"
#include "reference/synapse.hpp"
#include "synapse_checks.hpp"
#include "synapse_plan.hpp"

namespace h2learn {
namespace {

void require_weights(const Geometry& geometry, const float* weight, const float* bias) {
  require_array("weight", weight, geometry.weights());
  require_finite("bias", bias, geometry.out_channels);
}

/// Completes the product with what both forwards share, and computes it.
void run(const Geometry& geometry, GatherPlan& plan, const float* weight, GatherProduct& product) {
  const SynapseKernels& kernels = detail::pick_synapse_kernels();
  const bool tables = product.method == Method::tables;
  product.columns = geometry.outputs_per_group();
  add_weights(kernels, geometry, tables ? PackFor::tables : PackFor::forward, weight, product);
  if (product.rows.images == 0) return;
  product.choice = kernels.choose_product(product.rows, product.columns, product.method);
  plan.add_runs(product.choice, product.rows);
  kernels.gather_product(product);
}

}  // namespace

void forward(const Geometry& geometry, const PackedView& spikes, float scale, const float* weight,
             const float* bias, float* currents, Kernel kernel, LutShape lut) {
  geometry.validate();
  require_spikes(geometry, spikes);
  require_lut(lut);
  require_array("currents", currents, spikes.rows * geometry.out_features());
  require_finite("scale", scale);
  require_weights(geometry, weight, bias);
  if (kernel == Kernel::digits &&
      forward_by_digits(geometry, spikes, scale, weight, bias, currents)) {
    return;
  }
  if (active_target() == Target::scalar) {
    require_finite("weight", weight, geometry.weights());
    if (kernel == Kernel::lut) {
      reference::forward_lut(geometry, spikes, scale, weight, bias, currents, lut);
    } else {
      reference::forward(geometry, spikes, scale, weight, bias, currents);
    }
    return;
  }
  GatherPlan plan(geometry, GatherPlan::Rows::windows);
  GatherProduct product = {};
  product.rows = plan.of_spikes(spikes);
  product.scale = scale;
  product.rounds_once = spikes.planes > 1;
  product.bias = bias;
  product.out = currents;
  product.method = method_of(kernel, true);
  product.tables = {lut.inputs, lut.rows};
  run(geometry, plan, weight, product);
}

void forward(const Geometry& geometry, const float* inputs, std::int64_t images,
             const float* weight, const float* bias, float* currents, Kernel kernel) {
  geometry.validate();
  require_images("images", images);
  require_array("inputs", inputs, images * geometry.in_features());
  require_array("currents", currents, images * geometry.out_features());
  require_finite("inputs", inputs, images * geometry.in_features());
  require_weights(geometry, weight, bias);
  if (active_target() == Target::scalar) {
    require_finite("weight", weight, geometry.weights());
    reference::forward(geometry, inputs, images, weight, bias, currents);
    return;
  }
  GatherPlan plan(geometry, GatherPlan::Rows::windows);
  GatherProduct product = {};
  product.rows = plan.of_values(inputs, images);
  product.scale = 1;
  product.rounds_once = true;
  product.bias = bias;
  product.out = currents;
  product.method = method_of(kernel, false);
  run(geometry, plan, weight, product);
}

}  // namespace h2learn
