#include "h2learn/weight_update.hpp"

#include "reference/synapse.hpp"
#include "synapse_checks.hpp"

namespace h2learn {

void weight_update(const Geometry& geometry, const PackedView& spikes, float scale,
                   const float* grad_currents, float* grad_weight, Kernel kernel, LutShape lut) {
  geometry.validate();
  require_spikes(geometry, spikes);
  require_lut(lut);
  require_array("grad_currents", grad_currents, spikes.rows * geometry.out_features());
  require_array("grad_weight", grad_weight, geometry.weights());
  require_finite("scale", scale);
  if (kernel == Kernel::lut) {
    reference::weight_update_lut(geometry, spikes, scale, grad_currents, grad_weight, lut);
  } else {
    reference::weight_update(geometry, spikes, scale, grad_currents, grad_weight);
  }
}

void weight_update(const Geometry& geometry, const float* inputs, std::int64_t images,
                   const float* grad_currents, float* grad_weight, Kernel) {
  geometry.validate();
  require_images("images", images);
  require_array("inputs", inputs, images * geometry.in_features());
  require_array("grad_currents", grad_currents, images * geometry.out_features());
  require_array("grad_weight", grad_weight, geometry.weights());
  require_finite("inputs", inputs, images * geometry.in_features());
  reference::weight_update(geometry, inputs, images, grad_currents, grad_weight);
}

void bias_update(const float* grad_currents, std::int64_t positions, std::int64_t out_channels,
                 float* grad_bias) {
  require_images("positions", positions);
  require_images("out_channels", out_channels);
  require_array("grad_currents", grad_currents, positions * out_channels);
  require_array("grad_bias", grad_bias, out_channels);
  reference::bias_update(grad_currents, positions, out_channels, grad_bias);
}

}  // namespace h2learn
