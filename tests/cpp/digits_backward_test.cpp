// Input gradients by digits: which calls are computed so, the scalar reference against its
// definition, and every target against the reference bit by bit on every shape of layer.
#include <cmath>
#include <limits>

#include "h2learn/backward.hpp"
#include "h2learn/digits.hpp"
#include "synapse_support.hpp"

namespace h2learn::test {
namespace {

constexpr float unset = -777;

Floats run(const Layer& layer, const Floats& gradients, const Floats& weight,
           const Words& mask = {}, Kernel kernel = Kernel::digits) {
  Floats found(size(layer.images * layer.geometry.in_features()), unset);
  backward(layer.geometry, gradients.data(), layer.images, weight.data(),
           mask.empty() ? nullptr : mask.data(), found.data(), kernel);
  return found;
}

bool has_digits(const Layer& layer, const Floats& gradients, const Floats& weight) {
  return backward_has_digits(layer.geometry, gradients.data(), layer.images, weight.data());
}

/// None is so small that a row of few would have too heavy tails.
Floats gradients_of(const Layer& layer, unsigned seed) {
  Floats values = sparse_floats(layer.images * layer.geometry.out_features(), 0.5, seed);
  for (float& value : values) value += value == 0 ? 0 : std::copysign(0.125F, value);
  return values;
}

Floats weights_of(const Layer& layer, unsigned seed) {
  return random_floats(layer.geometry.weights(), -1, 1, seed);
}

bool is_computed(const Geometry& geometry) {
  const bool depthwise = geometry.groups > 1 && geometry.channels_per_group() == 1;
  return geometry.stride_height == 1 && geometry.stride_width == 1 && !depthwise;
}

/// Every layer that may be, and some whose channels fill tiles of AMX.
std::vector<Layer> computed_layers() {
  std::vector<Layer> found = {
      {"one slab, sixteen images", {20, 5, 7, 64, 3, 3, 1, 1, 1, 1}, 35},
      {"slabs, the last in part", {17, 6, 5, 150, 3, 3, 1, 1, 1, 1}, 3},
      {"slabs, one image", {16, 9, 18, 96, 3, 3, 1, 1, 1, 1}, 1},
      {"slabs, dilation", {9, 12, 11, 70, 3, 2, 1, 1, 2, 1, 2, 3}, 5},
      {"slabs, padding beyond the kernel", {5, 4, 6, 64, 2, 2, 1, 1, 3, 4}, 17},
      {"slabs, no padding", {33, 8, 7, 128, 5, 3}, 9},
      {"slabs, groups", {40, 4, 4, 128, 3, 3, 1, 1, 1, 1, 1, 1, 2}, 6},
      {"slabs, one tap", {70, 3, 5, 80}, 7},
      {"runs, tiles", {18, 6, 7, 16, 3, 3, 1, 1, 1, 1}, 3},
      {"runs, groups, tiles", {18, 6, 7, 32, 3, 3, 1, 1, 1, 1, 1, 1, 2}, 3},
      {"rows of an image in several tasks", {3, 48, 40, 256, 3, 3, 1, 1, 1, 1}, 1},
      {"few positions, several blocks of images", {19, 2, 3, 128, 3, 3, 1, 1, 1, 1}, 75},
      {"wide linear, many images", {40, 1, 1, 300}, 70},
  };
  for (const Layer& layer : layers()) {
    if (is_computed(layer.geometry)) found.push_back(layer);
  }
  return found;
}

template <typename Body>
void for_each_layer(Body body) {
  for (const Layer& layer : computed_layers()) {
    SCOPED_TRACE(layer.name);
    body(layer);
    if (testing::Test::HasFailure()) return;
  }
}

TEST(DigitsBackward, ReferenceMatchesTheDefinition) {
  const ForcedTarget forced(Target::scalar);
  for_each_layer([](const Layer& layer) {
    const Floats gradients = gradients_of(layer, 1);
    const Floats weight = weights_of(layer, 2);
    ASSERT_TRUE(has_digits(layer, gradients, weight));
    const Doubles exact = exact_backward(layer.geometry, gradients, layer.images, weight);
    EXPECT_LT(relative_error(run(layer, gradients, weight), exact), 7e-8);
  });
}

TEST(DigitsBackward, GradientsAreTheSameBitsEverywhere) {
  for_each_layer([](const Layer& layer) {
    const Floats gradients = gradients_of(layer, 3);
    const Floats weight = weights_of(layer, 4);
    ASSERT_TRUE(has_digits(layer, gradients, weight));
    const Words mask = random_words(layer.images, layer.geometry.in_features(), 0.4, 5);
    expect_same_everywhere([&] { return bits_of(run(layer, gradients, weight)); });
    expect_same_everywhere([&] { return bits_of(run(layer, gradients, weight, mask)); });
  });
}

TEST(DigitsBackward, WithoutABitInTheMaskThereIsZero) {
  for_each_layer([](const Layer& layer) {
    const Floats gradients = gradients_of(layer, 6);
    const Floats weight = weights_of(layer, 7);
    const std::int64_t features = layer.geometry.in_features();
    // So few that `auto` would sample: digits compute all the same.
    const Words mask = random_words(layer.images, features, 0.05, 8);
    on_each_target(
        [&] {
          const Floats all = run(layer, gradients, weight);
          Floats expected = all;
          for (std::int64_t i = 0; i < layer.images * features; ++i) {
            if (!bit(mask, i / features, features, i % features)) expected[size(i)] = 0;
          }
          EXPECT_EQ(bits_of(run(layer, gradients, weight, mask)), bits_of(expected));
        },
        Target::baseline);
  });
}

TEST(DigitsBackward, EveryDigitAtItsLimitAddsUp) {
  // As many terms as there may be, digits of 127 or -128 and one sign: what saturates or overflows
  // where something is too narrow. The first terms set the power of two.
  const std::int64_t terms = backward_terms_limit - 1;
  const Layer layer = {"", {17, 1, 1, terms}, 18};
  for (float gradient : {0x7f7f7fp8F, -0x808080p0F}) {
    for (float value : {0x7f7f7fp8F, -0x808080p0F, 0x7f7f7fp0F}) {
      SCOPED_TRACE(gradient);
      SCOPED_TRACE(value);
      Floats gradients(size(layer.images * terms), gradient);
      Floats weight(size(layer.geometry.weights()), value);
      for (std::int64_t i = 0; i < layer.images; ++i) gradients[size(i * terms)] = 0x7f7f7fp8F;
      for (std::int64_t c = 0; c < 17; ++c) weight[size(c)] = 0x7f7f7fp8F;
      // Where all numbers but the first are small on both sides, what is left out would add up.
      const bool small = std::abs(gradient) < 0x1p30F && std::abs(value) < 0x1p30F;
      ASSERT_EQ(has_digits(layer, gradients, weight), !small);
      if (small) continue;
      expect_same_everywhere([&] { return bits_of(run(layer, gradients, weight)); });
    }
  }
}

TEST(DigitsBackward, WholeNumbersAndPowersOfTwoLoseNothing) {
  const Layer layer = {"", {6, 3, 4, 70, 3, 3, 1, 1, 1, 1}, 5};
  for (int power : {-100, -60, 0, 60, 100}) {
    SCOPED_TRACE(power);
    Floats gradients = random_floats(layer.images * layer.geometry.out_features(), -9, 9, 9);
    Floats weight = random_floats(layer.geometry.weights(), -9, 9, 10);
    for (float& value : gradients) value = std::ldexp(std::round(value), power);
    for (float& value : weight) value = std::ldexp(std::round(value), -power / 2);
    // One image and one channel of zeros.
    const std::int64_t features = layer.geometry.out_features();
    std::fill_n(gradients.begin() + features, features, 0.0F);
    for (std::size_t i = 0; i < weight.size(); ++i) weight[i] = i / 9 % 6 == 2 ? 0 : weight[i];
    const Doubles exact = exact_backward(layer.geometry, gradients, layer.images, weight);
    on_each_target([&] { EXPECT_EQ(relative_error(run(layer, gradients, weight), exact), 0); });
  }
}

TEST(DigitsBackward, TheyFollowFromTheNumbers) {
  const Layer layer = {"", {12, 6, 6, 64, 3, 3, 1, 1, 1, 1}, 4};
  const Floats gradients = gradients_of(layer, 11);
  const Floats weight = weights_of(layer, 12);
  on_each_target([&] {
    EXPECT_TRUE(has_digits(layer, gradients, weight));
    for (int power : {-80, 80}) {
      Floats scaled = gradients;
      for (float& value : scaled) value = std::ldexp(value, power);
      EXPECT_TRUE(has_digits(layer, scaled, weight));
    }
    Floats outlier = gradients;
    outlier[size(2 * layer.geometry.out_features() + 7)] = 1e4F;
    EXPECT_FALSE(has_digits(layer, outlier, weight));
    Floats heavy = weight;
    heavy[100] = 1e4F;
    EXPECT_FALSE(has_digits(layer, gradients, heavy));
    // Neither outlier is too much, but both are.
    const Floats equal(gradients.size(), 0.9F);
    const Floats equal_weight(weight.size(), -0.9F);
    Floats some = equal;
    some[17] = 200;
    Floats others = equal_weight;
    others[100] = 200;
    EXPECT_TRUE(has_digits(layer, some, equal_weight));
    EXPECT_TRUE(has_digits(layer, equal, others));
    EXPECT_FALSE(has_digits(layer, some, others));
  });
}

TEST(DigitsBackward, AllElseRunsAsAutoDoes) {
  const Layer layer = {"", {12, 6, 6, 64, 3, 3, 1, 1, 1, 1}, 4};
  const Layer strides = {"", {12, 6, 6, 64, 3, 3, 1, 2, 1, 1}, 4};
  const Layer depthwise = {"", {12, 6, 6, 24, 3, 3, 1, 1, 1, 1, 1, 1, 12}, 4};
  const Layer many = {"", {3, 1, 1, backward_terms_limit}, 2};
  const auto expect_auto = [](const Layer& of, const Floats& gradients, const Floats& weight) {
    const Words mask = random_words(of.images, of.geometry.in_features(), 0.3, 13);
    on_each_target([&] {
      EXPECT_FALSE(has_digits(of, gradients, weight));
      EXPECT_EQ(bits_of(run(of, gradients, weight, mask)),
                bits_of(run(of, gradients, weight, mask, Kernel::automatic)));
    });
  };
  expect_auto(strides, gradients_of(strides, 14), weights_of(strides, 15));
  expect_auto(depthwise, gradients_of(depthwise, 23), weights_of(depthwise, 24));
  expect_auto(many, gradients_of(many, 16), weights_of(many, 17));
  Floats outlier = gradients_of(layer, 18);
  outlier[5] = -1e5F;
  expect_auto(layer, outlier, weights_of(layer, 19));
  outlier[5] = std::numeric_limits<float>::quiet_NaN();
  on_each_target([&] { EXPECT_FALSE(has_digits(layer, outlier, weights_of(layer, 19))); });
}

TEST(DigitsBackward, NoImagesGiveNoGradients) {
  const Layer layer = {"", {3, 5, 5, 4, 3, 3}, 0};
  on_each_target([&] { EXPECT_TRUE(run(layer, {}, weights_of(layer, 20)).empty()); });
}

TEST(DigitsBackward, BadWeightsAreNamedBeforeAnythingIsWritten) {
  const Layer layer = {"", {3, 6, 7, 5, 3, 3}, 2};
  const Floats gradients = gradients_of(layer, 21);
  for (float bad : {std::numeric_limits<float>::quiet_NaN(), -INFINITY}) {
    Floats weight = weights_of(layer, 22);
    weight[7] = bad;
    Floats found(size(layer.images * layer.geometry.in_features()), unset);
    on_each_target([&] {
      expect_refused(
          [&] {
            backward(layer.geometry, gradients.data(), layer.images, weight.data(), nullptr,
                     found.data(), Kernel::digits);
          },
          {"weight", std::isnan(bad) ? "nan" : "-inf", "flat index 7"});
      for (float value : found) ASSERT_EQ(value, unset);
    });
    expect_refused([&] { has_digits(layer, gradients, weight); }, {"weight", "flat index 7"});
  }
}

}  // namespace
}  // namespace h2learn::test
