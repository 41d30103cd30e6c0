#include "h2learn/backward.hpp"

#include <algorithm>

#include "digits_backward.hpp"
#include "fastest.hpp"
#include "h2learn/spikes.hpp"
#include "reference/synapse.hpp"
#include "synapse_checks.hpp"
#include "synapse_plan.hpp"

namespace h2learn {
namespace {

/// What two kernels cost beside the dense one, whose time is 1, by a layer's channels and terms,
/// the part of the gradients that are needed and the part of grad_currents that are not zero.
struct SampledCosts {
  float fixed;               ///< Method::sampled, whatever the layer is
  float by_channels;         ///< gathering a row, shared by its channels
  float by_terms;            ///< walking lists
  float needed;              ///< multiplying and adding
  float needed_by_terms;     ///< beginning and ending a sum
  float events;              ///< Method::event, whatever the layer is
  float events_by_channels;  ///< gathering and listing a row, shared by its channels
  float taps;                ///< `events` where a row is listed once for all taps
  float taps_by_channels;    ///< listing it
  float nonzero;             ///< multiplying and adding
};

constexpr SampledCosts costs = {
#include "sampled_costs.inc"
};

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

/// What Method::sampled costs beside the dense kernel; 1 where it cannot be cheaper.
double cost_of_sampled(const Geometry& geometry, std::int64_t images, const std::uint64_t* mask) {
  const std::int64_t features = images * geometry.in_features();
  if (mask == nullptr || features == 0) return 1;
  // These read their weights in place (SynapseKernels::reads_in_place), which sampling could not.
  const bool linear = geometry.in_positions() == 1 && geometry.out_positions() == 1;
  if (linear && images <= few_images) return 1;
  const auto channels = static_cast<double>(geometry.channels_per_group());
  const auto terms = static_cast<double>(geometry.taps() * geometry.outputs_per_group());
  const double sampled = costs.fixed + costs.by_channels / channels + costs.by_terms / terms;
  if (sampled >= 1) return 1;
  const std::int64_t set = popcount({mask, 1, images, geometry.in_features()});
  const double needed = static_cast<double>(set) / static_cast<double>(features);
  return std::min(sampled + (costs.needed + costs.needed_by_terms / terms) * needed, 1.0);
}

/// True where the event kernel lists an output's gradients for all taps that read them
/// (Choice::taps), by the layer's shape alone.
bool lists_taps(const Geometry& geometry) {
  return geometry.in_width >= least_windows && geometry.in_width <= most_windows &&
         geometry.outputs_per_group() % least_tap_chunk == 0;
}

double cost_of_events(const Geometry& geometry, double nonzero) {
  const auto channels = static_cast<double>(geometry.channels_per_group());
  const double listing = lists_taps(geometry) ? costs.taps + costs.taps_by_channels / channels
                                              : costs.events + costs.events_by_channels / channels;
  // The dense kernel multiplies the zeros that a stride leaves between the gradients, too.
  const auto spread = static_cast<double>(geometry.stride_height * geometry.stride_width);
  return listing + costs.nonzero * nonzero / spread;
}

/// What Kernel::fastest stands for in a backward pass.
Kernel resolved(Kernel kernel, const Geometry& geometry, const float* grad_currents,
                std::int64_t images, const std::uint64_t* mask) {
  if (kernel != Kernel::fastest) return kernel;
  if (!digits_may_pay(Product::backward, geometry, images)) return Kernel::automatic;
  const double nonzero = estimate_nonzero(grad_currents, images * geometry.out_features());
  const double sampled = cost_of_sampled(geometry, images, mask);
  return digits_pay(Product::backward, geometry, images, nonzero, sampled) ? Kernel::digits
                                                                           : Kernel::automatic;
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
  const double sampled = cost_of_sampled(geometry, images, mask);
  if (sampled >= 1) return false;
  return sampled < cost_of_events(
                       geometry, estimate_nonzero(grad_currents, images * geometry.out_features()));
}

void backward(const Geometry& geometry, const float* grad_currents, std::int64_t images,
              const float* weight, const std::uint64_t* mask, float* grad_inputs, Kernel kernel) {
  geometry.validate();
  require_images("images", images);
  require_array("grad_currents", grad_currents, images * geometry.out_features());
  require_array("weight", weight, geometry.weights());
  require_array("grad_inputs", grad_inputs, images * geometry.in_features());
  kernel = resolved(kernel, geometry, grad_currents, images, mask);
  if (kernel == Kernel::digits && images > 0) {
    const BackwardNumbers numbers = quantize_backward(geometry, grad_currents, images, weight);
    if (numbers.apply) {
      backward_by_digits(geometry, grad_currents, images, weight, mask, numbers, grad_inputs);
      return;
    }
  }
  const bool sampled = runs_sampled(geometry, grad_currents, images, mask, kernel);
  const Target target = active_target();
  if (target == Target::scalar) {
    require_finite("weight", weight, geometry.weights());
    reference::backward(geometry, grad_currents, images, weight, mask, sampled, grad_inputs);
    return;
  }
  const SynapseKernels& kernels = detail::pick_synapse_kernels(target);
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
