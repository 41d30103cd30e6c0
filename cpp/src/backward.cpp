#include "h2learn/backward.hpp"

#include <algorithm>

#include "h2learn/spikes.hpp"
#include "reference/synapse.hpp"
#include "synapse_checks.hpp"
#include "synapse_plan.hpp"

namespace h2learn {
namespace {

/// What Method::sampled costs beside the dense kernel: fitted on one Zen 3 core with AVX2 to ten
/// layers, 16 to 1024 channels and 128 to 4608 terms, 2 to 50 % of the gradients needed. The order
/// of additions depends on it, so it is the same on every machine.
struct SampledCosts {
  double fixed = 0.12;
  double by_channels = 12;  ///< gathering a row, shared by its channels
  double by_terms = 45;     ///< walking lists
  double needed = 1.5;
  double needed_by_terms = 60;  ///< beginning and ending a sum
  double gain = 0.75;  ///< below this it is chosen: walking gradients that are not zero saves, too
};
constexpr SampledCosts sampled_costs;

/// With fewer grad_currents that are not zero, walking those may be faster.
constexpr double least_nonzero = 0.25;

/// Part of the floats that are not zero, by a few thousand of them.
double estimate_nonzero(const float* values, std::int64_t count) {
  constexpr std::int64_t looked_at = 4096;
  // Odd, so that it does not keep to a few channels.
  const std::int64_t step = count / looked_at | 1;
  std::int64_t seen = 0;
  std::int64_t set = 0;
  for (std::int64_t i = 0; i < count; i += step, ++seen) set += values[i] != 0;
  return static_cast<double>(set) / static_cast<double>(std::max<std::int64_t>(seen, 1));
}

bool runs_sampled(const Geometry& geometry, const float* grad_currents, std::int64_t images,
                  const std::uint64_t* mask, Kernel kernel) {
  if (mask == nullptr) return false;
  if (kernel == Kernel::automatic || kernel == Kernel::digits) {
    return needs_few(geometry, grad_currents, images, mask);
  }
  return kernel == Kernel::sampled;
}

}  // namespace

bool needs_few(const Geometry& geometry, const float* grad_currents, std::int64_t images,
               const std::uint64_t* mask) {
  const std::int64_t features = images * geometry.in_features();
  if (mask == nullptr || features == 0) return false;
  // These read their weights in place (SynapseKernels::reads_in_place), which sampling could not.
  const bool linear = geometry.in_positions() == 1 && geometry.out_positions() == 1;
  if (linear && images <= few_images) return false;
  const SampledCosts& costs = sampled_costs;
  const auto channels = static_cast<double>(geometry.channels_per_group());
  const auto terms = static_cast<double>(geometry.taps() * geometry.outputs_per_group());
  const double begun = costs.fixed + costs.by_channels / channels + costs.by_terms / terms;
  if (begun >= costs.gain) return false;
  const std::int64_t set = popcount({mask, 1, images, geometry.in_features()});
  const double needed = static_cast<double>(set) / static_cast<double>(features);
  return begun + (costs.needed + costs.needed_by_terms / terms) * needed < costs.gain &&
         estimate_nonzero(grad_currents, images * geometry.out_features()) >= least_nonzero;
}

void backward(const Geometry& geometry, const float* grad_currents, std::int64_t images,
              const float* weight, const std::uint64_t* mask, float* grad_inputs, Kernel kernel) {
  geometry.validate();
  require_images("images", images);
  require_array("grad_currents", grad_currents, images * geometry.out_features());
  require_array("weight", weight, geometry.weights());
  require_array("grad_inputs", grad_inputs, images * geometry.in_features());
  const bool sampled = runs_sampled(geometry, grad_currents, images, mask, kernel);
  if (active_target() == Target::scalar) {
    require_finite("weight", weight, geometry.weights());
    reference::backward(geometry, grad_currents, images, weight, mask, sampled, grad_inputs);
    return;
  }
  const SynapseKernels& kernels = detail::pick_synapse_kernels();
  GatherPlan plan(geometry, GatherPlan::Rows::readers);
  GatherProduct product = {};
  product.rows = plan.of_values(grad_currents, images);
  product.columns = geometry.channels_per_group();
  product.scale = 1;
  product.mask = mask;
  product.out = grad_inputs;
  product.method = sampled ? Method::sampled : method_of(kernel, false);
  const PackFor use = sampled ? PackFor::sampled : PackFor::backward;
  const auto kept = add_weights(kernels, geometry, use, weight, product);
  if (images == 0) return;
  product.choice = kernels.choose_product(product.rows, product.columns, product.method);
  plan.add_runs(product.choice, product.rows);
  kernels.gather_product(product);
}

}  // namespace h2learn
