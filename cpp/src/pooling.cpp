// The public pooling functions: check the arguments, choose the instruction set.
#include "h2learn/pooling.hpp"

#include <bit>
#include <stdexcept>
#include <string>

#include "kernels/pooling.hpp"
#include "reference/pooling.hpp"

namespace h2learn {
namespace {

/// The kernels of the target in use; the scalar ones are the reference itself.
const PoolingKernels& kernels() {
  static constexpr PoolingKernels scalar = {&reference::count_pool, &reference::max_pool,
                                            &reference::average_pool_backward,
                                            &reference::max_pool_backward};
  const Target target = active_target();
  return target == Target::scalar ? scalar : detail::pick_pooling(target);
}

/// Sizes stay below 2^31 an image and windows below 2^24 elements: a count is exact in float32.
constexpr std::int64_t most_features = (std::int64_t{1} << 31) - 1;
constexpr std::int64_t most_taps = (std::int64_t{1} << 24) - 1;

void require_between(const char* field, std::int64_t value, std::int64_t least, std::int64_t most) {
  if (value < least || value > most) {
    throw std::invalid_argument(std::string(field) + " must be between " + std::to_string(least) +
                                " and " + std::to_string(most) + ", got " + std::to_string(value));
  }
}

void require_spikes(const PoolGeometry& geometry, const PackedView& spikes) {
  if (spikes.planes != 1) {
    throw std::invalid_argument("spikes must have one plane (binary spikes), got " +
                                std::to_string(spikes.planes));
  }
  if (spikes.features != geometry.in_features()) {
    throw std::invalid_argument("spikes must have in_height * in_width * channels = " +
                                std::to_string(geometry.in_features()) + " features, got " +
                                std::to_string(spikes.features));
  }
}

}  // namespace

std::int64_t PoolGeometry::planes() const {
  return std::bit_width(static_cast<std::uint64_t>(kernel_height * kernel_width));
}

void PoolGeometry::validate() const {
  require_between("channels", channels, 1, most_features);
  require_between("in_height", in_height, 1, most_features);
  require_between("in_width", in_width, 1, most_features);
  require_between("kernel_height", kernel_height, 1, in_height);
  require_between("kernel_width", kernel_width, 1, in_width);
  require_between("stride_height", stride_height, 1, most_features);
  require_between("stride_width", stride_width, 1, most_features);
  require_between("in_height * in_width", in_height * in_width, 1, most_features);
  require_between("in_height * in_width * channels", in_features(), 1, most_features);
  require_between("kernel_height * kernel_width", kernel_height * kernel_width, 1, most_taps);
}

void count_pool(const PoolGeometry& geometry, const PackedView& spikes, std::uint64_t* out) {
  geometry.validate();
  require_spikes(geometry, spikes);
  kernels().count_pool(geometry, spikes, out);
}

void max_pool(const PoolGeometry& geometry, const PackedView& spikes, std::uint64_t* out) {
  geometry.validate();
  require_spikes(geometry, spikes);
  kernels().max_pool(geometry, spikes, out);
}

void average_pool_backward(const PoolGeometry& geometry, const float* grad_outputs,
                           std::int64_t rows, float* grad_inputs) {
  geometry.validate();
  require_between("rows", rows, 0, most_features);
  kernels().average_pool_backward(geometry, grad_outputs, rows, grad_inputs);
}

void max_pool_backward(const PoolGeometry& geometry, const PackedView& spikes,
                       const float* grad_outputs, float* grad_inputs) {
  geometry.validate();
  require_spikes(geometry, spikes);
  kernels().max_pool_backward(geometry, spikes, grad_outputs, grad_inputs);
}

}  // namespace h2learn
