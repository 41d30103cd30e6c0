#include "h2learn/forward.hpp"

#include "forward_product.hpp"
#include "synapse_checks.hpp"

namespace h2learn {

void forward(const Geometry& geometry, const PackedView& spikes, float scale, const float* weight,
             const float* bias, float* currents, Kernel kernel, LutShape lut) {
  ForwardProduct product(geometry, spikes, scale, weight, bias, kernel, lut);
  require_array("currents", currents, spikes.rows * geometry.out_features());
  product.compute(spikes, currents);
}

void forward(const Geometry& geometry, const float* inputs, std::int64_t images,
             const float* weight, const float* bias, float* currents, Kernel kernel) {
  ForwardProduct product(geometry, inputs, images, weight, bias, kernel);
  require_array("currents", currents, images * geometry.out_features());
  product.compute(inputs, images, currents);
}

}  // namespace h2learn
