// Currents by digits: the choice of digits, the scalar reference against its definition, and every
// target against the reference bit by bit, on every shape of layer.
#include "h2learn/digits.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "digits.hpp"
#include "digits_plan.hpp"
#include "digits_update.hpp"
#include "h2learn/backward.hpp"
#include "h2learn/forward.hpp"
#include "h2learn/weight_update.hpp"
#include "synapse_support.hpp"

namespace h2learn::test {
namespace {

constexpr float unset = -777;

Floats run_digits(const Layer& layer, const Spikes& spikes, float scale, const Floats& weight,
                  const Floats& bias = {}) {
  Floats currents(size(layer.images * layer.geometry.out_features()), unset);
  forward(layer.geometry, spikes.view(), scale, weight.data(), bias.empty() ? nullptr : bias.data(),
          currents.data(), Kernel::digits);
  return currents;
}

/// Exponents, whatever the threshold says.
Quantization forced_digits(const Geometry& geometry, const Floats& weight) {
  Quantization numbers;
  numbers.applies = true;
  for (std::int64_t n = 0; n < geometry.out_channels; ++n) {
    float largest = 0;
    for (std::int64_t i = 0; i < geometry.fan_in(); ++i) {
      largest = std::max(largest, std::abs(weight[size(n * geometry.fan_in() + i)]));
    }
    numbers.exponents.push_back(largest == 0 ? 0
                                             : exponent_of(std::bit_cast<std::int32_t>(largest)));
  }
  return numbers;
}

Floats run_forced(const Layer& layer, const Spikes& spikes, float scale, const Floats& weight,
                  const Floats& bias) {
  Floats currents(size(layer.images * layer.geometry.out_features()), unset);
  DigitsForward product(layer.geometry, scale, weight.data(), bias.empty() ? nullptr : bias.data(),
                        forced_digits(layer.geometry, weight));
  product.compute(spikes.view(), currents.data());
  return currents;
}

Floats run_kernel(const Layer& layer, const Spikes& spikes, const Floats& weight, Kernel kernel) {
  Floats currents(size(layer.images * layer.geometry.out_features()), unset);
  forward(layer.geometry, spikes.view(), 0.5F, weight.data(), nullptr, currents.data(), kernel);
  return currents;
}

// ---- Numbers

TEST(Digits, TheExponentIsTheLargestThatFits) {
  const Floats magnitudes = {1.0F,
                             0.75F,
                             std::nextafter(2.0F, 0.0F),
                             1.9921875F,
                             1e-20F,
                             std::numeric_limits<float>::denorm_min(),
                             std::numeric_limits<float>::min(),
                             std::numeric_limits<float>::max(),
                             127.0F,
                             0x7f7f7fp0F,
                             0x7f7f80p0F,
                             0x7f7f7e8p4F};
  const auto limit = static_cast<double>(largest_number);
  for (float magnitude : magnitudes) {
    SCOPED_TRACE(magnitude);
    const int exponent = exponent_of(std::bit_cast<std::int32_t>(magnitude));
    EXPECT_LE(std::ldexp(static_cast<double>(magnitude), exponent), limit);
    EXPECT_GT(std::ldexp(static_cast<double>(magnitude), exponent + 1), limit);
  }
  EXPECT_EQ(exponent_of(std::bit_cast<std::int32_t>(0x7f7f7fp8F)), 0);
  EXPECT_EQ(exponent_of(std::bit_cast<std::int32_t>(0x7f7f80p8F)), -1);
}

TEST(Digits, TheyFollowFromTheWeights) {
  const Geometry geometry = {3000, 1, 1, 8};
  Floats weight = random_floats(geometry.weights(), -1, 1, 2);
  for (int power : {-100, -20, 0, 30, 100}) {
    SCOPED_TRACE(power);
    Floats scaled = weight;
    for (float& value : scaled) value = std::ldexp(value, power);
    EXPECT_TRUE(forward_has_digits(geometry, scaled.data()));
    scaled[2999] *= 1000;  // an outlier in one column
    EXPECT_FALSE(forward_has_digits(geometry, scaled.data()));
  }
  // Zeros take no part: a sparse column is as good as a short one.
  for (std::size_t i = 0; i < weight.size(); ++i) weight[i] = i % 10 == 0 ? weight[i] : 0;
  EXPECT_TRUE(forward_has_digits(geometry, weight.data()));
  EXPECT_TRUE(forward_has_digits(geometry, Floats(weight.size(), 0.0F).data()));
}

TEST(Digits, ManyPlanesAndInputsAreLeftToTheFloatKernels) {
  const Geometry geometry = {300, 1, 1, 4};
  const Floats weight = random_floats(geometry.weights(), -1, 1, 6);
  for (std::int64_t planes = 1; planes <= 8; ++planes) {
    EXPECT_TRUE(forward_has_digits(geometry, weight.data(), planes)) << planes;
  }
  EXPECT_FALSE(forward_has_digits(geometry, weight.data(), 9));
  const Geometry large = {digits_sum_limit / 255 + 1, 1, 1, 1};
  const Floats many = random_floats(large.weights(), -1, 1, 7);
  EXPECT_FALSE(forward_has_digits(large, many.data(), 8));
  EXPECT_TRUE(forward_has_digits(large, many.data(), 7));
}

// ---- Currents

/// Runs body(layer, planes) for every layer and some numbers of planes.
template <typename Body>
void for_each_case(Body body) {
  for (const Layer& layer : layers()) {
    for (std::int64_t planes : {1, 3, 8}) {
      SCOPED_TRACE(layer.name + ", planes " + std::to_string(planes));
      body(layer, planes);
      if (testing::Test::HasFailure()) return;
    }
  }
}

TEST(Digits, ReferenceMatchesTheDefinition) {
  const ForcedTarget forced(Target::scalar);
  for_each_case([](const Layer& layer, std::int64_t planes) {
    const Spikes spikes(layer, planes, 0.3, 8);
    Floats scaled = spikes.counts;
    for (float& value : scaled) value *= 0.25F;
    const Floats weight = random_floats(layer.geometry.weights(), -1, 1, 9);
    const Floats bias = random_floats(layer.geometry.out_channels, -1, 1, 10);
    const Doubles exact = exact_forward(layer.geometry, scaled, layer.images, weight, bias);
    EXPECT_LT(relative_error(run_forced(layer, spikes, 0.25F, weight, bias), exact), 7e-8);
  });
}

TEST(Digits, CurrentsAreTheSameBitsEverywhere) {
  for_each_case([](const Layer& layer, std::int64_t planes) {
    const Spikes spikes(layer, planes, 0.4, 11);
    const Floats weight = random_floats(layer.geometry.weights(), -1, 1, 12);
    const Floats bias = random_floats(layer.geometry.out_channels, -1, 1, 13);
    expect_same_everywhere([&] { return bits_of(run_forced(layer, spikes, 0.3F, weight, bias)); });
    expect_same_everywhere([&] { return bits_of(run_digits(layer, spikes, 1, weight)); });
  });
}

TEST(Digits, EveryDigitAndValueAtItsLimitAddsUp) {
  // All terms of one sign at the largest and smallest digits, times the largest count: what
  // saturates or overflows where something is too narrow.
  const Layer layer = {"", {5000, 1, 1, 20}, 18};
  for (std::int64_t planes : {1, 7, 8}) {
    const Spikes spikes(layer, planes, 1, 14);
    for (float value : {0x7f7f7f7fp-31F, -0x7f7f7fp-24F, -0x808080p-24F, 0x7fp-8F, -0x80p-8F}) {
      SCOPED_TRACE(value);
      const Floats weight(size(layer.geometry.weights()), value);
      const Doubles exact = exact_forward(layer.geometry, spikes.counts, layer.images, weight, {});
      expect_same_everywhere([&] { return bits_of(run_forced(layer, spikes, 1, weight, {})); });
      EXPECT_LT(relative_error(run_forced(layer, spikes, 1, weight, {}), exact), 2e-7);
    }
  }
}

TEST(Digits, LargeCurrentsAreTheSameWhereverTheyAreWritten) {
  // More than 8 MiB, so that aligned ones go past the caches; tasks of several pairs of tiles and
  // an odd one.
  const Layer layer = {"", {20, 1, 1, 512}, 2 * 4100 + 7};
  const std::int64_t floats = layer.images * layer.geometry.out_features();
  const Spikes spikes(layer, 1, 0.3, 31);
  const Floats weight = random_floats(layer.geometry.weights(), -1, 1, 32);
  const Quantization numbers = forced_digits(layer.geometry, weight);
  constexpr std::int64_t line = 16;
  Floats memory(size(floats + 2 * line));
  auto* const aligned =
      reinterpret_cast<float*>((reinterpret_cast<std::uintptr_t>(memory.data()) + 63) / 64 * 64);
  expect_same_everywhere([&] {
    std::vector<std::uint32_t> found;
    for (float* currents : {aligned, aligned + 1}) {
      std::fill(memory.begin(), memory.end(), unset);
      DigitsForward(layer.geometry, 1, weight.data(), nullptr, numbers)
          .compute(spikes.view(), currents);
      EXPECT_EQ(currents[floats], unset);
      const auto bits = bits_of(Floats(currents, currents + floats));
      EXPECT_TRUE(found.empty() || found == bits);
      found = bits;
    }
    return found;
  });
}

TEST(Digits, SmallAndLargeWeightsKeepTheirValue) {
  const Layer layer = {"", {40, 1, 1, 6}, 5};
  const Spikes spikes(layer, 1, 0.5, 15);
  for (int power : {-149, -140, -126, 0, 120}) {
    SCOPED_TRACE(power);
    Floats weight = random_floats(layer.geometry.weights(), -8, 8, 16);
    for (float& value : weight) value = std::ldexp(std::round(value), power);
    for (std::int64_t i = 0; i < 40; ++i) weight[size(i)] = 0;  // and one column of zeros
    const Doubles exact = exact_forward(layer.geometry, spikes.counts, layer.images, weight, {});
    on_each_target(
        [&] { EXPECT_EQ(relative_error(run_digits(layer, spikes, 1, weight), exact), 0); });
  }
}

TEST(Digits, RoundingIsToTheNearestHalvesToEven) {
  // With the largest weight close to the limit e is 0, and smaller ones stand for themselves.
  const Layer layer = {"", {2, 1, 1, 1}, 1};
  Spikes second(layer, 1, 1, 18);
  second.words[0] = 2;  // only the second input
  const std::vector<std::pair<float, float>> rounded = {
      {0.5F, 0.0F}, {1.5F, 2.0F}, {2.5F, 2.0F}, {-0.5F, 0.0F}, {-1.5F, -2.0F}, {2.75F, 3.0F}};
  for (const auto& [value, expected] : rounded) {
    const Floats weight = {0x7f7f7fp8F, value};
    on_each_target(
        [&] { EXPECT_EQ(run_forced(layer, second, 1, weight, {})[0], expected) << value; });
  }
}

TEST(Digits, HeavyTailsAndManyPlanesRunAsAutoDoes) {
  const Layer layer = {"", {64, 5, 6, 18, 3, 3, 1, 1, 1, 1}, 3};
  Floats heavy = random_floats(layer.geometry.weights(), -1, 1, 19);
  heavy[77] = 1e6F;
  const Spikes spikes(layer, 1, 0.2, 20);
  const Spikes planes(layer, 9, 0.2, 21);
  const Floats weight = random_floats(layer.geometry.weights(), -1, 1, 22);
  on_each_target([&] {
    EXPECT_EQ(bits_of(run_kernel(layer, spikes, heavy, Kernel::digits)),
              bits_of(run_kernel(layer, spikes, heavy, Kernel::automatic)));
    EXPECT_EQ(bits_of(run_kernel(layer, planes, weight, Kernel::digits)),
              bits_of(run_kernel(layer, planes, weight, Kernel::automatic)));
  });
}

TEST(Digits, AllElseRunsAsAutoDoes) {
  const Layer layer = {"", {6, 7, 8, 9, 3, 3, 2, 2, 1, 1}, 3};
  const Geometry& geometry = layer.geometry;
  const Floats inputs = random_floats(layer.images * geometry.in_features(), -1, 1, 23);
  const Floats weight = random_floats(geometry.weights(), -1, 1, 24);
  const Floats gradients = random_floats(layer.images * geometry.out_features(), -1, 1, 25);
  on_each_target([&] {
    const auto all = [&](Kernel kernel) {
      Floats currents(size(layer.images * geometry.out_features()));
      Floats grad_inputs(inputs.size());
      Floats grad_weight(weight.size());
      forward(geometry, inputs.data(), layer.images, weight.data(), nullptr, currents.data(),
              kernel);
      backward(geometry, gradients.data(), layer.images, weight.data(), nullptr, grad_inputs.data(),
               kernel);
      weight_update(geometry, inputs.data(), layer.images, gradients.data(), grad_weight.data(),
                    kernel);
      return std::vector{bits_of(currents), bits_of(grad_inputs), bits_of(grad_weight)};
    };
    EXPECT_EQ(all(Kernel::digits), all(Kernel::automatic));
  });
}

// ---- Weight gradients

Floats run_update(const Layer& layer, const Spikes& spikes, float scale, const Floats& gradients) {
  Floats grad_weight(size(layer.geometry.weights()), unset);
  EXPECT_TRUE(weight_update_by_digits(layer.geometry, spikes.view(), scale, gradients.data(),
                                      grad_weight.data()));
  return grad_weight;
}

/// Calls body(layer, planes): every shape, and those that need several blocks of images or rows.
template <typename Body>
void for_each_update(Body body) {
  std::vector<Layer> all = layers();
  all.push_back({"an incomplete second stack", {5, 6, 7, 18, 3, 3, 1, 1, 1, 1}, 70});
  all.push_back({"bands of rows", {19, 20, 24, 6, 3, 3, 1, 1, 1, 1}, 66});
  all.push_back({"bands of rows, stride", {3, 31, 40, 17, 5, 3, 2, 3, 3, 2}, 3});
  all.push_back({"a wide row", {2, 3, 150, 4, 3, 3, 1, 1, 1, 1}, 2});
  all.push_back({"parts of the taps", {3, 12, 13, 20, 6, 5, 1, 1, 2, 2}, 5});
  for (const Layer& layer : all) {
    if (layer.geometry.groups > 1 && layer.geometry.channels_per_group() == 1) continue;
    for (std::int64_t planes : {1, 8}) {
      SCOPED_TRACE(layer.name + ", planes " + std::to_string(planes));
      body(layer, planes);
      if (testing::Test::HasFailure()) return;
    }
  }
}

TEST(Digits, WeightGradientsMatchTheDefinition) {
  const ForcedTarget forced(Target::scalar);
  for_each_update([](const Layer& layer, std::int64_t planes) {
    const Spikes spikes(layer, planes, 0.3, 31);
    const Floats gradients = sparse_floats(layer.images * layer.geometry.out_features(), 0.5, 32);
    const Doubles exact =
        exact_weight_update(layer.geometry, spikes.counts, layer.images, gradients);
    EXPECT_LT(relative_error(run_update(layer, spikes, 1, gradients), exact), 7e-8);
  });
}

TEST(Digits, WeightGradientsAreTheSameBitsEverywhere) {
  for_each_update([](const Layer& layer, std::int64_t planes) {
    const Spikes spikes(layer, planes, 0.3, 33);
    const Floats gradients = sparse_floats(layer.images * layer.geometry.out_features(), 0.5, 34);
    expect_same_everywhere([&] { return bits_of(run_update(layer, spikes, -0.3F, gradients)); });
  });
}

TEST(Digits, WeightGradientsOfAnySizeKeepTheirValue) {
  const Layer layer = {"", {20, 3, 4, 6, 2, 2}, 70};
  const Spikes spikes(layer, 8, 1, 35);
  // Whole numbers times a power of two have exact sums; the largest digits and counts besides.
  for (int power : {-149, -140, -126, -20, 0, 90}) {
    SCOPED_TRACE(power);
    Floats gradients = random_floats(layer.images * layer.geometry.out_features(), -8, 8, 36);
    for (float& value : gradients) value = std::ldexp(std::round(value), power);
    const Doubles exact =
        exact_weight_update(layer.geometry, spikes.counts, layer.images, gradients);
    on_each_target(
        [&] { EXPECT_LT(relative_error(run_update(layer, spikes, 1, gradients), exact), 4e-8); });
  }
  for (float value : {0x7f7f7f7fp-31F, -0x808080p-24F, 0x7fp-8F, -0x80p-8F}) {
    SCOPED_TRACE(value);
    const Floats gradients(size(layer.images * layer.geometry.out_features()), value);
    const Doubles exact =
        exact_weight_update(layer.geometry, spikes.counts, layer.images, gradients);
    expect_same_everywhere([&] { return bits_of(run_update(layer, spikes, 1, gradients)); });
    EXPECT_LT(relative_error(run_update(layer, spikes, 1, gradients), exact), 1e-7);
  }
}

TEST(Digits, GradientsThatDigitsCannotHoldRunAsAutoDoes) {
  const Layer layer = {"", {20, 5, 6, 9, 3, 3, 1, 1, 1, 1}, 70};
  const std::int64_t count = layer.images * layer.geometry.out_features();
  const Spikes spikes(layer, 1, 0.2, 37);
  const Spikes planes(layer, 9, 0.2, 38);
  const Floats good = random_floats(count, -1, 1, 39);
  const auto run = [&](const Spikes& inputs, const Floats& gradients, Kernel kernel) {
    Floats grad_weight(size(layer.geometry.weights()), unset);
    weight_update(layer.geometry, inputs.view(), 1, gradients.data(), grad_weight.data(), kernel);
    return bits_of(grad_weight);
  };
  on_each_target([&] {
    EXPECT_EQ(run(planes, good, Kernel::digits), run(planes, good, Kernel::automatic));
    // The last block's, when the others' sums are made already.
    for (float bad : {1e6F, INFINITY, std::numeric_limits<float>::quiet_NaN()}) {
      Floats gradients = good;
      gradients.back() = bad;
      EXPECT_EQ(run(spikes, gradients, Kernel::digits), run(spikes, gradients, Kernel::automatic));
      Floats untouched(size(layer.geometry.weights()), unset);
      EXPECT_FALSE(weight_update_by_digits(layer.geometry, spikes.view(), 1, gradients.data(),
                                           untouched.data()));
      EXPECT_EQ(untouched, Floats(untouched.size(), unset));
    }
  });
  // A digit's sum could leave 32 bits.
  const Geometry long_rows = {1, 1, 1100, 1};
  const Floats ones(1100, 1.0F);
  const Words bits(size(words_for(1100)), 0);
  Floats grad_weight(1);
  EXPECT_FALSE(weight_update_by_digits(long_rows, {bits.data(), 1, 1, 1100}, 1, ones.data(),
                                       grad_weight.data()));
}

TEST(Digits, NoImagesGiveNoCurrents) {
  const Layer layer = {"", {3, 5, 5, 4, 3, 3}, 0};
  const Spikes spikes(layer, 1, 0.5, 27);
  const Floats weight = random_floats(layer.geometry.weights(), -1, 1, 28);
  on_each_target([&] { EXPECT_TRUE(run_digits(layer, spikes, 1, weight).empty()); });
}

TEST(Digits, BadWeightsAreNamedBeforeAnythingIsWritten) {
  const Layer layer = {"", {3, 6, 7, 5, 3, 3}, 2};
  const Spikes spikes(layer, 1, 0.5, 29);
  Floats currents(size(layer.images * layer.geometry.out_features()), unset);
  for (float bad : {std::numeric_limits<float>::quiet_NaN(), -INFINITY}) {
    Floats weight = random_floats(layer.geometry.weights(), -1, 1, 30);
    weight[7] = bad;
    on_each_target([&] {
      expect_refused(
          [&] {
            forward(layer.geometry, spikes.view(), 1, weight.data(), nullptr, currents.data(),
                    Kernel::digits);
          },
          {"weight", std::isnan(bad) ? "nan" : "-inf", "flat index 7"});
      for (float value : currents) ASSERT_EQ(value, unset);
    });
    expect_refused([&] { forward_has_digits(layer.geometry, weight.data()); },
                   {"weight", "flat index 7"});
  }
  expect_refused([&] { forward_has_digits(layer.geometry, nullptr); }, {"weight", "null"});
}

}  // namespace
}  // namespace h2learn::test
