#include "h2learn/forward.hpp"

#include "reference/synapse.hpp"
#include "synapse_checks.hpp"

namespace h2learn {

void forward(const Geometry& geometry, const PackedView& spikes, float scale, const float* weight,
             const float* bias, float* currents, Kernel kernel, LutShape lut) {
  geometry.validate();
  require_spikes(geometry, spikes);
  require_lut(lut);
  require_array("weight", weight, geometry.weights());
  require_array("currents", currents, spikes.rows * geometry.out_features());
  require_finite("scale", scale);
  require_finite("weight", weight, geometry.weights());
  require_finite("bias", bias, geometry.out_channels);
  if (kernel == Kernel::lut) {
    reference::forward_lut(geometry, spikes, scale, weight, bias, currents, lut);
  } else {
    reference::forward(geometry, spikes, scale, weight, bias, currents);
  }
}

void forward(const Geometry& geometry, const float* inputs, std::int64_t images,
             const float* weight, const float* bias, float* currents, Kernel) {
  geometry.validate();
  require_images("images", images);
  require_array("inputs", inputs, images * geometry.in_features());
  require_array("weight", weight, geometry.weights());
  require_array("currents", currents, images * geometry.out_features());
  require_finite("inputs", inputs, images * geometry.in_features());
  require_finite("weight", weight, geometry.weights());
  require_finite("bias", bias, geometry.out_channels);
  reference::forward(geometry, inputs, images, weight, bias, currents);
}

}  // namespace h2learn
