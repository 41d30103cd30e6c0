#include "h2learn/backward.hpp"

#include "h2learn/spikes.hpp"
#include "reference/synapse.hpp"
#include "synapse_checks.hpp"

namespace h2learn {

void backward(const Geometry& geometry, const float* grad_currents, std::int64_t images,
              const float* weight, const std::uint64_t* mask, float* grad_inputs, Kernel) {
  geometry.validate();
  require_images("images", images);
  require_array("grad_currents", grad_currents, images * geometry.out_features());
  require_array("weight", weight, geometry.weights());
  require_array("grad_inputs", grad_inputs, images * geometry.in_features());
  require_finite("weight", weight, geometry.weights());
  reference::backward(geometry, grad_currents, images, weight, mask, grad_inputs);
}

}  // namespace h2learn
