// How the windows of a layer's output positions fall on the bits of an image. The table addresses
// of both table engines combine bits at distances that few addresses differ in: the channels that
// a forward address takes from a window, the positions that an update address takes a bit of. So
// they are counted all at once, the whole image shifted against itself, a word at a time.
#pragma once

#include <cstdint>
#include <vector>

#include "accelerator/fast_shape.hpp"
#include "kernels/bit_strings.hpp"

namespace h2learn::accelerator::fast {

/// One group's channels of an image with its padding, row by row, channels last: every window then
/// has its bits at the same distances.
class PaddedImage {
 public:
  explicit PaddedImage(const Layer& layer);

  /// Positions of the image and the padding, and of one row of them.
  std::int64_t positions() const { return height_ * width_; }
  std::int64_t width() const { return width_; }
  std::int64_t channels() const { return channels_; }

  /// Where an output position's window begins, and where `tap` reads it, as positions.
  std::int64_t window(std::int64_t output) const {
    return output / out_width_ * geometry_.stride_height * width_ +
           output % out_width_ * geometry_.stride_width;
  }
  std::int64_t tap(std::int64_t tap) const {
    return tap / geometry_.kernel_width * geometry_.dilation_height * width_ +
           tap % geometry_.kernel_width * geometry_.dilation_width;
  }
  /// Consecutive taps from a kernel row's beginning on that read neighbours.
  std::int64_t taps_in_a_run() const {
    return geometry_.dilation_width == 1 ? geometry_.kernel_width : 1;
  }

  /// Copies a row of packed features to `words`, and `behind` zero words behind it.
  void fill(const BitStringKernels& kernels, const std::uint64_t* row, std::int64_t group,
            std::int64_t behind, std::vector<std::uint64_t>& words) const;

  /// Set bits at each position, added to `ones` [positions].
  void add_ones(const BitStringKernels& kernels, const std::uint64_t* row, std::int64_t group,
                std::int64_t* ones) const;

 private:
  /// Without padding at the sides the image is one row of positions.
  std::int64_t rows() const { return geometry_.padding_width == 0 ? 1 : geometry_.in_height; }

  const Geometry& geometry_;
  std::int64_t channels_;
  std::int64_t height_;
  std::int64_t width_;
  std::int64_t out_width_;
};

/// Table addresses of an image, by the distances of the bits that they combine.
class AddressCount {
 public:
  /// Addresses of the forward engine, all of them.
  static AddressCount forward(const Layer& layer, std::int64_t inputs);
  /// Those of the update engine that lie within the image, when the first one begins at output
  /// position `first`.
  static AddressCount update(const Layer& layer, std::int64_t inputs, std::int64_t first);

  /// Addresses that are not zero in a filled image with `reach()` words behind it.
  std::int64_t count(const BitStringKernels& kernels,
                     const std::vector<std::uint64_t>& words) const;
  std::int64_t reach() const { return reach_; }

 private:
  /// Addresses that combine bits at the same distances.
  struct Alike {
    std::vector<std::int64_t> offsets;
    std::vector<std::vector<std::uint64_t>> digits;  ///< of how many there are at each bit
  };
  /// Words of an image at which such addresses begin.
  struct Span {
    std::size_t alike = 0;
    std::int64_t first_word = 0;
    std::int64_t words = 0;
    std::int64_t digits = 0;
    std::size_t weights = 0;  ///< where they begin in `weights_`
  };

  explicit AddressCount(std::int64_t words) : words_(words) {}
  Alike& alike(const std::vector<std::int64_t>& offsets);
  void add(Alike& alike, std::int64_t first, std::int64_t bits) const;
  void finish();

  std::int64_t words_;  ///< of an image
  std::int64_t reach_ = 0;
  std::vector<Alike> alike_;
  std::vector<Span> spans_;
  std::vector<std::uint64_t> weights_;
};

/// Set bits in every window of an image: sums along columns, then along rows.
class WindowOnes {
 public:
  WindowOnes(const Layer& layer, const PaddedImage& image);

  /// Counts `planes` rows that lie `plane_words` apart; to be read with `in`.
  void count(const BitStringKernels& kernels, const std::uint64_t* row, std::int64_t plane_words,
             std::int64_t group);
  /// Of all planes, in the window that begins at a position of the padded image.
  std::int64_t in(std::int64_t window) const { return sums_[static_cast<std::size_t>(window)]; }

 private:
  const PaddedImage& image_;
  std::int64_t planes_;
  std::vector<std::int64_t> down_;    ///< distances of the taps of a kernel column
  std::vector<std::int64_t> across_;  ///< and of a kernel row
  std::vector<std::int64_t> ones_;
  std::vector<std::int64_t> columns_;
  std::vector<std::int64_t> sums_;
};

}  // namespace h2learn::accelerator::fast
