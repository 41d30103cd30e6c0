// Pooling against sums and maxima of the unpacked spikes, on every target.
#include "h2learn/pooling.hpp"

#include "support.hpp"

namespace h2learn::test {
namespace {

constexpr std::int64_t rows = 3;

/// Adjacent, overlapping and spaced windows; borders that drop inputs; odd channel counts.
std::vector<PoolGeometry> geometries() {
  std::vector<PoolGeometry> all;
  for (std::int64_t channels : {1, 3, 16, 20, 63, 64, 65, 128, 200}) {
    all.push_back({channels, 4, 6, 2, 2, 2, 2});
    all.push_back({channels, 5, 7, 3, 3, 2, 2});
    all.push_back({channels, 4, 4, 3, 2, 1, 1});
    all.push_back({channels, 7, 5, 2, 2, 3, 3});
    all.push_back({channels, 6, 6, 5, 6, 1, 1});
    all.push_back({channels, 3, 3, 1, 1, 1, 1});
  }
  return all;
}

std::string describe(const PoolGeometry& g) {
  return (testing::Message() << g.channels << " channels of " << g.in_height << " x " << g.in_width
                             << ", kernel " << g.kernel_height << " x " << g.kernel_width
                             << ", stride " << g.stride_height << " x " << g.stride_width)
      .GetString();
}

/// Calls body(r, output, taps) for each window, taps in row-major order.
template <typename Body>
void for_each_window(const PoolGeometry& g, Body body) {
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t oh = 0; oh < g.out_height(); ++oh) {
      for (std::int64_t ow = 0; ow < g.out_width(); ++ow) {
        for (std::int64_t c = 0; c < g.channels; ++c) {
          std::vector<std::int64_t> taps;
          for (std::int64_t kh = 0; kh < g.kernel_height; ++kh) {
            for (std::int64_t kw = 0; kw < g.kernel_width; ++kw) {
              const std::int64_t ih = oh * g.stride_height + kh;
              const std::int64_t iw = ow * g.stride_width + kw;
              taps.push_back((ih * g.in_width + iw) * g.channels + c);
            }
          }
          body(r, (oh * g.out_width() + ow) * g.channels + c, taps);
        }
      }
    }
  }
}

TEST(Pooling, PlanesHoldACountOfTheWholeWindow) {
  EXPECT_EQ((PoolGeometry{1, 9, 9, 1, 1, 1, 1}).planes(), 1);
  EXPECT_EQ((PoolGeometry{1, 9, 9, 2, 2, 2, 2}).planes(), 3);
  EXPECT_EQ((PoolGeometry{1, 9, 9, 3, 3, 3, 3}).planes(), 4);
  EXPECT_EQ((PoolGeometry{1, 9, 9, 5, 3, 1, 1}).planes(), 4);
  EXPECT_EQ((PoolGeometry{1, 9, 9, 4, 4, 1, 1}).planes(), 5);
}

TEST(Pooling, CountPoolCountsEachWindow) {
  for (const PoolGeometry& g : geometries()) {
    SCOPED_TRACE(describe(g));
    for (double rate : {0.0, 0.3, 1.0}) {
      const Words spikes = random_words(rows, g.in_features(), rate, 1);
      on_each_target([&] {
        Words out(size(g.planes() * rows * words_for(g.out_features())), ~std::uint64_t{0});
        count_pool(g, {spikes.data(), 1, rows, g.in_features()}, out.data());
        Words expected(out.size());
        const std::int64_t row_words = words_for(g.out_features());
        for_each_window(g, [&](std::int64_t r, std::int64_t output, const auto& taps) {
          std::uint64_t count = 0;
          for (std::int64_t tap : taps) count += bit(spikes, r, g.in_features(), tap);
          for (std::int64_t p = 0; p < g.planes(); ++p) {
            expected[size((p * rows + r) * row_words + output / 64)] |= ((count >> p) & 1U)
                                                                        << (output % 64);
          }
        });
        EXPECT_EQ(out, expected);
      });
    }
  }
}

TEST(Pooling, MaxPoolIsTheOrOfEachWindow) {
  for (const PoolGeometry& g : geometries()) {
    SCOPED_TRACE(describe(g));
    for (double rate : {0.0, 0.1, 1.0}) {
      const Words spikes = random_words(rows, g.in_features(), rate, 2);
      on_each_target([&] {
        Words out(size(rows * words_for(g.out_features())), ~std::uint64_t{0});
        max_pool(g, {spikes.data(), 1, rows, g.in_features()}, out.data());
        Words expected(out.size());
        for_each_window(g, [&](std::int64_t r, std::int64_t output, const auto& taps) {
          bool any = false;
          for (std::int64_t tap : taps) any = any || bit(spikes, r, g.in_features(), tap);
          expected[size(r * words_for(g.out_features()) + output / 64)] |= std::uint64_t{any}
                                                                           << (output % 64);
        });
        EXPECT_EQ(out, expected);
      });
    }
  }
}

TEST(Pooling, AverageBackwardSharesEachGradientAmongItsWindow) {
  for (const PoolGeometry& g : geometries()) {
    SCOPED_TRACE(describe(g));
    const Floats grad = random_floats(rows * g.out_features(), -1.0F, 1.0F, 3);
    Floats expected(size(rows * g.in_features()));
    for_each_window(g, [&](std::int64_t r, std::int64_t output, const auto& taps) {
      const float share =
          grad[size(r * g.out_features() + output)] / static_cast<float>(taps.size());
      for (std::int64_t tap : taps) expected[size(r * g.in_features() + tap)] += share;
    });
    on_each_target([&] {
      Floats out(expected.size(), 7.0F);
      average_pool_backward(g, grad.data(), rows, out.data());
      EXPECT_EQ(bits_of(out), bits_of(expected));
    });
  }
}

TEST(Pooling, MaxBackwardGoesToTheFirstSpike) {
  for (const PoolGeometry& g : geometries()) {
    SCOPED_TRACE(describe(g));
    for (double rate : {0.0, 0.2, 1.0}) {
      const Words spikes = random_words(rows, g.in_features(), rate, 4);
      const Floats grad = random_floats(rows * g.out_features(), -1.0F, 1.0F, 5);
      Floats expected(size(rows * g.in_features()));
      for_each_window(g, [&](std::int64_t r, std::int64_t output, const auto& taps) {
        std::int64_t chosen = taps.front();
        for (auto tap = taps.rbegin(); tap != taps.rend(); ++tap) {
          if (bit(spikes, r, g.in_features(), *tap)) chosen = *tap;
        }
        expected[size(r * g.in_features() + chosen)] += grad[size(r * g.out_features() + output)];
      });
      on_each_target([&] {
        Floats out(expected.size(), 7.0F);
        max_pool_backward(g, {spikes.data(), 1, rows, g.in_features()}, grad.data(), out.data());
        EXPECT_EQ(bits_of(out), bits_of(expected));
      });
    }
  }
}

TEST(Pooling, ManyImagesAreTheSameOnEveryTargetAndNumberOfThreads) {
  constexpr std::int64_t images = 40;
  for (std::int64_t channels : {24, 64}) {
    const PoolGeometry g{channels, 13, 11, 3, 3, 2, 2};
    const Words spikes = random_words(images, g.in_features(), 0.2, 6);
    const Floats grad = random_floats(images * g.out_features(), -1.0F, 1.0F, 7);
    const PackedView view{spikes.data(), 1, images, g.in_features()};
    expect_same_everywhere([&] {
      Words out(size(g.planes() * images * words_for(g.out_features())));
      count_pool(g, view, out.data());
      return out;
    });
    expect_same_everywhere([&] {
      Words out(size(images * words_for(g.out_features())));
      max_pool(g, view, out.data());
      return out;
    });
    expect_same_everywhere([&] {
      Floats out(size(images * g.in_features()));
      average_pool_backward(g, grad.data(), images, out.data());
      return bits_of(out);
    });
    expect_same_everywhere([&] {
      Floats out(size(images * g.in_features()));
      max_pool_backward(g, view, grad.data(), out.data());
      return bits_of(out);
    });
  }
}

TEST(Pooling, BadInputIsRefused) {
  const PoolGeometry good{4, 4, 4, 2, 2, 2, 2};
  const auto with = [&](std::int64_t PoolGeometry::*field, std::int64_t value) {
    PoolGeometry bad = good;
    bad.*field = value;
    return message_of([&] { bad.validate(); });
  };
  EXPECT_NE(with(&PoolGeometry::channels, 0).find("channels"), std::string::npos);
  EXPECT_NE(with(&PoolGeometry::in_height, -1).find("in_height"), std::string::npos);
  EXPECT_NE(with(&PoolGeometry::kernel_height, 5).find("kernel_height must be between 1 and 4"),
            std::string::npos);
  EXPECT_NE(with(&PoolGeometry::kernel_width, 0).find("kernel_width"), std::string::npos);
  EXPECT_NE(with(&PoolGeometry::stride_width, 0).find("stride_width"), std::string::npos);
  EXPECT_NE(with(&PoolGeometry::channels, std::int64_t{1} << 40).find("channels"),
            std::string::npos);

  const Words spikes(4);
  Words out(4);
  expect_refused([&] { count_pool(good, {spikes.data(), 2, 1, 64}, out.data()); },
                 {"spikes", "one plane", "2"});
  expect_refused([&] { max_pool(good, {spikes.data(), 1, 1, 65}, out.data()); },
                 {"spikes", "64", "65"});
  float value = 0.0F;
  expect_refused([&] { average_pool_backward(good, &value, -1, &value); }, {"rows", "-1"});
}

}  // namespace
}  // namespace h2learn::test
