// The input gradient by digits: which calls are computed so, and the call.
#pragma once

#include <cstdint>
#include <vector>

#include "h2learn/geometry.hpp"

namespace h2learn {

/// Exponents of the images and of the input channels (digits.hpp); none where the call is left to
/// the float kernels.
struct BackwardNumbers {
  bool apply = false;
  std::vector<std::int32_t> images;
  std::vector<std::int32_t> channels;
};

/// Whether the layer's shape suits input gradients by digits.
bool backward_fits(const Geometry& geometry);

/// Throws std::invalid_argument when digits would apply but for a weight that is not finite.
BackwardNumbers quantize_backward(const Geometry& geometry, const float* grad_currents,
                                  std::int64_t images, const float* weight);

/// Arguments are backward()'s, checked; numbers.apply.
void backward_by_digits(const Geometry& geometry, const float* grad_currents, std::int64_t images,
                        const float* weight, const std::uint64_t* mask,
                        const BackwardNumbers& numbers, float* grad_inputs);

}  // namespace h2learn
