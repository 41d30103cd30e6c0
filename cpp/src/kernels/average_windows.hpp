// Gradients behind average pooling, given back to the inputs. For the pooling's backward pass, and
// for the neurons', which reads such gradients without their being stored. For kernel sources only.
#pragma once

#include "h2learn/pooling.hpp"
#include "kernels/vec.hpp"

namespace h2learn {
namespace {

/// The windows along one axis that hold one input: first to last, none when last < first.
struct Holders {
  std::int32_t first;
  std::int32_t last;
};

H2LEARN_INLINE Holders holders_of(std::int64_t input, std::int64_t kernel, std::int64_t stride,
                                  std::int64_t outputs) {
  const std::int64_t first = input < kernel ? 0 : (input - kernel) / stride + 1;
  const std::int64_t last = input / stride < outputs ? input / stride : outputs - 1;
  return {static_cast<std::int32_t>(first), static_cast<std::int32_t>(last)};
}

/// The windows of one image, and what each gives of its gradient to every input that it holds.
class AverageWindows {
 public:
  explicit AverageWindows(const PoolGeometry& geometry)
      : AverageWindows(geometry, geometry.kernel_height * geometry.kernel_width) {}

  std::int64_t features() const { return out_height_ * out_width_ * geometry_.channels; }
  H2LEARN_INLINE Holders of_row(std::int64_t ih) const {
    return holders_of(ih, geometry_.kernel_height, geometry_.stride_height, out_height_);
  }
  H2LEARN_INLINE Holders of_column(std::int64_t iw) const {
    return holders_of(iw, geometry_.kernel_width, geometry_.stride_width, out_width_);
  }

  /// Channels [channel, channel + count) of the position held by these windows, from an image of
  /// gradients: the windows' shares, added in row-major order.
  H2LEARN_INLINE void spread(const Holders& rows, const Holders& columns, const float* gradients,
                             std::int64_t channel, std::int64_t count, float* to) const {
    for (std::int64_t c = 0; c < count; c += lanes) {
      const std::int64_t left = count - c;
      Floats sum = {};
      for (std::int64_t oh = rows.first; oh <= rows.last; ++oh) {
        for (std::int64_t ow = columns.first; ow <= columns.last; ++ow) {
          const std::int64_t window = (oh * out_width_ + ow) * geometry_.channels + channel + c;
          sum += share(load_first(gradients + window, left));
        }
      }
      store_first(to + c, sum, left);
    }
  }

 private:
  AverageWindows(const PoolGeometry& geometry, std::int64_t taps)
      : geometry_(geometry),
        out_height_((geometry.in_height - geometry.kernel_height) / geometry.stride_height + 1),
        out_width_((geometry.in_width - geometry.kernel_width) / geometry.stride_width + 1),
        size_(broadcast(static_cast<float>(taps))),
        reciprocal_(broadcast(1.0F / static_cast<float>(taps))),
        exact_((taps & (taps - 1)) == 0) {}

  /// Where the size is a power of two, the product with its reciprocal is the same float and
  /// cheaper.
  H2LEARN_INLINE Floats share(Floats gradient) const {
    return exact_ ? gradient * reciprocal_ : gradient / size_;
  }

  PoolGeometry geometry_;
  std::int64_t out_height_;
  std::int64_t out_width_;
  Floats size_;
  Floats reciprocal_;
  bool exact_;
};

}  // namespace
}  // namespace h2learn
