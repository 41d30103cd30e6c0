#include "h2learn/backward.hpp"

#include "h2learn/spikes.hpp"
#include "reference/synapse.hpp"
#include "synapse_checks.hpp"
#include "synapse_plan.hpp"

namespace h2learn {

void backward(const Geometry& geometry, const float* grad_currents, std::int64_t images,
              const float* weight, const std::uint64_t* mask, float* grad_inputs, Kernel kernel) {
  geometry.validate();
  require_images("images", images);
  require_array("grad_currents", grad_currents, images * geometry.out_features());
  require_array("weight", weight, geometry.weights());
  require_array("grad_inputs", grad_inputs, images * geometry.in_features());
  if (active_target() == Target::scalar) {
    require_finite("weight", weight, geometry.weights());
    reference::backward(geometry, grad_currents, images, weight, mask, grad_inputs);
    return;
  }
  const SynapseKernels& kernels = detail::pick_synapse_kernels();
  GatherPlan plan(geometry, GatherPlan::Rows::readers);
  GatherProduct product = {};
  product.panels = pack_weights(kernels, geometry, PackFor::backward, weight);
  if (images == 0) return;
  product.rows = plan.of_values(grad_currents, images);
  product.columns = geometry.channels_per_group();
  product.scale = 1;
  product.mask = mask;
  product.out = grad_inputs;
  product.method = method_of(kernel, false);
  product.choice = kernels.choose_product(product.rows, product.columns, product.method);
  plan.add_runs(product.choice, product.rows);
  kernels.gather_product(product);
}

}  // namespace h2learn
