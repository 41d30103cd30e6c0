// Which inputs reach which outputs, against the definition of a convolution.
#include "h2learn/geometry.hpp"

#include <algorithm>
#include <array>
#include <utility>

#include "support.hpp"

namespace h2learn::test {
namespace {

/// Six channels to four in two groups, square kernels.
Geometry geometry(std::int64_t height, std::int64_t width, std::int64_t kernel, std::int64_t stride,
                  std::int64_t padding, std::int64_t dilation) {
  Geometry g;
  g.in_channels = 6;
  g.in_height = height;
  g.in_width = width;
  g.out_channels = 4;
  g.kernel_height = kernel;
  g.kernel_width = kernel;
  g.stride_height = stride;
  g.stride_width = stride;
  g.padding_height = padding;
  g.padding_width = padding;
  g.dilation_height = dilation;
  g.dilation_width = dilation;
  g.groups = 2;
  return g;
}

std::vector<Geometry> geometries() {
  return {geometry(5, 5, 3, 1, 0, 1), geometry(5, 6, 3, 1, 1, 1), geometry(7, 8, 3, 2, 1, 1),
          geometry(9, 7, 3, 1, 2, 2), geometry(8, 8, 2, 2, 0, 1), geometry(4, 4, 5, 1, 2, 1),
          geometry(6, 5, 1, 3, 0, 1)};
}

TEST(Geometry, SizesAreTorchs) {
  // torch.nn.Conv2d(6, 4, 3, stride=2, padding=1, groups=2) on 6 x 7 x 8
  const Geometry g = geometry(7, 8, 3, 2, 1, 1);
  EXPECT_EQ(g.out_height(), 4);
  EXPECT_EQ(g.out_width(), 4);
  EXPECT_EQ(g.fan_in(), 27);
  EXPECT_EQ(g.weights(), 4 * 27);
  EXPECT_EQ(g.in_features(), 6 * 7 * 8);
  EXPECT_EQ(g.out_features(), 4 * 4 * 4);
  // torch.nn.Conv2d(6, 4, 3, padding=2, dilation=2, groups=2) on 6 x 9 x 7
  EXPECT_EQ(geometry(9, 7, 3, 1, 2, 2).out_height(), 9);
  EXPECT_EQ(geometry(9, 7, 3, 1, 2, 2).out_width(), 7);
}

TEST(Geometry, TheDefaultIsALinearLayer) {
  Geometry g;
  g.in_channels = 784;
  g.out_channels = 10;
  g.validate();
  EXPECT_EQ(g.fan_in(), 784);
  EXPECT_EQ(g.out_positions(), 1);
  EXPECT_EQ(g.input_of_output(), std::vector<std::int32_t>{0});
  EXPECT_EQ(g.output_of_input(), std::vector<std::int32_t>{0});
}

TEST(Geometry, InputOfOutputFollowsTheDefinition) {
  for (const Geometry& g : geometries()) {
    g.validate();
    const std::vector<std::int32_t> index = g.input_of_output();
    ASSERT_EQ(index.size(), size(g.out_positions() * g.taps()));
    for (std::int64_t o = 0; o < g.out_positions(); ++o) {
      for (std::int64_t tap = 0; tap < g.taps(); ++tap) {
        const std::int64_t ih = o / g.out_width() * g.stride_height - g.padding_height +
                                tap / g.kernel_width * g.dilation_height;
        const std::int64_t iw = o % g.out_width() * g.stride_width - g.padding_width +
                                tap % g.kernel_width * g.dilation_width;
        const bool inside = ih >= 0 && ih < g.in_height && iw >= 0 && iw < g.in_width;
        EXPECT_EQ(index[size(o * g.taps() + tap)], inside ? ih * g.in_width + iw : -1);
      }
    }
  }
}

/// (input, tap, output) of every connection that an index lists.
using Connections = std::vector<std::array<std::int64_t, 3>>;

TEST(Geometry, OutputOfInputIsTheSameConnectionsFromTheOtherSide) {
  for (const Geometry& g : geometries()) {
    Connections forward;
    Connections backward;
    const std::vector<std::int32_t> input = g.input_of_output();
    const std::vector<std::int32_t> output = g.output_of_input();
    ASSERT_EQ(output.size(), size(g.in_positions() * g.taps()));
    for (std::int64_t i = 0; i < std::ssize(input); ++i) {
      if (input[size(i)] >= 0) forward.push_back({input[size(i)], i % g.taps(), i / g.taps()});
    }
    for (std::int64_t i = 0; i < std::ssize(output); ++i) {
      if (output[size(i)] >= 0) backward.push_back({i / g.taps(), i % g.taps(), output[size(i)]});
    }
    std::sort(forward.begin(), forward.end());
    std::sort(backward.begin(), backward.end());
    EXPECT_EQ(forward, backward);
  }
}

TEST(Geometry, ImpossibleShapesAreRefused) {
  const Geometry good = geometry(5, 5, 3, 1, 0, 1);
  const std::vector<std::pair<std::int64_t Geometry::*, std::string>> fields = {
      {&Geometry::in_channels, "in_channels"},
      {&Geometry::in_height, "in_height"},
      {&Geometry::in_width, "in_width"},
      {&Geometry::out_channels, "out_channels"},
      {&Geometry::kernel_height, "kernel_height"},
      {&Geometry::kernel_width, "kernel_width"},
      {&Geometry::stride_height, "stride_height"},
      {&Geometry::stride_width, "stride_width"},
      {&Geometry::dilation_height, "dilation_height"},
      {&Geometry::dilation_width, "dilation_width"},
      {&Geometry::groups, "groups"}};
  for (const auto& [field, name] : fields) {
    Geometry bad = good;
    bad.*field = 0;
    expect_refused([&bad = bad] { bad.validate(); }, {name, "at least 1", "got 0"});
  }
  Geometry bad = good;
  bad.padding_width = -1;
  expect_refused([&] { bad.validate(); }, {"padding_width", "at least 0", "got -1"});
  bad = good;
  bad.groups = 4;
  expect_refused([&] { bad.validate(); }, {"in_channels", "multiple of groups (4)", "got 6"});
  bad = geometry(5, 5, 3, 1, 0, 3);
  expect_refused([&] { bad.validate(); }, {"kernel of 3 x 3", "must fit", "5 x 5"});
}

TEST(Geometry, SizesWhoseProductsWouldOverflowAreRefused) {
  const std::int64_t huge = std::int64_t{1} << 32;
  for (auto field : {&Geometry::in_height, &Geometry::padding_width, &Geometry::dilation_height,
                     &Geometry::stride_width, &Geometry::in_channels}) {
    Geometry bad = geometry(5, 5, 3, 1, 0, 1);
    bad.*field = huge;
    expect_refused([&] { bad.validate(); }, {"at most 2147483647", "got 4294967296"});
  }
  Geometry bad = geometry(5, 5, 1, 1, 0, 1);
  bad.in_height = bad.in_width = std::int64_t{1} << 30;
  expect_refused([&] { bad.validate(); }, {"fewer than 2^31"});
  bad = {};
  bad.padding_height = bad.padding_width = (std::int64_t{1} << 31) - 1;  // 2^64 output positions
  expect_refused([&] { bad.validate(); }, {"fewer than 2^31"});
  bad = {1, 3, 3, std::int64_t{1} << 29, 3, 3};
  expect_refused([&] { bad.validate(); }, {"weights per input"});
  bad = geometry(5, 5, 3, 1, 0, 1);
  bad.padding_width = bad.stride_width = std::int64_t{1} << 29;
  expect_refused([&] { bad.validate(); }, {"one window", "3 rows", "5 columns", "536870912"});
}

TEST(Geometry, AnIndexBeyond32BitsIsRefusedBeforeItsMemoryIsTaken) {
  const Geometry large = {1, 40000, 40000, 1, 3, 3};
  large.validate();
  expect_refused([&] { large.input_of_output(); }, {"below 2^31", "1599840004 times 9"});
  expect_refused([&] { large.output_of_input(); }, {"below 2^31", "1600000000 times 9"});
}

}  // namespace
}  // namespace h2learn::test
