// The synapse's products: the scalar reference against their definition, every kernel on every
// target against the scalar reference bit by bit, and everything that must be refused.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "h2learn/backward.hpp"
#include "h2learn/forward.hpp"
#include "h2learn/weight_update.hpp"
#include "synapse_plan.hpp"
#include "synapse_support.hpp"

namespace h2learn::test {
namespace {

const std::vector<Kernel> kernels = {Kernel::automatic, Kernel::event, Kernel::dense, Kernel::lut};
const std::vector<double> densities = {0, 0.02, 0.2, 0.7, 1};
constexpr float unset = -777;

Floats weights_of(const Geometry& geometry, unsigned seed) {
  return random_floats(geometry.weights(), -1, 1, seed);
}

Floats run_forward(const Layer& layer, const Spikes& spikes, float scale, const Floats& weight,
                   const Floats& bias, Kernel kernel, LutShape lut = {}) {
  Floats currents(size(layer.images * layer.geometry.out_features()), unset);
  forward(layer.geometry, spikes.view(), scale, weight.data(), bias.empty() ? nullptr : bias.data(),
          currents.data(), kernel, lut);
  return currents;
}

Floats run_forward(const Layer& layer, const Floats& inputs, const Floats& weight,
                   const Floats& bias, Kernel kernel) {
  Floats currents(size(layer.images * layer.geometry.out_features()), unset);
  forward(layer.geometry, inputs.data(), layer.images, weight.data(),
          bias.empty() ? nullptr : bias.data(), currents.data(), kernel);
  return currents;
}

Floats run_backward(const Layer& layer, const Floats& gradients, const Floats& weight,
                    const Words& mask, Kernel kernel) {
  Floats grad_inputs(size(layer.images * layer.geometry.in_features()), unset);
  backward(layer.geometry, gradients.data(), layer.images, weight.data(),
           mask.empty() ? nullptr : mask.data(), grad_inputs.data(), kernel);
  return grad_inputs;
}

Floats run_weight_update(const Layer& layer, const Spikes& spikes, float scale,
                         const Floats& gradients, Kernel kernel, LutShape lut = {5, 32}) {
  Floats grad_weight(size(layer.geometry.weights()), unset);
  weight_update(layer.geometry, spikes.view(), scale, gradients.data(), grad_weight.data(), kernel,
                lut);
  return grad_weight;
}

Floats run_weight_update(const Layer& layer, const Floats& inputs, const Floats& gradients,
                         Kernel kernel) {
  Floats grad_weight(size(layer.geometry.weights()), unset);
  weight_update(layer.geometry, inputs.data(), layer.images, gradients.data(), grad_weight.data(),
                kernel);
  return grad_weight;
}

/// Like expect_same_everywhere for gradients that products of two floats add up to, which the
/// baseline rounds twice where the reference and the other targets round once.
template <typename Compute>
void expect_same_but_for_fma(Compute compute) {
  const Floats expected = [&] {
    const ForcedTarget forced(Target::scalar);
    return compute();
  }();
  const auto compare = [&] {
    const bool fused = active_target() != Target::baseline;
    const Floats one_thread = [&] {
      const Threads threads(1);
      return compute();
    }();
    const Threads threads(2);
    EXPECT_EQ(bits_of(compute()), bits_of(one_thread));
    if (fused) {
      EXPECT_EQ(bits_of(one_thread), bits_of(expected));
    } else {
      for (std::size_t i = 0; i < expected.size(); ++i) {
        ASSERT_NEAR(one_thread[i], expected[i], 1e-5F * (1 + std::abs(expected[i]))) << i;
      }
    }
  };
  on_each_target(compare, Target::baseline);
}

/// Runs body(layer, density) for every layer and density, saying which in failures.
template <typename Body>
void for_each_case(Body body) {
  for (const Layer& layer : layers()) {
    for (double density : densities) {
      SCOPED_TRACE(layer.name + ", density " + std::to_string(density));
      body(layer, density);
      if (testing::Test::HasFailure()) return;
    }
  }
}

/// Spikes of a linear layer: few where `place` (an image or an input, `per_image` says which) is
/// below 1280, nearly all in the next 256, more than few behind them.
Spikes uneven_spikes(const Layer& layer, bool per_image, unsigned seed) {
  Spikes spikes(layer, 1, 0.02, seed);
  const std::int64_t features = layer.geometry.in_features();
  const Floats many = random_binary(layer.images * features, 0.9, seed + 1);
  const Floats some = random_binary(layer.images * features, 0.3, seed + 2);
  for (std::int64_t i = 0; i < layer.images * features; ++i) {
    const std::int64_t place = per_image ? i / features : i % features;
    if (place >= 1280) spikes.counts[size(i)] = (place < 1536 ? many : some)[size(i)];
  }
  pack(spikes.counts.data(), layer.images, features, spikes.words.data());
  return spikes;
}

TEST(Synapse, ReferenceMatchesTheDefinition) {
  const ForcedTarget forced(Target::scalar);
  for_each_case([](const Layer& layer, double density) {
    const Geometry& geometry = layer.geometry;
    const Spikes spikes(layer, 3, density, 1);
    Floats scaled = spikes.counts;
    for (float& value : scaled) value *= 0.25F;
    const Floats weight = weights_of(geometry, 2);
    const Floats bias = random_floats(geometry.out_channels, -1, 1, 3);
    const Floats gradients = sparse_floats(layer.images * geometry.out_features(), 0.5, 4);
    const Doubles currents = exact_forward(geometry, scaled, layer.images, weight, bias);
    const Doubles errors = exact_backward(geometry, gradients, layer.images, weight);
    const Doubles update = exact_weight_update(geometry, scaled, layer.images, gradients);
    for (Kernel kernel : {Kernel::dense, Kernel::lut}) {
      EXPECT_LT(relative_error(run_forward(layer, spikes, 0.25F, weight, bias, kernel), currents),
                1e-6);
      EXPECT_LT(relative_error(run_weight_update(layer, spikes, 0.25F, gradients, kernel), update),
                1e-6);
    }
    EXPECT_LT(relative_error(run_forward(layer, scaled, weight, bias, Kernel::dense), currents),
              1e-6);
    EXPECT_LT(relative_error(run_backward(layer, gradients, weight, {}, Kernel::dense), errors),
              1e-6);
    EXPECT_LT(relative_error(run_weight_update(layer, scaled, gradients, Kernel::dense), update),
              1e-6);
  });
}

TEST(Synapse, ForwardOfSpikesIsTheSameBitsEverywhere) {
  for_each_case([](const Layer& layer, double density) {
    const Spikes spikes(layer, 1, density, 5);
    const Floats weight = weights_of(layer.geometry, 6);
    const Floats bias = random_floats(layer.geometry.out_channels, -1, 1, 7);
    for (Kernel kernel : kernels) {
      expect_same_everywhere(
          [&] { return bits_of(run_forward(layer, spikes, 1, weight, bias, kernel)); });
    }
  });
}

TEST(Synapse, ForwardOfCountsIsTheSameBitsEverywhere) {
  for_each_case([](const Layer& layer, double density) {
    const Spikes spikes(layer, 3, density, 8);
    const Floats weight = weights_of(layer.geometry, 9);
    for (Kernel kernel : kernels) {
      expect_same_everywhere(
          [&] { return bits_of(run_forward(layer, spikes, 0.3F, weight, {}, kernel)); });
    }
  });
}

TEST(Synapse, ListsAreKeptForAllColumnsWithTheSameBitsEverywhere) {
  // More blocks than are kept at a time, denser ones between them, and several tasks of columns.
  const Layer layer = {"many blocks and columns", {2500, 1, 1, 530}, 230};
  const Spikes spikes = uneven_spikes(layer, false, 41);
  const Floats weight = weights_of(layer.geometry, 44);
  const Words mask = random_words(layer.images, layer.geometry.in_features(), 0.5, 45);
  const Layer many_positions = {"many blocks of positions", {300, 1, 1, 530}, 2600};
  const Spikes over_positions = uneven_spikes(many_positions, true, 46);
  const Floats gradients =
      random_floats(many_positions.images * many_positions.geometry.out_features(), -1, 1, 49);
  for (Kernel kernel : {Kernel::automatic, Kernel::event}) {
    expect_same_everywhere(
        [&] { return bits_of(run_forward(layer, spikes, 1, weight, {}, kernel)); });
    for (double density : {0.05, 0.9}) {  // 0.9: more entries than are kept
      const Floats sparse =
          sparse_floats(layer.images * layer.geometry.out_features(), density, 50);
      expect_same_but_for_fma([&] { return run_backward(layer, sparse, weight, mask, kernel); });
    }
    expect_same_everywhere([&] {
      return bits_of(run_weight_update(many_positions, over_positions, 1, gradients, kernel));
    });
  }
}

TEST(Synapse, FewSpikesOfLinearLayersAreWalkedThroughWithTheSameBitsEverywhere) {
  // Blocks and words that end early, vectors of columns of every number, more rows than a piece and
  // than a wave (of bits, of rows), and rows of all and of nothing.
  const std::vector<Layer> linear = {
      {"blocks", {1300, 1, 1, 150}, 300},
      {"one block", {70, 1, 1, 3}, 700},
      {"end of a block", {513, 1, 1, 25}, 40},
      {"one row", {256, 1, 1, 48}, 1},
      {"one input", {1, 1, 1, 40}, 9},
      {"two waves", {8192, 1, 1, 2}, 2100},
      {"two waves of few bits", {3, 1, 1, 2}, 17000},
  };
  for (const Layer& layer : linear) {
    SCOPED_TRACE(layer.name);
    const std::int64_t features = layer.geometry.in_features();
    Spikes spikes(layer, 1, 0.01, 51);
    for (std::int64_t i = 0; layer.images >= 9 && i < 3 * features; ++i) {
      spikes.counts[size(i)] = i < features ? 1 : 0;
    }
    pack(spikes.counts.data(), layer.images, features, spikes.words.data());
    const GatherPlan plan(layer.geometry, GatherPlan::Rows::windows);
    const auto choice = [&](Method method) {
      return detail::pick_synapse_kernels(active_target())
          .choose_product(plan.of_spikes(spikes.view()), layer.geometry.out_channels, method);
    };
    on_each_target(
        [&] {
          EXPECT_EQ(choice(Method::event), Choice::walk);
          EXPECT_EQ(choice(Method::by_density), Choice::walk);
          EXPECT_EQ(choice(Method::dense), Choice::gather);
        },
        Target::baseline);
    const Floats weight = weights_of(layer.geometry, 52);
    const Floats bias = random_floats(layer.geometry.out_channels, -1, 1, 53);
    for (Kernel kernel : {Kernel::automatic, Kernel::event}) {
      for (const Floats& added : {Floats(), bias}) {
        expect_same_everywhere(
            [&] { return bits_of(run_forward(layer, spikes, 0.7F, weight, added, kernel)); });
      }
    }
  }
}

TEST(Synapse, WalkingOverflowsWhereTheSumDoes) {
  constexpr float most = std::numeric_limits<float>::max();
  constexpr float infinity = std::numeric_limits<float>::infinity();
  // The second row is of spikes only, the third of one block's, others of few. (The density is
  // estimated from every third row, and the first is one of these.)
  const Layer layer = {"linear", {1300, 1, 1, 150}, 300};
  const std::int64_t features = layer.geometry.in_features();
  Spikes spikes(layer, 1, 0.01, 56);
  for (std::int64_t i = 0; i < 2 * features; ++i) {
    spikes.counts[size(features + i)] = i < features || i - features < sum_block ? 1 : 0;
  }
  pack(spikes.counts.data(), layer.images, features, spikes.words.data());
  const GatherPlan plan(layer.geometry, GatherPlan::Rows::windows);
  on_each_target(
      [&] {
        for (Method method : {Method::event, Method::by_density}) {
          EXPECT_EQ(detail::pick_synapse_kernels(active_target())
                        .choose_product(plan.of_spikes(spikes.view()), 150, method),
                    Choice::walk);
        }
      },
      Target::baseline);
  const auto sums_of = [&](const Floats& weight) {
    Floats sums;
    for (Kernel kernel : {Kernel::automatic, Kernel::event}) {
      expect_same_everywhere([&] {
        sums = run_forward(layer, spikes, 1, weight, {}, kernel);
        return bits_of(sums);
      });
    }
    return sums;
  };
  const auto all = [&](float value) { return Floats(size(layer.geometry.weights()), value); };
  const float edge = most / sum_block;
  Floats sums = sums_of(all(edge));
  EXPECT_EQ(sums[150], infinity);  // of finite blocks
  EXPECT_EQ(sums[300], most);      // of one
  sums = sums_of(all(-edge));
  EXPECT_EQ(sums[150], -infinity);
  EXPECT_EQ(sums[300], -most);
  for (float beyond : {std::nextafter(edge, infinity), 1.5F * edge}) {
    EXPECT_EQ(sums_of(all(beyond))[300], infinity);
  }
  Floats large = random_floats(layer.geometry.weights(), -1, 1, 57);
  for (float& value : large) value *= most / 2;
  sums = sums_of(large);
  EXPECT_GT(std::count(sums.begin(), sums.end(), infinity), 0);
  EXPECT_GT(std::count(sums.begin(), sums.end(), -infinity), 0);
  // Blocks of either sign that are infinite.
  for (std::int64_t i = 0; i < layer.geometry.weights(); ++i) {
    large[size(i)] = i % features < sum_block ? most / 2 : -most / 2;
  }
  sums = sums_of(large);
  EXPECT_TRUE(std::isnan(sums[150]));
  EXPECT_EQ(sums[300], infinity);
}

TEST(Synapse, WalkingRefusesWeightsThatAreNotFinite) {
  const Layer layer = {"linear", {700, 1, 1, 90}, 300};
  const Spikes spikes(layer, 1, 0.01, 55);
  const Floats weight = weights_of(layer.geometry, 56);
  const GatherPlan plan(layer.geometry, GatherPlan::Rows::windows);
  constexpr float infinity = std::numeric_limits<float>::infinity();
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  on_each_target(
      [&] {
        EXPECT_EQ(detail::pick_synapse_kernels(active_target())
                      .choose_product(plan.of_spikes(spikes.view()), 90, Method::event),
                  Choice::walk);
        for (float bad : {infinity, -infinity, nan, -nan}) {
          for (std::int64_t place : {std::int64_t{0}, std::int64_t{20000}, std::int64_t{62999}}) {
            Floats spoilt = weight;
            spoilt[size(place)] = bad;
            Floats currents(size(layer.images * layer.geometry.out_features()), unset);
            expect_refused(
                [&] {
                  forward(layer.geometry, spikes.view(), 1, spoilt.data(), nullptr, currents.data(),
                          Kernel::event);
                },
                {"weight", std::isnan(bad) ? "nan" : "inf", "flat index " + std::to_string(place)});
            EXPECT_EQ(currents, Floats(currents.size(), unset));
          }
        }
      },
      Target::baseline);
}

TEST(Synapse, EventsOfManyChannelsAreListedOnceForAllTaps) {
  const auto count = [] {
    int forward = 0;
    int backward = 0;
    const auto by_taps = [](const GatheredRows& rows, std::int64_t columns) {
      return detail::pick_synapse_kernels(active_target())
                 .choose_product(rows, columns, Method::event) == Choice::taps;
    };
    for (const Layer& layer : layers()) {
      const Geometry& geometry = layer.geometry;
      const Spikes spikes(layer, 1, 0.2, 1);
      const Floats gradients = sparse_floats(layer.images * geometry.out_features(), 0.2, 2);
      const GatherPlan windows(geometry, GatherPlan::Rows::windows);
      const GatherPlan readers(geometry, GatherPlan::Rows::readers);
      forward += by_taps(windows.of_spikes(spikes.view()), geometry.outputs_per_group());
      backward +=
          by_taps(readers.of_values(gradients.data(), layer.images), geometry.channels_per_group());
    }
    EXPECT_GE(forward, 4);  // of the lists in layers()
    EXPECT_GE(backward, 3);
  };
  on_each_target(count, Target::baseline);
}

TEST(Synapse, EventAndDenseForwardAreTheSameBits) {
  for_each_case([](const Layer& layer, double density) {
    const Spikes spikes(layer, 2, density, 10);
    const Floats weight = weights_of(layer.geometry, 11);
    on_each_target([&] {
      const auto by = [&](Kernel kernel) {
        return bits_of(run_forward(layer, spikes, 0.25F, weight, {}, kernel));
      };
      EXPECT_EQ(by(Kernel::event), by(Kernel::dense));
      EXPECT_EQ(by(Kernel::automatic), by(Kernel::dense));
    });
  });
}

TEST(Synapse, ForwardOfAnalogInputsIsTheSameBitsEverywhere) {
  for_each_case([](const Layer& layer, double density) {
    const Floats inputs = sparse_floats(layer.images * layer.geometry.in_features(), density, 12);
    const Floats weight = weights_of(layer.geometry, 13);
    const Floats bias = random_floats(layer.geometry.out_channels, -1, 1, 14);
    for (Kernel kernel : kernels) {
      expect_same_everywhere(
          [&] { return bits_of(run_forward(layer, inputs, weight, bias, kernel)); });
    }
  });
}

TEST(Synapse, BackwardAgreesEverywhere) {
  for_each_case([](const Layer& layer, double density) {
    const Geometry& geometry = layer.geometry;
    const Floats gradients = sparse_floats(layer.images * geometry.out_features(), density, 15);
    const Floats weight = weights_of(geometry, 16);
    const Words mask = random_words(layer.images, geometry.in_features(), 0.5, 17);
    for (Kernel kernel : kernels) {
      expect_same_but_for_fma([&] { return run_backward(layer, gradients, weight, {}, kernel); });
      expect_same_but_for_fma([&] { return run_backward(layer, gradients, weight, mask, kernel); });
    }
  });
}

TEST(Synapse, SampledBackwardAgreesEverywhere) {
  for_each_case([](const Layer& layer, double density) {
    const Geometry& geometry = layer.geometry;
    const Floats gradients = random_floats(layer.images * geometry.out_features(), -1, 1, 35);
    const Floats weight = weights_of(geometry, 36);
    const Words mask = random_words(layer.images, geometry.in_features(), density, 37);
    const auto by = [&](Kernel kernel) {
      return run_backward(layer, gradients, weight, mask, kernel);
    };
    expect_same_but_for_fma([&] { return by(Kernel::sampled); });
    const Floats dense = by(Kernel::dense);
    const Floats sampled = by(Kernel::sampled);
    for (std::int64_t i = 0; i < layer.images; ++i) {
      for (std::int64_t f = 0; f < geometry.in_features(); ++f) {
        const std::size_t at = size(i * geometry.in_features() + f);
        if (bit(mask, i, geometry.in_features(), f)) {
          ASSERT_NEAR(sampled[at], dense[at], 1e-5F * (1 + std::abs(dense[at])));
        } else {
          ASSERT_TRUE(sampled[at] == 0 && !std::signbit(sampled[at]));
        }
      }
    }
  });
}

TEST(Synapse, SampledBackwardOfWholeNumbersIsExact) {
  for (const Layer& layer : layers()) {
    SCOPED_TRACE(layer.name);
    const Geometry& geometry = layer.geometry;
    Floats weight = random_floats(geometry.weights(), -8, 8, 38);
    Floats gradients = random_floats(layer.images * geometry.out_features(), -8, 8, 39);
    for (float& value : weight) value = std::round(value);
    for (float& value : gradients) value = std::round(value);
    const Words everything = random_words(layer.images, geometry.in_features(), 1, 40);
    const Doubles errors = exact_backward(geometry, gradients, layer.images, weight);
    on_each_target([&] {
      EXPECT_EQ(relative_error(run_backward(layer, gradients, weight, everything, Kernel::sampled),
                               errors),
                0);
    });
  }
}

TEST(Synapse, AutomaticBackwardIsSampledWhereFewGradientsAreNeeded) {
  const Layer layer = {"", {192, 9, 10, 70, 3, 3, 1, 1, 1, 1}, 3};
  const Geometry& geometry = layer.geometry;
  const Floats weight = weights_of(geometry, 41);
  const Floats gradients = random_floats(layer.images * geometry.out_features(), -1, 1, 42);
  const Floats zeros = sparse_floats(layer.images * geometry.out_features(), 0.02, 43);
  const Words few = random_words(layer.images, geometry.in_features(), 0.2, 44);
  const Words many = random_words(layer.images, geometry.in_features(), 0.7, 45);
  on_each_target([&] {
    EXPECT_TRUE(needs_few(geometry, gradients.data(), layer.images, few.data()));
    EXPECT_FALSE(needs_few(geometry, gradients.data(), layer.images, many.data()));
    EXPECT_FALSE(needs_few(geometry, gradients.data(), layer.images, nullptr));
    EXPECT_FALSE(needs_few(geometry, zeros.data(), layer.images, few.data()));
    const auto by = [&](const Words& mask, Kernel kernel) {
      return bits_of(run_backward(layer, gradients, weight, mask, kernel));
    };
    EXPECT_EQ(by(few, Kernel::automatic), by(few, Kernel::sampled));
    EXPECT_EQ(by(many, Kernel::automatic), by(many, Kernel::dense));
    EXPECT_EQ(by({}, Kernel::sampled), by({}, Kernel::automatic));
    EXPECT_NE(by(few, Kernel::sampled), by(few, Kernel::dense));
  });
}

TEST(Synapse, BackwardIsPlusZeroExactlyWhereTheMaskIsZero) {
  for (const Layer& layer : layers()) {
    SCOPED_TRACE(layer.name);
    const Geometry& geometry = layer.geometry;
    const Floats gradients = random_floats(layer.images * geometry.out_features(), -1, 1, 18);
    const Floats weight = weights_of(geometry, 19);
    const Words mask = random_words(layer.images, geometry.in_features(), 0.4, 20);
    on_each_target([&] {
      const auto whole = bits_of(run_backward(layer, gradients, weight, {}, Kernel::dense));
      const auto masked = bits_of(run_backward(layer, gradients, weight, mask, Kernel::dense));
      for (std::int64_t i = 0; i < layer.images; ++i) {
        for (std::int64_t f = 0; f < geometry.in_features(); ++f) {
          const std::size_t at = size(i * geometry.in_features() + f);
          ASSERT_EQ(masked[at], bit(mask, i, geometry.in_features(), f) ? whole[at] : 0U);
        }
      }
    });
  }
}

TEST(Synapse, WeightUpdateOfSpikesIsTheSameBitsEverywhere) {
  for_each_case([](const Layer& layer, double density) {
    const Spikes spikes(layer, 1, density, 21);
    const Floats gradients = sparse_floats(layer.images * layer.geometry.out_features(), 0.7, 22);
    for (Kernel kernel : kernels) {
      expect_same_everywhere(
          [&] { return bits_of(run_weight_update(layer, spikes, 1, gradients, kernel)); });
    }
  });
}

TEST(Synapse, WeightUpdateInWavesOfStretchesIsTheSameBitsEverywhere) {
  // Gradients of one wave after the other are packed for several tasks, of either group.
  const Layer layer = {"waves", {132, 1, 1, 10, 1, 1, 1, 1, 0, 0, 1, 1, 2}, 8300};
  const Spikes spikes(layer, 1, 0.1, 15);
  const Floats gradients = random_floats(layer.images * layer.geometry.out_features(), -1, 1, 16);
  for (Kernel kernel : {Kernel::event, Kernel::dense}) {
    expect_same_everywhere(
        [&] { return bits_of(run_weight_update(layer, spikes, 1, gradients, kernel)); });
  }
}

TEST(Synapse, WeightUpdateOfCountsIsTheSameBitsEverywhere) {
  for_each_case([](const Layer& layer, double density) {
    const Spikes spikes(layer, 3, density, 23);
    const Floats gradients = sparse_floats(layer.images * layer.geometry.out_features(), 0.7, 24);
    for (Kernel kernel : kernels) {
      expect_same_everywhere(
          [&] { return bits_of(run_weight_update(layer, spikes, 0.3F, gradients, kernel)); });
    }
  });
}

TEST(Synapse, WeightUpdateOfAnalogInputsAgreesEverywhere) {
  for_each_case([](const Layer& layer, double density) {
    const Floats inputs = sparse_floats(layer.images * layer.geometry.in_features(), density, 25);
    const Floats gradients = random_floats(layer.images * layer.geometry.out_features(), -1, 1, 26);
    for (Kernel kernel : kernels) {
      expect_same_but_for_fma([&] { return run_weight_update(layer, inputs, gradients, kernel); });
    }
  });
}

TEST(Synapse, TableEnginesOfEveryShapeAreTheSameBitsEverywhere) {
  const Layer layer = {"", {19, 5, 6, 20, 3, 3, 1, 1, 1, 1}, 7};
  const Spikes spikes(layer, 2, 0.3, 27);
  const Floats weight = weights_of(layer.geometry, 28);
  const Floats gradients = random_floats(layer.images * layer.geometry.out_features(), -1, 1, 29);
  for (const LutShape& lut : std::vector<LutShape>{
           {1, 1}, {1, 1024}, {2, 3}, {3, 7}, {5, 32}, {6, 6}, {7, 100}, {12, 2}, {12, 1024}}) {
    SCOPED_TRACE(std::to_string(lut.inputs) + " x " + std::to_string(lut.rows));
    expect_same_everywhere(
        [&] { return bits_of(run_forward(layer, spikes, 0.5F, weight, {}, Kernel::lut, lut)); });
    expect_same_everywhere([&] {
      return bits_of(run_weight_update(layer, spikes, 0.5F, gradients, Kernel::lut, lut));
    });
  }
}

TEST(Synapse, WholeNumbersAreExactWhateverTheKernel) {
  for (const Layer& layer : layers()) {
    SCOPED_TRACE(layer.name);
    const Geometry& geometry = layer.geometry;
    const Spikes spikes(layer, 2, 0.3, 30);
    Floats weight = random_floats(geometry.weights(), -8, 8, 31);
    Floats gradients = random_floats(layer.images * geometry.out_features(), -8, 8, 32);
    for (float& value : weight) value = std::round(value);
    for (float& value : gradients) value = std::round(value);
    const Doubles currents = exact_forward(geometry, spikes.counts, layer.images, weight, {});
    const Doubles errors = exact_backward(geometry, gradients, layer.images, weight);
    const Doubles update = exact_weight_update(geometry, spikes.counts, layer.images, gradients);
    on_each_target([&] {
      for (Kernel kernel : kernels) {
        EXPECT_EQ(relative_error(run_forward(layer, spikes, 1, weight, {}, kernel), currents), 0);
        EXPECT_EQ(relative_error(run_backward(layer, gradients, weight, {}, kernel), errors), 0);
        EXPECT_EQ(relative_error(run_weight_update(layer, spikes, 1, gradients, kernel), update),
                  0);
      }
    });
  }
}

TEST(Synapse, GradientsOverManyPositionsStayWithinOneMillionth) {
  const Layer layer = {"", {6, 1, 1, 5}, 65536};
  const Spikes spikes(layer, 1, 0.5, 33);
  const Floats gradients = random_floats(layer.images * 5, -1, 1, 34);
  const Doubles update =
      exact_weight_update(layer.geometry, spikes.counts, layer.images, gradients);
  Doubles bias(5);
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    bias[i % 5] += static_cast<double>(gradients[i]);
  }
  on_each_target([&] {
    for (Kernel kernel : {Kernel::event, Kernel::dense}) {
      EXPECT_LT(relative_error(run_weight_update(layer, spikes, 1, gradients, kernel), update),
                1e-6);
    }
    Floats grad_bias(5);
    bias_update(gradients.data(), layer.images, 5, grad_bias.data());
    EXPECT_LT(relative_error(grad_bias, bias), 1e-6);
  });
}

TEST(Synapse, BiasUpdateIsTheSameBitsEverywhere) {
  for (std::int64_t channels : {1, 3, 16, 65, 200}) {
    for (std::int64_t positions : {0, 1, 255, 257, 4096, 9001}) {
      const Floats gradients = random_floats(positions * channels, -1, 1, 35);
      expect_same_everywhere([&] {
        Floats grad_bias(size(channels), unset);
        bias_update(gradients.data(), positions, channels, grad_bias.data());
        return bits_of(grad_bias);
      });
    }
  }
}

TEST(Synapse, NoImagesGiveNoCurrentsAndZeroGradients) {
  const Layer layer = {"", {3, 5, 5, 4, 3, 3}, 0};
  const Spikes spikes(layer, 1, 0.5, 36);
  const Floats weight = weights_of(layer.geometry, 37);
  const Floats zeros(size(layer.geometry.weights()), 0.0F);
  on_each_target([&] {
    for (Kernel kernel : kernels) {
      EXPECT_TRUE(run_forward(layer, spikes, 1, weight, {}, kernel).empty());
      EXPECT_TRUE(run_forward(layer, Floats{}, weight, {}, kernel).empty());
      EXPECT_TRUE(run_backward(layer, {}, weight, {}, kernel).empty());
      EXPECT_EQ(bits_of(run_weight_update(layer, spikes, 1, {}, kernel)), bits_of(zeros));
      EXPECT_EQ(bits_of(run_weight_update(layer, Floats{}, Floats{}, kernel)), bits_of(zeros));
    }
  });
}

/// One layer with everything a call needs, and outputs that must stay untouched when it throws.
struct Call {
  Layer layer = {"", {3, 6, 7, 5, 3, 3}, 2};
  Geometry geometry = layer.geometry;
  Spikes spikes{layer, 1, 0.5, 38};
  PackedView view = spikes.view();
  float scale = 1;
  std::int64_t images = layer.images;
  Floats inputs = random_floats(layer.images * geometry.in_features(), -1, 1, 39);
  Floats weight = weights_of(geometry, 40);
  Floats bias = random_floats(geometry.out_channels, -1, 1, 41);
  Floats gradients = random_floats(layer.images * geometry.out_features(), -1, 1, 42);
  Floats currents = Floats(size(layer.images * geometry.out_features()), unset);
  Floats grad_inputs = Floats(size(layer.images * geometry.in_features()), unset);
  Floats grad_weight = Floats(size(geometry.weights()), unset);
  LutShape lut = {6, 32};
  Kernel kernel = Kernel::automatic;

  void forward_spikes() {
    forward(geometry, view, scale, weight.data(), bias.data(), currents.data(), kernel, lut);
  }
  void forward_analog() {
    forward(geometry, inputs.data(), images, weight.data(), bias.data(), currents.data(), kernel);
  }
  void back() {
    backward(geometry, gradients.data(), images, weight.data(), nullptr, grad_inputs.data(),
             kernel);
  }
  void update_spikes() {
    weight_update(geometry, view, scale, gradients.data(), grad_weight.data(), kernel, lut);
  }
  void update_analog() {
    weight_update(geometry, inputs.data(), images, gradients.data(), grad_weight.data(), kernel);
  }
};

struct BadInput {
  std::string what;
  std::vector<std::string> message;
  void (*spoil)(Call&);
  void (Call::*run)();
};

TEST(Synapse, BadInputIsNamedBeforeAnythingIsWritten) {
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  constexpr float inf = std::numeric_limits<float>::infinity();
  const std::vector<BadInput> table = {
      {"weight NaN, forward",
       {"weight", "nan", "flat index 7"},
       [](Call& c) { c.weight[7] = nan; },
       &Call::forward_spikes},
      {"weight inf, analog forward",
       {"weight", "inf", "flat index 134"},
       [](Call& c) { c.weight[134] = inf; },
       &Call::forward_analog},
      {"weight inf, backward",
       {"weight", "-inf", "flat index 0"},
       [](Call& c) { c.weight[0] = -inf; },
       &Call::back},
      {"weight NaN, tables",
       {"weight", "nan", "flat index 134"},
       [](Call& c) {
         c.weight[134] = nan;
         c.kernel = Kernel::lut;
       },
       &Call::forward_spikes},
      {"bias NaN",
       {"bias", "nan", "flat index 4"},
       [](Call& c) { c.bias[4] = nan; },
       &Call::forward_spikes},
      {"bias inf, analog",
       {"bias", "inf", "flat index 0"},
       [](Call& c) { c.bias[0] = inf; },
       &Call::forward_analog},
      {"inputs NaN",
       {"inputs", "nan", "flat index 251"},
       [](Call& c) { c.inputs[251] = nan; },
       &Call::forward_analog},
      {"inputs inf",
       {"inputs", "inf", "flat index 3"},
       [](Call& c) { c.inputs[3] = inf; },
       &Call::update_analog},
      {"scale", {"scale", "inf"}, [](Call& c) { c.scale = inf; }, &Call::forward_spikes},
      {"scale, update", {"scale", "nan"}, [](Call& c) { c.scale = nan; }, &Call::update_spikes},
      {"features",
       {"features", "126", "125"},
       [](Call& c) { c.view.features = 125; },
       &Call::forward_spikes},
      {"features, update",
       {"features", "126", "127"},
       [](Call& c) { c.view.features = 127; },
       &Call::update_spikes},
      {"no planes",
       {"planes", "1 to", "0"},
       [](Call& c) { c.view.planes = 0; },
       &Call::forward_spikes},
      {"too many planes",
       {"planes", "24", "25"},
       [](Call& c) { c.view.planes = 25; },
       &Call::update_spikes},
      {"negative rows",
       {"rows", "at least 0", "-1"},
       [](Call& c) { c.view.rows = -1; },
       &Call::forward_spikes},
      {"negative images",
       {"images", "at least 0", "-2"},
       [](Call& c) { c.images = -2; },
       &Call::forward_analog},
      {"negative images, backward", {"images", "-2"}, [](Call& c) { c.images = -2; }, &Call::back},
      {"negative images, update",
       {"images", "-2"},
       [](Call& c) { c.images = -2; },
       &Call::update_analog},
      {"no words",
       {"words", "null"},
       [](Call& c) { c.view.words = nullptr; },
       &Call::forward_spikes},
      {"lut inputs",
       {"lut inputs", "1 to 12", "13"},
       [](Call& c) { c.lut.inputs = 13; },
       &Call::forward_spikes},
      {"lut inputs, update",
       {"lut inputs", "0"},
       [](Call& c) { c.lut.inputs = 0; },
       &Call::update_spikes},
      {"lut rows",
       {"lut rows", "1 to 1024", "1025"},
       [](Call& c) { c.lut.rows = 1025; },
       &Call::forward_spikes},
      {"geometry",
       {"stride_width", "0"},
       [](Call& c) { c.geometry.stride_width = 0; },
       &Call::forward_spikes},
      {"geometry, backward",
       {"in_channels", "groups (2)", "3"},
       [](Call& c) { c.geometry.groups = 2; },
       &Call::back},
      {"geometry, update",
       {"kernel", "9 x 3"},
       [](Call& c) { c.geometry.kernel_height = 9; },
       &Call::update_spikes},
  };
  on_each_target([&] {
    for (const BadInput& bad : table) {
      SCOPED_TRACE(bad.what);
      Call call;
      bad.spoil(call);
      expect_refused([&] { (call.*bad.run)(); }, bad.message);
      for (const Floats* out : {&call.currents, &call.grad_inputs, &call.grad_weight}) {
        for (float value : *out) ASSERT_EQ(value, unset);
      }
    }
  });
}

TEST(Synapse, NullArraysAreRefused) {
  Call call;
  const auto run = [&](const float* weight, float* currents) {
    forward(call.geometry, call.view, 1, weight, nullptr, currents);
  };
  expect_refused([&] { run(nullptr, call.currents.data()); }, {"weight", "135", "null"});
  expect_refused([&] { run(call.weight.data(), nullptr); }, {"currents", "200", "null"});
  expect_refused([&] { bias_update(nullptr, 3, 4, call.bias.data()); },
                 {"grad_currents", "12", "null"});
  expect_refused([&] { bias_update(call.bias.data(), -3, 1, call.bias.data()); },
                 {"positions", "-3"});
}

}  // namespace
}  // namespace h2learn::test
