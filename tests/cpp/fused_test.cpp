// Fused layers: bit by bit what forward() and soma_forward() make one after the other, whatever the
// layer, its inputs, kernel, neurons and the size of the parts; and what is refused.
#include <limits>

#include "fused_parts.hpp"
#include "synapse_support.hpp"

namespace h2learn::test {
namespace {

/// T and B.
struct Batch {
  std::int64_t steps;
  std::int64_t samples;
};
const std::vector<Batch> batches = {{1, 1}, {1, 5}, {4, 1}, {3, 5}, {2, 0}};

SomaOptions neuron(Surrogate surrogate, Reset reset, bool inclusive, bool decay_input) {
  SomaOptions options;
  options.decay = 0.6F;
  options.threshold = 0.3F;
  options.surrogate = surrogate;
  options.reset = reset;
  options.inclusive = inclusive;
  options.decay_input = decay_input;
  return options;
}

const std::vector<SomaOptions> neurons = {
    neuron(Surrogate::rect, Reset::hard, false, false),
    neuron(Surrogate::triangle, Reset::soft, true, true),
    neuron(Surrogate::atan, Reset::hard, false, true),
    neuron(Surrogate::sigmoid, Reset::soft, false, false),
};

/// What neurons leave behind, every output there is.
struct Activity {
  Words spikes;
  Words mask;
  Floats membrane;
  Floats last;

  bool operator==(const Activity& other) const {
    return spikes == other.spikes && mask == other.mask &&
           bits_of(membrane) == bits_of(other.membrane) && bits_of(last) == bits_of(other.last);
  }
};

/// A layer and all its operands; empty vectors stand for null pointers.
struct Fused {
  Geometry geometry;
  Batch batch = {1, 1};
  Kernel kernel = Kernel::automatic;
  SomaOptions options;
  bool repeated = false;  ///< analog inputs are those of one timestep
  Floats inputs;          ///< analog, else `spikes`
  PackedView spikes;
  float scale = 1;
  Floats weight;
  Floats bias;
  Floats initial;
  Floats gain;
  Floats offset;

  Fused(const Geometry& layer, const Batch& size_of_batch, unsigned seed)
      : geometry(layer),
        batch(size_of_batch),
        weight(random_floats(layer.weights(), -0.5F, 0.5F, seed)),
        bias(random_floats(layer.out_channels, -0.2F, 0.3F, seed + 1)) {}

  std::int64_t images() const { return (repeated ? 1 : batch.steps) * batch.samples; }
  std::int64_t rows() const { return batch.steps * batch.samples; }
  std::int64_t features() const { return geometry.out_features(); }

  Activity outputs() const {
    const std::int64_t words = rows() * words_for(features());
    Activity activity;
    activity.spikes.assign(size(words), ~std::uint64_t{0});
    if (is_compact(options.surrogate)) activity.mask.assign(size(words), ~std::uint64_t{0});
    activity.membrane.assign(size(rows() * features()), -7.0F);
    activity.last.assign(size(batch.samples * features()), -7.0F);
    return activity;
  }

  static const float* or_null(const Floats& values) {
    return values.empty() ? nullptr : values.data();
  }
  static std::uint64_t* or_null(Words& words) { return words.empty() ? nullptr : words.data(); }

  Activity one_after_the_other() const {
    Floats currents(size(images() * features()));
    if (inputs.empty()) {
      forward(geometry, spikes, scale, weight.data(), or_null(bias), currents.data(), kernel);
    } else {
      forward(geometry, inputs.data(), images(), weight.data(), or_null(bias), currents.data(),
              kernel);
    }
    for (std::size_t i = 0; !gain.empty() && i < currents.size(); ++i) {
      const float scaled = currents[i] * gain[i % gain.size()];
      currents[i] = scaled + offset[i % gain.size()];
    }
    const Floats step = currents;
    for (std::int64_t t = 1; repeated && t < batch.steps; ++t) {
      currents.insert(currents.end(), step.begin(), step.end());
    }
    Activity activity = outputs();
    soma_forward(options, {batch.steps, batch.samples, features()}, currents.data(),
                 or_null(initial), activity.spikes.data(), or_null(activity.mask),
                 activity.membrane.data(), activity.last.data());
    return activity;
  }

  /// `samples` at a time; 0 leaves it to the function.
  Activity at_once(std::int64_t samples) const {
    Activity activity = outputs();
    Synapses synapses;
    synapses.geometry = geometry;
    synapses.weight = weight.data();
    synapses.bias = or_null(bias);
    synapses.kernel = kernel;
    synapses.gain = or_null(gain);
    synapses.offset = or_null(offset);
    Neurons cells;
    cells.options = options;
    cells.steps = batch.steps;
    cells.batch = batch.samples;
    cells.initial = or_null(initial);
    cells.spikes = activity.spikes.data();
    cells.mask = or_null(activity.mask);
    cells.membrane = activity.membrane.data();
    cells.last = activity.last.data();
    if (inputs.empty() && samples == 0) {
      fused_forward(synapses, spikes, scale, cells);
    } else if (inputs.empty()) {
      fused_forward_in_parts(synapses, spikes, scale, cells, samples);
    } else if (samples == 0) {
      fused_forward(synapses, inputs.data(), images(), cells);
    } else {
      fused_forward_in_parts(synapses, inputs.data(), images(), cells, samples);
    }
    return activity;
  }

  /// On every target, in parts of every size, by one thread and by two.
  void expect_same() const {
    on_each_target([&] {
      const Activity expected = one_after_the_other();
      for (std::int64_t samples : {0, 1, 2, 3, 5}) {
        const Threads threads(samples % 2 == 0 ? 2 : 1);
        EXPECT_TRUE(at_once(samples) == expected) << samples << " samples at a time";
      }
    });
  }
};

/// Runs body(fused, images, seed) for every layer, number of steps and samples; neurons, kernels
/// and an initial membrane take turns.
template <typename Body>
void for_each_layer(const std::vector<Kernel>& kernels, Body body) {
  unsigned seed = 0;
  for (const Layer& layer : layers()) {
    for (const Batch& batch : batches) {
      ++seed;
      Fused fused(layer.geometry, batch, 100 + seed);
      fused.kernel = kernels[seed % kernels.size()];
      fused.options = neurons[seed / kernels.size() % neurons.size()];
      if (seed % 3 == 0) fused.bias.clear();
      if (seed % 2 == 0) {
        fused.initial = random_floats(batch.samples * fused.features(), -0.5F, 0.5F, seed);
      }
      SCOPED_TRACE(testing::Message() << layer.name << ", T = " << batch.steps
                                      << ", B = " << batch.samples << ", seed " << seed);
      body(fused, seed);
      if (testing::Test::HasFailure()) return;
    }
  }
}

const std::vector<Kernel> all_kernels = {Kernel::automatic, Kernel::event, Kernel::dense,
                                         Kernel::lut, Kernel::digits};

TEST(Fused, SpikesAndCountsGiveTheSameBits) {
  for (std::int64_t planes : {1, 3}) {
    for_each_layer(all_kernels, [&](Fused& fused, unsigned seed) {
      const Spikes spikes({"", fused.geometry, fused.rows()}, planes, 0.3, seed);
      fused.spikes = spikes.view();
      fused.scale = planes == 1 ? 1.0F : 0.25F;
      fused.expect_same();
    });
  }
}

TEST(Fused, AnalogInputsGiveTheSameBits) {
  for_each_layer({Kernel::automatic, Kernel::event, Kernel::dense},
                 [](Fused& fused, unsigned seed) {
                   fused.repeated = seed % 4 < 2;
                   const std::int64_t count = fused.images() * fused.geometry.in_features();
                   if (count == 0) return;
                   fused.inputs = sparse_floats(count, 0.6, seed);
                   fused.expect_same();
                 });
}

TEST(Fused, CurrentsAreScaled) {
  for_each_layer({Kernel::automatic}, [](Fused& fused, unsigned seed) {
    const Spikes spikes({"", fused.geometry, fused.rows()}, 1, 0.3, seed);
    fused.spikes = spikes.view();
    fused.gain = random_floats(fused.geometry.out_channels, -1.5F, 1.5F, seed + 7);
    fused.offset = random_floats(fused.geometry.out_channels, -0.3F, 0.3F, seed + 8);
    fused.expect_same();
  });
}

TEST(Fused, DensityIsThatOfTheWholeBatch) {
  // Half of the samples are silent and half are full: by themselves, parts would choose otherwise.
  Fused fused({64, 12, 12, 64, 3, 3, 1, 1, 1, 1}, {2, 6}, 1);
  Spikes spikes({"", fused.geometry, fused.rows()}, 1, 0.9, 2);
  const auto row = spikes.words.size() / size(fused.rows());
  for (std::size_t i = 0; i < spikes.words.size(); ++i) {
    if (i / row % 6 < 3) spikes.words[i] = 0;
  }
  fused.spikes = spikes.view();
  fused.expect_same();
}

TEST(Fused, LargeLayersAreCutByThemselves) {
  // More bytes of currents and more rows than one part takes.
  Fused fused({3, 40, 40, 40, 3, 3, 1, 1, 1, 1}, {2, 36}, 3);
  const Spikes spikes({"", fused.geometry, fused.rows()}, 1, 0.2, 4);
  fused.spikes = spikes.view();
  const Activity expected = fused.one_after_the_other();
  const Threads threads(1);
  EXPECT_TRUE(fused.at_once(0) == expected);
}

TEST(Fused, CurrentsThatAreNotFiniteAreNamedAsTheyAreElsewhere) {
  Fused fused({5, 1, 1, 7}, {3, 5}, 5);
  fused.inputs.assign(size(fused.images() * 5), 0.0F);
  fused.weight.assign(fused.weight.size(), 3e38F);
  const auto message = [&](std::int64_t samples) {
    return message_of([&] {
      if (samples < 0) {
        fused.one_after_the_other();
      } else {
        fused.at_once(samples);
      }
    });
  };
  on_each_target([&] {
    for (std::int64_t image : {14, 11, 3}) {  // each before the others in the batch
      fused.inputs[size(image * 5)] = fused.inputs[size(image * 5 + 1)] = 1;
      for (std::int64_t samples : {0, 1, 2}) EXPECT_EQ(message(samples), message(-1));
      expect_refused([&] { fused.at_once(1); }, {"currents must be finite, got inf at flat index " +
                                                 std::to_string(image * 7)});
    }
    fused.inputs.assign(fused.inputs.size(), 0.0F);
    fused.initial.assign(size(5 * 7), 0.0F);
    fused.initial[30] = std::numeric_limits<float>::quiet_NaN();
    for (std::int64_t samples : {0, 1, 2}) EXPECT_EQ(message(samples), message(-1));
    fused.initial.clear();
  });
}

TEST(Fused, WrongCallsAreRefused) {
  Fused fused({5, 1, 1, 7}, {3, 5}, 6);
  const Spikes spikes({"", fused.geometry, 14}, 1, 0.5, 7);
  fused.spikes = spikes.view();
  expect_refused([&] { fused.at_once(0); }, {"rows", "steps * batch = 15", "14"});
  fused.inputs.assign(70, 1.0F);
  Synapses synapses;
  synapses.geometry = fused.geometry;
  synapses.weight = fused.weight.data();
  Neurons cells;
  cells.steps = 3;
  cells.batch = 5;
  Words words(15);
  cells.spikes = words.data();
  const auto run = [&](std::int64_t images) {
    fused_forward(synapses, fused.inputs.data(), images, cells);
  };
  expect_refused([&] { run(14); }, {"images", "steps * batch = 15 or batch", "14"});
  synapses.gain = fused.bias.data();
  expect_refused([&] { run(5); }, {"gain and offset"});
  Floats gain = fused.bias;
  gain[3] = std::numeric_limits<float>::infinity();
  synapses.gain = gain.data();
  synapses.offset = fused.bias.data();
  expect_refused([&] { run(5); }, {"gain", "finite", "3"});
  synapses.gain = fused.bias.data();
  cells.spikes = nullptr;
  expect_refused([&] { run(5); }, {"spikes", "null"});
  cells.spikes = words.data();
  cells.mask = words.data();
  cells.options.surrogate = Surrogate::atan;
  expect_refused([&] { run(5); }, {"mask"});
  cells.mask = nullptr;
  cells.steps = 0;
  expect_refused([&] { run(5); }, {"steps"});
  synapses.weight = nullptr;
  expect_refused([&] { run(5); }, {"weight", "null"});
  synapses.geometry.out_channels = 0;
  expect_refused([&] { run(5); }, {"out_channels", "0"});
}

}  // namespace
}  // namespace h2learn::test
