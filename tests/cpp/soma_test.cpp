// The soma: its equations in double precision, hand-worked cases, every target and number of
// threads bit for bit against the scalar reference, and what it refuses.
#include "reference/soma.hpp"

#include <cfloat>

#include "soma_support.hpp"

namespace h2learn::test::soma {
namespace {

const std::vector<std::int64_t> feature_counts = {1, 63, 64, 65, 200};

TEST(Soma, AHandWorkedNeuron) {
  // The default neuron: decay 0.25, threshold 0.25, hard reset, rect of half-width 0.5.
  //   t  x       u = h/4 + x   s (u > 0.25)   mask |u - 0.25| < 0.5   h = u (1 - s)
  //   1  0.25    0.25          0              1                       0.25
  //   2  0.25    0.3125        1              1                       0
  //   3  1.0     1.0           1              0                       0
  //   4  -0.5    -0.5          0              0                       -0.5
  Layer layer{{}, {4, 1, 1}, {0.25F, 0.25F, 1.0F, -0.5F}, {}, {1.0F, 2.0F, 3.0F, 4.0F}, {}};
  on_each_target([&] {
    const Activity a = run_forward(layer);
    EXPECT_EQ(a.membrane, (Floats{0.25F, 0.3125F, 1.0F, -0.5F}));
    EXPECT_EQ(a.spikes, (Words{0, 1, 1, 0}));
    EXPECT_EQ(a.mask, (Words{1, 1, 0, 0}));
    EXPECT_EQ(a.last, (Floats{-0.5F}));
    // Backward, phi = mask:  U4 = 0;  U3 = 0;  U2 = 2;  H1 = 0.5;
    // U1 = (1 - 0.5 * 0.25) + 0.5 = 1.375;  H0 = 1.375 / 4
    const Gradients g = run_backward(layer, a);
    EXPECT_EQ(g.currents, (Floats{1.375F, 2.0F, 0.0F, 0.0F}));
    EXPECT_EQ(g.initial, (Floats{0.34375F}));
    EXPECT_EQ(g.decay, 2.0 * 0.25) << "only U2 meets a membrane that is not zero";
    EXPECT_EQ(g.threshold, -(2.0 + 0.875));
  });
}

TEST(Soma, AtTheThresholdOnlyAnInclusiveNeuronFires) {
  const float threshold = 0.3F;
  const float below = std::nextafter(threshold, 0.0F);
  const float above = std::nextafter(threshold, 1.0F);
  Layer layer{{}, {1, 1, 3}, {below, threshold, above}, {}, {}, {}};
  layer.options.threshold = threshold;
  on_each_target([&] {
    layer.options.inclusive = false;
    EXPECT_EQ(run_forward(layer).spikes, Words{0b100});
    layer.options.inclusive = true;
    EXPECT_EQ(run_forward(layer).spikes, Words{0b110});
  });
}

TEST(Soma, EveryTargetEqualsTheReference) {
  unsigned seed = 0;
  for (const SomaOptions& options : all_options()) {
    SCOPED_TRACE(describe(options));
    for (std::int64_t features : feature_counts) {
      for (std::int64_t steps : {1, 4}) {
        SCOPED_TRACE(testing::Message() << features << " features, T = " << steps);
        const bool with_state = seed % 2 == 1;
        const Layer layer = random_layer(options, {steps, 3, features}, with_state, ++seed);
        expect_same_everywhere([&] { return run_forward(layer); });
        const Activity activity = run_forward(layer);
        expect_same_everywhere([&] { return run_backward(layer, activity); });
        Saved saved;
        saved.mask = false;
        expect_same_everywhere([&] { return run_backward(layer, activity, saved); });
        saved = {true, options.needs_membrane(), false};
        expect_same_everywhere([&] { return run_backward(layer, activity, saved); });
      }
    }
  }
}

TEST(Soma, ManyNeuronsAreTheSameOnEveryTargetAndNumberOfThreads) {
  for (const SomaOptions& options : all_options()) {
    if (options.inclusive || options.decay_input) continue;
    SCOPED_TRACE(describe(options));
    const Layer layer = random_layer(options, {3, 7, 4000}, true, 11);
    const Activity activity = run_forward(layer);
    expect_same_everywhere([&] { return run_forward(layer); });
    expect_same_everywhere([&] { return run_backward(layer, activity); });
  }
}

TEST(Soma, BehindPoolingEqualsPoolingsBackwardPassAndThen) {
  const PoolGeometry pools[] = {
      {1, 5, 4, 2, 2, 2, 2},     // a line of inputs that no window holds
      {3, 6, 7, 2, 3, 1, 2},     // windows that overlap
      {16, 17, 8, 2, 2, 2, 2},   // several positions a block, more than a chunk
      {70, 3, 4, 3, 3, 1, 1},    // blocks across positions; nine, which is no power of two
      {7, 13, 12, 2, 1, 3, 2},   // inputs between windows
      {130, 4, 4, 4, 4, 4, 4},   // one window
      {1, 1, 4200, 1, 3, 1, 3},  // a position a neuron, in more than two chunks
      {2100, 2, 2, 2, 2, 2, 2},  // more channels than a chunk
  };
  unsigned seed = 0;
  for (const SomaOptions& options : all_options()) {
    if (options.inclusive || options.decay_input) continue;
    SCOPED_TRACE(describe(options));
    for (const PoolGeometry& pool : pools) {
      SCOPED_TRACE(testing::Message() << pool.in_features() << " inputs");
      ++seed;
      Layer layer = random_layer(options, {3, 2, pool.in_features()}, seed % 2 == 1, seed);
      const Activity activity = run_forward(layer);
      const Floats averages = random_floats(6 * pool.out_features(), -1.0F, 1.0F, seed + 9);
      average_pool_backward(pool, averages.data(), 6, layer.grad_spikes.data());
      const Saved savings[] = {{}, {true, true, false}};
      for (const Saved& saved : savings) {
        const Gradients expected = run_backward(layer, activity, saved);
        Layer pooled = layer;
        pooled.grad_spikes = averages;
        expect_same_everywhere([&] { return run_backward(pooled, activity, saved, &pool); });
        on_each_target(
            [&] { EXPECT_TRUE(run_backward(pooled, activity, saved, &pool) == expected); });
      }
    }
  }
}

TEST(Soma, BehindPoolingManyNeuronsAreTheSameOnAnyNumberOfThreads) {
  const PoolGeometry pool{16, 31, 33, 2, 2, 2, 2};
  for (std::int64_t steps : {1, 3}) {
    SomaOptions options;
    options.decay_input = true;
    const std::int64_t batch = 15 / steps;
    Layer layer = random_layer(options, {steps, batch, pool.in_features()}, true, 3);
    ASSERT_GT(layer.values(), 3 << 16);  // so many that threads share them
    const Activity activity = run_forward(layer);
    const std::int64_t rows = steps * batch;
    const Floats averages = random_floats(rows * pool.out_features(), -1.0F, 1.0F, 4);
    average_pool_backward(pool, averages.data(), rows, layer.grad_spikes.data());
    const Gradients expected = run_backward(layer, activity);
    layer.grad_spikes = averages;
    expect_same_everywhere([&] { return run_backward(layer, activity, {}, &pool); });
    EXPECT_TRUE(run_backward(layer, activity, {}, &pool) == expected);
  }
}

TEST(Soma, PoolingOfOtherNeuronsIsRefused) {
  const Layer layer = random_layer({}, {2, 1, 36}, false, 1);
  const Activity activity = run_forward(layer);
  PoolGeometry pool{4, 3, 2, 2, 2, 2, 2};
  expect_refused([&] { run_backward(layer, activity, {}, &pool); }, {"pool", "36", "24"});
  pool = {4, 3, 3, 4, 2, 2, 2};
  expect_refused([&] { run_backward(layer, activity, {}, &pool); }, {"kernel_height", "3", "4"});
}

TEST(Soma, SilentAndSaturatedLayers) {
  for (float current : {-1.0F, 0.0F, 5.0F}) {
    for (const SomaOptions& options : all_options()) {
      SCOPED_TRACE(describe(options));
      Layer layer = random_layer(options, {3, 2, 70}, false, 12);
      layer.currents.assign(layer.currents.size(), current);
      const Activity activity = run_forward(layer);
      const std::int64_t expected = current > 0.0F ? layer.values() : 0;
      EXPECT_EQ(popcount({activity.spikes.data(), 1, 6, 70}), expected);
      expect_same_everywhere([&] { return run_forward(layer); });
      expect_same_everywhere([&] { return run_backward(layer, activity); });
    }
  }
}

TEST(Soma, GradientsFollowTheEquations) {
  unsigned seed = 100;
  for (const SomaOptions& options : all_options()) {
    for (bool with_state : {false, true}) {
      SCOPED_TRACE(describe(options) + (with_state ? ", with state" : ""));
      const Layer layer = random_layer(options, {6, 2, 300}, with_state, ++seed);
      const Activity activity = run_forward(layer);
      const Exact exact = exact_backward(layer, activity.spikes);
      const Gradients g = run_backward(layer, activity);
      EXPECT_LE(relative_error(g.currents, exact.currents), 5e-7);
      EXPECT_LE(relative_error(g.initial, exact.initial), 5e-7);
      EXPECT_NEAR(g.decay, exact.decay, 5e-7 * exact.decay_terms);
      EXPECT_NEAR(g.threshold, exact.threshold, 5e-7 * exact.threshold_terms);
    }
  }
}

/// The sum of h_T weighted with grad_last: a function whose derivatives are ordinary ones where
/// no neuron is near its threshold.
double loss(const Layer& layer) {
  const Activity activity = run_forward(layer);
  double sum = 0.0;
  for (std::size_t i = 0; i < activity.last.size(); ++i) {
    sum += static_cast<double>(activity.last[i]) * layer.grad_last[i];
  }
  return sum;
}

TEST(Soma, ParameterGradientsAreFiniteDifferencesAwayFromTheThreshold) {
  for (bool decay_input : {false, true}) {
    // Currents well below or well above the threshold, and a surrogate too narrow to matter.
    SomaOptions options;
    options.reset = Reset::soft;
    options.decay = 0.5F;
    options.threshold = 1.0F;
    options.width = 1e-3F;
    options.decay_input = decay_input;
    Layer layer = random_layer(options, {3, 1, 64}, true, 13);
    for (std::size_t i = 0; i < layer.currents.size(); ++i) {
      layer.currents[i] *= 0.1F;
      if (i % 3 == 0) layer.currents[i] += 8.0F;
    }
    layer.grad_spikes.assign(layer.grad_spikes.size(), 0.0F);
    const Activity activity = run_forward(layer);
    const Gradients g = run_backward(layer, activity);
    const auto difference = [&](float SomaOptions::*field) {
      constexpr float step = 0x1p-6F;
      Layer moved = layer;
      moved.options.*field = layer.options.*field + step;
      const double up = loss(moved);
      EXPECT_EQ(run_forward(moved).spikes, activity.spikes);
      moved.options.*field = layer.options.*field - step;
      const double down = loss(moved);
      EXPECT_EQ(run_forward(moved).spikes, activity.spikes);
      return (up - down) / (2.0 * step);
    };
    EXPECT_NEAR(g.threshold, difference(&SomaOptions::threshold), 1e-4 * std::fabs(g.threshold));
    // A cubic in decay: the central difference is off by step^2 times its leading coefficient.
    EXPECT_NEAR(g.decay, difference(&SomaOptions::decay), 1e-2 * std::fabs(g.decay));
    EXPECT_GT(popcount({activity.spikes.data(), 1, 3, 64}), 10);
  }
}

TEST(Soma, TheSurrogatesAreAccurateInFloat) {
  for (Surrogate surrogate :
       {Surrogate::rect, Surrogate::triangle, Surrogate::atan, Surrogate::sigmoid}) {
    for (float width : {1e-3F, 0.1F, 0.25F, 1.0F, 7.3F, 1e3F}) {
      SomaOptions options;
      options.surrogate = surrogate;
      options.width = width;
      const SomaPlan plan = make_plan(options, {1, 1, 1});
      double worst = 0.0;
      for (int i = -90'000; i <= 90'000; ++i) {
        const float v = static_cast<float>(i) * 1e-3F * width;
        const double exact = bump(options, v);
        // Near its foot the triangle is a difference of nearly equal numbers; far from its centre
        // the sigmoid's bump is too small to be a float.
        const double least = (surrogate == Surrogate::triangle ? 1.0 : 1e-31) / width;
        const double error = std::fabs(reference::surrogate(plan, v) - exact);
        worst = std::fmax(worst, error / std::fmax(exact, least));
      }
      EXPECT_LE(worst, 1e-6) << "surrogate " << static_cast<int>(surrogate) << " of " << width;
      EXPECT_GT(worst + (surrogate == Surrogate::rect ? 1.0 : 0.0), 0.0);
    }
  }
}

TEST(Soma, OneRunIsTwoHalvesWithTheStatePassedOn) {
  for (const SomaOptions& options : all_options()) {
    SCOPED_TRACE(describe(options));
    const Layer whole = random_layer(options, {6, 2, 70}, true, 14);
    const Activity activity = run_forward(whole);
    const Gradients gradients = run_backward(whole, activity, {true, true, false});
    const auto half_of = [](auto values, bool second) {
      const auto middle = values.begin() + std::ssize(values) / 2;
      return second ? decltype(values)(middle, values.end())
                    : decltype(values)(values.begin(), middle);
    };
    const auto layer_half = [&](bool second) {
      return Layer{options,
                   {3, 2, 70},
                   half_of(whole.currents, second),
                   {},
                   half_of(whole.grad_spikes, second),
                   {}};
    };
    Layer first = layer_half(false);
    Layer second = layer_half(true);
    first.initial = whole.initial;
    const Activity before = run_forward(first);
    second.initial = before.last;
    const Activity after = run_forward(second);
    EXPECT_EQ(before.spikes, half_of(activity.spikes, false));
    EXPECT_EQ(after.spikes, half_of(activity.spikes, true));
    EXPECT_EQ(after.last, activity.last);

    second.grad_last = whole.grad_last;
    const Gradients late = run_backward(second, after, {true, true, false});
    first.grad_last = late.initial;
    const Gradients early = run_backward(first, before, {true, true, false});
    EXPECT_EQ(late.currents, half_of(gradients.currents, true));
    EXPECT_EQ(early.currents, half_of(gradients.currents, false));
    EXPECT_EQ(early.initial, gradients.initial);
  }
}

TEST(Soma, GradientsOutsideTheMaskAreNotRead) {
  for (const SomaOptions& options : all_options()) {
    if (!is_compact(options.surrogate)) continue;
    SCOPED_TRACE(describe(options));
    Layer layer = random_layer(options, {4, 2, 100}, true, 15);
    const Activity activity = run_forward(layer);
    const Gradients expected = run_backward(layer, activity);
    for (std::int64_t i = 0; i < layer.values(); ++i) {
      if (!bit(activity.mask, i / 100, 100, i % 100)) {
        layer.grad_spikes[size(i)] = std::numeric_limits<float>::quiet_NaN();
      }
    }
    on_each_target([&] { EXPECT_TRUE(run_backward(layer, activity) == expected); });
  }
}

TEST(Soma, TheMaskAloneSufficesWhereTheMembraneIsNotNeeded) {
  for (const SomaOptions& options : all_options()) {
    if (options.needs_membrane()) continue;
    SCOPED_TRACE(describe(options));
    const Layer layer = random_layer(options, {4, 2, 100}, false, 16);
    const Activity activity = run_forward(layer);
    on_each_target([&] {
      const Gradients with = run_backward(layer, activity, {true, true, false});
      const Gradients without = run_backward(layer, activity, {true, false, false});
      EXPECT_TRUE(with == without);
    });
  }
}

TEST(Soma, NeedsTheMembraneUnlessRectAndTheResetDoesNotReadIt) {
  SomaOptions options;
  EXPECT_TRUE(options.needs_membrane());
  options.detach_reset = true;
  EXPECT_FALSE(options.needs_membrane());
  options.detach_reset = false;
  options.reset = Reset::soft;
  EXPECT_FALSE(options.needs_membrane());
  options.surrogate = Surrogate::triangle;
  EXPECT_TRUE(options.needs_membrane());
}

TEST(Soma, OutputsTooLargeForTheCachesAreTheSame) {
  // A short pattern repeated: the reference has to compute it once only.
  constexpr std::int64_t features = std::int64_t{1} << 22;
  constexpr std::int64_t period = 4096;
  Layer small = random_layer({}, {4, 1, period}, false, 17);
  const ForcedTarget forced(Target::scalar);
  const Activity activity = run_forward(small);
  const Gradients gradients = run_backward(small, activity, {true, true, false});

  Layer large{{}, {4, 1, features}, {}, {}, {}, {}};
  const auto repeat = [&](const auto& values, std::int64_t length) {
    std::decay_t<decltype(values)> all;
    all.reserve(size(4 * length));
    const std::int64_t part = std::ssize(values) / 4;
    for (std::int64_t t = 0; t < 4; ++t) {
      for (std::int64_t i = 0; i < length; i += part) {
        all.insert(all.end(), values.begin() + t * part, values.begin() + (t + 1) * part);
      }
    }
    return all;
  };
  large.currents = repeat(small.currents, features);
  const Words spikes = repeat(activity.spikes, features / 64);
  const Words mask = repeat(activity.mask, features / 64);
  const Floats membrane = repeat(activity.membrane, features);
  const Floats expected = repeat(gradients.currents, features);
  const Floats grad_spikes = repeat(small.grad_spikes, features);

  // Aligned, as the stores past the cache demand; and one element off.
  Floats memory(size(4 * features + 17));
  for (std::int64_t offset : {0, 1}) {
    float* out = memory.data();
    while (reinterpret_cast<std::uintptr_t>(out) % 64 != 0) ++out;
    out += offset;
    on_each_target([&] {
      if (active_target() == Target::scalar) return;
      Words s(spikes.size());
      Words m(mask.size());
      soma_forward(large.options, large.shape, large.currents.data(), nullptr, s.data(), m.data(),
                   out, nullptr);
      EXPECT_TRUE(s == spikes && m == mask);
      EXPECT_EQ(std::memcmp(out, membrane.data(), membrane.size() * sizeof(float)), 0);
      SomaGradients g;
      g.grad_spikes = grad_spikes.data();
      g.spikes = s.data();
      g.mask = m.data();
      g.membrane = membrane.data();
      g.grad_currents = out;
      soma_backward(large.options, large.shape, g);
      EXPECT_EQ(std::memcmp(out, expected.data(), expected.size() * sizeof(float)), 0);
    });
  }
}

TEST(Soma, CurrentsThatAreNotFiniteAreRefusedByName) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  for (const auto& [bad, text] :
       {std::pair{nan, "nan"}, std::pair{infinity, "inf"}, std::pair{-infinity, "-inf"}}) {
    for (std::int64_t index : {0, 63, 64, 149, 299}) {
      SCOPED_TRACE(testing::Message() << text << " at " << index);
      Layer layer = random_layer({}, {2, 2, 75}, true, 18);
      layer.currents[size(index)] = bad;
      layer.currents.back() = bad;
      const std::string message = std::string("currents must be finite, got ") + text +
                                  " at flat index " + std::to_string(index);
      on_each_target([&] { expect_refused([&] { run_forward(layer); }, {message}); });
    }
  }
  Layer layer = random_layer({}, {2, 2, 75}, true, 19);
  layer.initial[80] = nan;
  on_each_target([&] {
    expect_refused([&] { run_forward(layer); }, {"initial must be finite, got nan", "80"});
  });
  Layer many = random_layer({}, {2, 2, 40'000}, true, 20);
  many.currents[79'999] = nan;
  on_each_target([&] {
    const Threads threads(2);
    expect_refused([&] { run_forward(many); }, {"flat index 79999"});
  });
}

TEST(Soma, TheLargestFloatsAreFinite) {
  Layer layer = random_layer({}, {1, 1, 130}, false, 21);
  layer.currents.assign(layer.currents.size(), FLT_MAX);
  layer.currents[7] = -FLT_MAX;
  expect_same_everywhere([&] { return run_forward(layer); });
}

TEST(Soma, OptionsOutOfRangeAreRefused) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  struct Bad {
    float SomaOptions::*field;
    float value;
    std::vector<std::string> message;
  };
  const std::vector<Bad> table = {
      {&SomaOptions::decay, -0.1F, {"decay must be between 0 and 1", "-0.1"}},
      {&SomaOptions::decay, 1.5F, {"decay", "1.5"}},
      {&SomaOptions::decay, nan, {"decay", "nan"}},
      {&SomaOptions::threshold, 0.0F, {"threshold must be finite and greater than 0", "got 0"}},
      {&SomaOptions::threshold, -1.0F, {"threshold", "-1"}},
      {&SomaOptions::threshold, infinity, {"threshold", "inf"}},
      {&SomaOptions::width, 0.0F, {"width must be finite and greater than 0", "got 0"}},
      {&SomaOptions::width, -0.5F, {"width", "-0.5"}},
      {&SomaOptions::width, nan, {"width", "nan"}},
      {&SomaOptions::width, infinity, {"width", "inf"}},
      {&SomaOptions::width, 1e-40F, {"width must be at least 1.2e-38"}},
      {&SomaOptions::scale, nan, {"scale must be finite", "nan"}},
      {&SomaOptions::scale, infinity, {"scale", "inf"}},
  };
  for (const Bad& bad : table) {
    SomaOptions options;
    options.*bad.field = bad.value;
    expect_refused([&] { options.validate(); }, bad.message);
    Layer layer = random_layer({}, {1, 1, 4}, false, 22);
    layer.options = options;
    expect_refused([&] { run_forward(layer); }, bad.message);
  }
  SomaOptions steep;
  steep.width = 1e-30F;
  steep.scale = 1e30F;
  expect_refused([&] { steep.validate(); }, {"scale / width must be within float32"});
}

TEST(Soma, CallsThatLackSomethingAreRefused) {
  const Layer layer = random_layer({}, {2, 1, 70}, false, 23);
  const Activity a = run_forward(layer);
  Floats out(layer.currents.size());
  double sum = 0.0;
  SomaGradients good;
  good.grad_spikes = layer.grad_spikes.data();
  good.spikes = a.spikes.data();
  good.mask = a.mask.data();
  good.membrane = a.membrane.data();
  good.grad_currents = out.data();
  soma_backward(layer.options, layer.shape, good);

  const auto refuse = [&](SomaOptions options, auto change, std::vector<std::string> parts) {
    SomaGradients g = good;
    change(g);
    expect_refused([&] { soma_backward(options, layer.shape, g); }, parts);
  };
  SomaOptions detached;
  detached.detach_reset = true;
  SomaOptions decayed;
  decayed.decay_input = true;
  SomaOptions smooth;
  smooth.surrogate = Surrogate::atan;
  refuse({}, [](auto& g) { g.grad_spikes = nullptr; }, {"grad_spikes"});
  refuse({}, [](auto& g) { g.spikes = nullptr; }, {"spikes"});
  refuse({}, [](auto& g) { g.grad_currents = nullptr; }, {"grad_currents"});
  refuse({}, [](auto& g) { g.membrane = nullptr; }, {"membrane", "unless"});
  refuse(detached, [](auto& g) { g.mask = nullptr, g.membrane = nullptr; }, {"mask"});
  refuse(smooth, [](auto&) {}, {"mask must be null"});
  refuse(detached, [&](auto& g) { g.membrane = nullptr, g.grad_decay = &sum; },
         {"membrane", "decay"});
  refuse(decayed, [&](auto& g) { g.grad_decay = &sum; }, {"currents", "decay_input"});

  expect_refused([&] { soma_backward({}, {0, 1, 70}, good); }, {"steps (T)", "at least 1", "0"});
  std::uint64_t word = 0;
  float value = 0.0F;
  const auto forward = [&](SomaShape shape) {
    return
        [&, shape] { soma_forward({}, shape, &value, nullptr, &word, nullptr, nullptr, nullptr); };
  };
  expect_refused(forward({0, 1, 1}), {"steps (T)", "got 0"});
  expect_refused(forward({1, -1, 1}), {"batch", "-1"});
  expect_refused(forward({1, 1, -3}), {"features", "-3"});
  forward({1, 0, 1})();
}

}  // namespace
}  // namespace h2learn::test::soma
