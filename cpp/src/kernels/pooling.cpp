// Pooling, vectorised over channels. Forward, 64 of them are a word and a count is kept as one
// word a binary digit, added with the logic of a ripple-carry adder; backward, they are lanes.
// Threads share out images.
#include "kernels/pooling.hpp"

#include <cstring>

#include "kernels/average_windows.hpp"
#include "kernels/bit_run.hpp"
#include "kernels/lane_mask.hpp"

namespace h2learn::H2LEARN_TARGET {
namespace {

constexpr int block = 64;
constexpr int most_planes = 24;  // PoolGeometry::validate()

/// Below this many inputs a second thread costs more than it saves.
constexpr std::int64_t parallel_from = std::int64_t{1} << 17;

H2LEARN_INLINE std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

/// The sizes a kernel loops over, worked out once.
struct Sizes {
  std::int64_t channels;
  std::int64_t in_width;
  std::int64_t out_height;
  std::int64_t out_width;
  std::int64_t in_features;
  std::int64_t out_features;
  std::int64_t in_words;
  std::int64_t out_words;

  explicit Sizes(const PoolGeometry& g)
      : channels(g.channels),
        in_width(g.in_width),
        out_height((g.in_height - g.kernel_height) / g.stride_height + 1),
        out_width((g.in_width - g.kernel_width) / g.stride_width + 1),
        in_features(g.in_height * g.in_width * g.channels),
        out_features(out_height * out_width * g.channels),
        in_words((in_features + 63) / 64),
        out_words((out_features + 63) / 64) {}
};

/// Up to 64 channels of one window of one image.
struct Run {
  const PoolGeometry& geometry;
  const std::uint64_t* image;
  std::int64_t first;   ///< bit of the window's first element
  std::int64_t row;     ///< bits from one row of inputs to the next
  std::int64_t column;  ///< and from one column to the next
  std::int64_t count;   ///< channels

  H2LEARN_INLINE Run(const PoolGeometry& g, const Sizes& sizes, const std::uint64_t* spikes,
                     std::int64_t oh, std::int64_t ow, std::int64_t channel)
      : geometry(g),
        image(spikes),
        first((oh * g.stride_height * g.in_width + ow * g.stride_width) * sizes.channels + channel),
        row(g.in_width * sizes.channels),
        column(sizes.channels),
        count(smaller(sizes.channels - channel, block)) {}

  H2LEARN_INLINE std::int64_t at(std::int64_t kh, std::int64_t kw) const {
    return first + kh * row + kw * column;
  }
  H2LEARN_INLINE std::uint64_t spikes(std::int64_t kh, std::int64_t kw) const {
    return read_bits(image, at(kh, kw), count);
  }
};

H2LEARN_INLINE std::uint64_t any_spike(const Run& run) {
  std::uint64_t any = 0;
  for (std::int64_t kh = 0; kh < run.geometry.kernel_height; ++kh) {
    for (std::int64_t kw = 0; kw < run.geometry.kernel_width; ++kw) any |= run.spikes(kh, kw);
  }
  return any;
}

/// Adds a word of spikes to 64 counters that hold numbers below 2^digits.
H2LEARN_INLINE void add(std::uint64_t spikes, std::uint64_t* counter, int digits) {
  for (int p = 0; p < digits; ++p) {
    const std::uint64_t carry = counter[p] & spikes;
    counter[p] ^= spikes;
    spikes = carry;
  }
}

H2LEARN_INLINE void count_spikes(const Run& run, std::uint64_t* counter) {
  std::int64_t added = 0;
  int digits = 0;
  for (std::int64_t kh = 0; kh < run.geometry.kernel_height; ++kh) {
    for (std::int64_t kw = 0; kw < run.geometry.kernel_width; ++kw) {
      ++added;
      if (added >> digits != 0) counter[digits++] = 0;
      add(run.spikes(kh, kw), counter, digits);
    }
  }
}

/// Calls body(oh, ow, channel, place) for each run of up to 64 channels of each output of an
/// image; `place` counts the outputs before it.
template <typename Body>
H2LEARN_INLINE void for_each_run(const Sizes& sizes, Body body) {
  std::int64_t place = 0;
  for (std::int64_t oh = 0; oh < sizes.out_height; ++oh) {
    for (std::int64_t ow = 0; ow < sizes.out_width; ++ow, place += sizes.channels) {
      for (std::int64_t c = 0; c < sizes.channels; c += block) body(oh, ow, c, place + c);
    }
  }
}

void count_pool(const PoolGeometry& geometry, const PackedView& spikes, std::uint64_t* out) {
  const Sizes sizes(geometry);
  const std::int64_t rows = spikes.rows;
  int planes = 0;
  while ((geometry.kernel_height * geometry.kernel_width) >> planes != 0) ++planes;
#pragma omp parallel for schedule(static) if (rows * sizes.in_features >= parallel_from)
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::uint64_t* const image = spikes.words + r * sizes.in_words;
    std::uint64_t* const first_plane = out + r * sizes.out_words;
    const std::int64_t plane_words = rows * sizes.out_words;
    for (int p = 0; p < planes; ++p) {
      std::memset(first_plane + p * plane_words, 0, static_cast<std::size_t>(sizes.out_words) * 8);
    }
    for_each_run(sizes, [&](std::int64_t oh, std::int64_t ow, std::int64_t c, std::int64_t place) {
      const Run run(geometry, sizes, image, oh, ow, c);
      std::uint64_t counter[most_planes];
      count_spikes(run, counter);
      for (int p = 0; p < planes; ++p) {
        or_bits(first_plane + p * plane_words, place, run.count, counter[p]);
      }
    });
  }
}

void max_pool(const PoolGeometry& geometry, const PackedView& spikes, std::uint64_t* out) {
  const Sizes sizes(geometry);
  const std::int64_t rows = spikes.rows;
#pragma omp parallel for schedule(static) if (rows * sizes.in_features >= parallel_from)
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::uint64_t* const image = spikes.words + r * sizes.in_words;
    std::uint64_t* const to = out + r * sizes.out_words;
    std::memset(to, 0, static_cast<std::size_t>(sizes.out_words) * 8);
    for_each_run(sizes, [&](std::int64_t oh, std::int64_t ow, std::int64_t c, std::int64_t place) {
      const Run run(geometry, sizes, image, oh, ow, c);
      or_bits(to, place, run.count, any_spike(run));
    });
  }
}

void average_pool_backward(const PoolGeometry& geometry, const float* grad_outputs,
                           std::int64_t rows, float* grad_inputs) {
  const Sizes sizes(geometry);
  const AverageWindows windows(geometry);
  const std::int64_t lines = rows * geometry.in_height;
#pragma omp parallel for schedule(static) if (rows * sizes.in_features >= parallel_from)
  for (std::int64_t line = 0; line < lines; ++line) {
    const float* const from = grad_outputs + line / geometry.in_height * sizes.out_features;
    float* const to = grad_inputs + line * sizes.in_width * sizes.channels;
    const Holders vertical = windows.of_row(line % geometry.in_height);
    for (std::int64_t iw = 0; iw < sizes.in_width; ++iw) {
      windows.spread(vertical, windows.of_column(iw), from, 0, sizes.channels,
                     to + iw * sizes.channels);
    }
  }
}

/// Adds the gradients where the bits are set to the inputs.
H2LEARN_INLINE void add_where(std::uint64_t bits, const float* gradients, std::int64_t count,
                              float* inputs) {
  for (std::int64_t i = 0; i < count; i += lanes) {
    const std::int64_t left = count - i;
    const Floats gradient = load_first(gradients + i, left);
    const Floats share = pick(lanes_of(bits >> i), gradient, Floats{});
    store_first(inputs + i, load_first(inputs + i, left) + share, left);
  }
}

H2LEARN_INLINE void pass_to_first_spike(const Run& run, const float* gradients, float* inputs) {
  // The first element also takes what no element of the window claims.
  std::uint64_t unclaimed = low_bits(run.count);
  std::uint64_t claims = run.spikes(0, 0) | (unclaimed & ~any_spike(run));
  for (std::int64_t kh = 0; kh < run.geometry.kernel_height; ++kh) {
    for (std::int64_t kw = 0; kw < run.geometry.kernel_width; ++kw) {
      if (kh + kw > 0) claims = run.spikes(kh, kw);
      add_where(claims & unclaimed, gradients, run.count, inputs + run.at(kh, kw));
      unclaimed &= ~claims;
    }
  }
}

void max_pool_backward(const PoolGeometry& geometry, const PackedView& spikes,
                       const float* grad_outputs, float* grad_inputs) {
  const Sizes sizes(geometry);
#pragma omp parallel for schedule(static) if (spikes.rows * sizes.in_features >= parallel_from)
  for (std::int64_t r = 0; r < spikes.rows; ++r) {
    const std::uint64_t* const image = spikes.words + r * sizes.in_words;
    const float* const from = grad_outputs + r * sizes.out_features;
    float* const to = grad_inputs + r * sizes.in_features;
    std::memset(to, 0, static_cast<std::size_t>(sizes.in_features) * sizeof(float));
    for_each_run(sizes, [&](std::int64_t oh, std::int64_t ow, std::int64_t c, std::int64_t place) {
      const Run run(geometry, sizes, image, oh, ow, c);
      pass_to_first_spike(run, from + place, to);
    });
  }
}

}  // namespace

extern const PoolingKernels pooling = {&count_pool, &max_pool, &average_pool_backward,
                                       &max_pool_backward};

}  // namespace h2learn::H2LEARN_TARGET
