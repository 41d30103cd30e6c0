#include "forward_product.hpp"

#include "fastest.hpp"
#include "reference/synapse.hpp"
#include "synapse_checks.hpp"

namespace h2learn {

ForwardProduct::ForwardProduct(const Geometry& geometry, const PackedView& spikes, float scale,
                               const float* weight, const float* bias, Kernel kernel, LutShape lut)
    : geometry_(geometry),
      weight_(weight),
      bias_(bias),
      scale_(scale),
      lut_(kernel == Kernel::lut),
      lut_shape_(lut) {
  geometry.validate();
  require_spikes(geometry, spikes);
  require_lut(lut);
  require_finite("scale", scale);
  require_weights();
  kernel = resolved(kernel, Product::forward, geometry, spikes);
  if (kernel == Kernel::digits) {
    const Quantization numbers = quantize(geometry, weight, spikes.planes);
    if (numbers.applies) {
      digits_.emplace(geometry, scale, weight, bias, numbers);
      return;
    }
  }
  const Target target = active_target();
  if (target == Target::scalar) {
    require_finite("weight", weight, geometry.weights());
    return;
  }
  plan_.emplace(geometry, GatherPlan::Rows::windows);
  product_.rounds_once = spikes.planes > 1;
  product_.tables = {lut.inputs, lut.rows};
  product_.rows = plan_->of_spikes(spikes);
  prepare(target, method_of(kernel, true));
}

ForwardProduct::ForwardProduct(const Geometry& geometry, const float* inputs, std::int64_t images,
                               const float* weight, const float* bias, Kernel kernel)
    : geometry_(geometry), weight_(weight), bias_(bias) {
  geometry.validate();
  require_images("images", images);
  require_array("inputs", inputs, images * geometry.in_features());
  require_finite("inputs", inputs, images * geometry.in_features());
  require_weights();
  const Target target = active_target();
  if (target == Target::scalar) {
    require_finite("weight", weight, geometry.weights());
    return;
  }
  plan_.emplace(geometry, GatherPlan::Rows::windows);
  product_.rows = plan_->of_values(inputs, images);
  product_.rounds_once = true;
  prepare(target, method_of(kernel, false));
}

void ForwardProduct::require_weights() const {
  require_array("weight", weight_, geometry_.weights());
  require_finite("bias", bias_, geometry_.out_channels);
}

void ForwardProduct::prepare(Target target, Method method) {
  kernels_ = &detail::pick_synapse_kernels(target);
  const bool tables = method == Method::tables;
  product_.columns = geometry_.outputs_per_group();
  product_.scale = scale_;
  product_.bias = bias_;
  product_.method = method;
  const PackFor use = tables ? PackFor::tables : PackFor::forward;
  product_.choice = kernels_->choose_product(product_.rows, product_.columns, method);
  kept_ = add_weights(*kernels_, geometry_, use, weight_, product_);
  if (product_.rows.images == 0) return;
  plan_->add_runs(product_.choice, product_.rows);
}

void ForwardProduct::gather(float* currents) {
  if (product_.rows.images == 0) return;
  product_.out = currents;
  kernels_->gather_product(product_);
}

void ForwardProduct::compute(const PackedView& spikes, float* currents) {
  if (digits_) {
    digits_->compute(spikes, currents);
  } else if (plan_) {
    product_.rows.words = spikes.words;
    product_.rows.images = spikes.rows;
    gather(currents);
  } else if (lut_) {
    reference::forward_lut(geometry_, spikes, scale_, weight_, bias_, currents, lut_shape_);
  } else {
    reference::forward(geometry_, spikes, scale_, weight_, bias_, currents);
  }
}

void ForwardProduct::compute(const float* inputs, std::int64_t images, float* currents) {
  if (plan_) {
    product_.rows.values = inputs;
    product_.rows.images = images;
    gather(currents);
  } else {
    reference::forward(geometry_, inputs, images, weight_, bias_, currents);
  }
}

}  // namespace h2learn
