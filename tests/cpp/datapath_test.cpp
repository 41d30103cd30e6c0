// The engines' arithmetic against a plain reference: one loop for each sentence of "Arithmetic" in
// docs/microarchitecture.md, compared bit for bit.
#include "h2learn/accelerator/datapath.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <span>

#include "h2learn/accelerator/values.hpp"
#include "support.hpp"
#include "synapse_support.hpp"

namespace h2learn::accelerator {
namespace {

using namespace h2learn::test;
using std::int64_t;

// ---- the reference

/// An entry: that without its lowest set bit plus that bit's term, rounded; entry 0 is 0.
float table_entry(Precision precision, std::span<const float> terms, unsigned index) {
  if (index == 0) return 0;
  const float term = round_to(precision, terms[size(std::countr_zero(index))]);
  const unsigned rest = index & (index - 1);
  return round_to(precision, table_entry(precision, terms, rest) + term);
}

/// Without a table the terms with a bit are added one after another, in fp32.
float adder_sum(Precision precision, std::span<const float> terms, unsigned index) {
  float sum = 0;
  for (std::size_t i = 0; i < terms.size(); ++i) {
    if ((index >> i & 1U) != 0) sum = sum + round_to(precision, terms[i]);
  }
  return sum;
}

/// Neighbours first, level by level, from `rows` leaves filled up with zeros to a power of two.
float adder_tree(Floats leaves, int64_t rows) {
  leaves.resize(std::bit_ceil(size(rows)));
  for (std::size_t sums = leaves.size() / 2; sums > 0; sums /= 2) {
    for (std::size_t i = 0; i < sums; ++i) leaves[i] = leaves[2 * i] + leaves[2 * i + 1];
  }
  return leaves[0];
}

/// What a tile's tree gives for terms of which those with a bit take part.
float tile_sum(Precision precision, TableArray array, const Floats& terms,
               const std::vector<bool>& bits) {
  Floats leaves;
  for (std::size_t first = 0; first < terms.size(); first += size(array.inputs)) {
    const std::size_t last = std::min(first + size(array.inputs), terms.size());
    unsigned index = 0;
    for (std::size_t i = first; i < last; ++i) index |= (bits[i] ? 1U : 0U) << (i - first);
    const std::span<const float> own(terms.data() + first, last - first);
    leaves.push_back(array.tables ? table_entry(precision, own, index)
                                  : adder_sum(precision, own, index));
  }
  return adder_tree(leaves, array.rows);
}

/// The input position of (output position, tap), or -1 in the padding.
int64_t input_position(const Geometry& g, int64_t position, int64_t tap) {
  const int64_t ih = position / g.out_width() * g.stride_height - g.padding_height +
                     tap / g.kernel_width * g.dilation_height;
  const int64_t iw = position % g.out_width() * g.stride_width - g.padding_width +
                     tap % g.kernel_width * g.dilation_width;
  return ih < 0 || ih >= g.in_height || iw < 0 || iw >= g.in_width ? -1 : ih * g.in_width + iw;
}

/// Everything that a case needs.
struct Case {
  Geometry geometry;
  Precision precision = Precision::fp32;
  int64_t timesteps = 1;
  int64_t samples = 1;
  int64_t planes = 1;
  TableArray forward;
  UpdateArray update;
  Words words;
  Floats plane_weights;
  float scale = 1;
  Floats weight;
  Floats bias;
  Floats grad_currents;
  Words mask;

  int64_t rows() const { return timesteps * samples; }
  PlaneInputs inputs() const {
    return {{words.data(), planes, rows(), geometry.in_features()},
            plane_weights.empty() ? nullptr : plane_weights.data(),
            scale};
  }
  float plane_weight(int64_t plane) const {
    return plane_weights.empty() ? std::ldexp(1.0F, static_cast<int>(plane))
                                 : plane_weights[size(plane)];
  }
  bool input(int64_t plane, int64_t row, int64_t position, int64_t output, int64_t k) const {
    const int64_t channels = geometry.channels_per_group();
    const int64_t at = input_position(geometry, position, k / channels);
    if (at < 0) return false;
    const int64_t group = output / geometry.outputs_per_group();
    return bit(words, plane * rows() + row, geometry.in_features(),
               at * geometry.in_channels + group * channels + k % channels);
  }
  int64_t weight_index(int64_t output, int64_t k) const {
    const int64_t channels = geometry.channels_per_group();
    return (output * channels + k % channels) * geometry.taps() + k / channels;
  }
  float gradient(int64_t row, int64_t position, int64_t output) const {
    return round_to(
        precision,
        grad_currents[size((row * geometry.out_positions() + position) * geometry.out_channels +
                           output)]);
  }
};

Floats reference_forward(const Case& c) {
  const Geometry& g = c.geometry;
  const int64_t tile = c.forward.rows * c.forward.inputs;
  Floats currents;
  for (int64_t row = 0; row < c.rows(); ++row) {
    for (int64_t position = 0; position < g.out_positions(); ++position) {
      for (int64_t n = 0; n < g.out_channels; ++n) {
        float psum = 0;
        for (int64_t first = 0; first < g.fan_in(); first += tile) {
          for (int64_t plane = 0; plane < c.planes; ++plane) {
            Floats terms;
            std::vector<bool> bits;
            for (int64_t k = first; k < std::min(first + tile, g.fan_in()); ++k) {
              terms.push_back(c.weight[size(c.weight_index(n, k))]);
              bits.push_back(c.input(plane, row, position, n, k));
            }
            const float scaled =
                c.plane_weight(plane) * tile_sum(c.precision, c.forward, terms, bits);
            psum = psum + scaled;
          }
        }
        const float current = c.scale * psum;
        currents.push_back(c.bias.empty() ? current : current + c.bias[size(n)]);
      }
    }
  }
  return currents;
}

Floats reference_backward(const Case& c) {
  const Geometry& g = c.geometry;
  const int64_t channels = g.channels_per_group();
  const int64_t outputs = g.outputs_per_group();
  Floats grad_inputs;
  for (int64_t row = 0; row < c.rows(); ++row) {
    for (int64_t position = 0; position < g.in_positions(); ++position) {
      for (int64_t channel = 0; channel < g.in_channels; ++channel) {
        float psum = 0;
        for (int64_t tap = 0; tap < g.taps(); ++tap) {
          for (int64_t n = channel / channels * outputs; n < (channel / channels + 1) * outputs;
               ++n) {
            for (int64_t output = 0; output < g.out_positions(); ++output) {
              // At most one output position reads this input through this tap.
              if (input_position(g, output, tap) != position) continue;
              const float gradient = c.gradient(row, output, n);
              const int64_t k = tap * channels + channel % channels;
              const float weight = round_to(c.precision, c.weight[size(c.weight_index(n, k))]);
              const float product = weight * gradient;
              if (gradient != 0) psum = psum + product;
            }
          }
        }
        const bool needed =
            c.mask.empty() || bit(c.mask, row, g.in_features(), position * g.in_channels + channel);
        grad_inputs.push_back(needed ? round_to(c.precision, psum) : 0.0F);
      }
    }
  }
  return grad_inputs;
}

struct Position {
  int64_t row;
  int64_t position;
};

/// The update engine's row tiles for one column tile, in its order.
std::vector<std::vector<Position>> reference_tiles(const Case& c, int64_t first, int64_t last) {
  const Geometry& g = c.geometry;
  const int64_t image_bytes = c.planes * ((g.in_features() + 7) / 8);
  const int64_t most = c.update.spikes_bytes / 2 / image_bytes;
  std::vector<std::vector<Position>> tiles;
  const int64_t parts = std::min(c.update.parts, c.samples);
  int64_t first_sample = 0;
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t samples = c.samples / parts + (part < c.samples % parts ? 1 : 0);
    std::vector<int64_t> sequence;  // rows
    for (int64_t sample = first_sample; sample < first_sample + samples; ++sample) {
      for (int64_t t = 0; t < c.timesteps; ++t) sequence.push_back(t * c.samples + sample);
    }
    std::reverse(sequence.begin(), sequence.end());
    first_sample += samples;
    for (std::size_t begin = 0; begin < sequence.size(); begin += size(most)) {
      std::vector<Position> block;
      for (std::size_t i = begin; i < std::min(begin + size(most), sequence.size()); ++i) {
        for (int64_t position = 0; position < g.out_positions(); ++position) {
          bool zero = true;
          for (int64_t n = first; n < last; ++n) zero &= c.gradient(sequence[i], position, n) == 0;
          if (!c.update.compact || !zero) block.push_back({sequence[i], position});
        }
      }
      const std::size_t tile = size(c.update.rows * c.update.inputs);
      for (std::size_t i = 0; i < block.size(); i += tile) {
        tiles.emplace_back(block.begin() + i, block.begin() + std::min(i + tile, block.size()));
      }
    }
  }
  return tiles;
}

Floats reference_update(const Case& c) {
  const Geometry& g = c.geometry;
  const int64_t outputs = g.outputs_per_group();
  Floats grad_weight(size(g.weights()));
  for (int64_t n = 0; n < g.out_channels; ++n) {
    const int64_t group = n / outputs * outputs;
    const int64_t first = group + n % outputs / c.update.columns * c.update.columns;
    const int64_t last = std::min(first + c.update.columns, group + outputs);
    const auto tiles = reference_tiles(c, first, last);
    for (int64_t k = 0; k < g.fan_in(); ++k) {
      float accumulator = 0;
      for (const std::vector<Position>& tile : tiles) {
        for (int64_t plane = 0; plane < c.planes; ++plane) {
          Floats terms;
          std::vector<bool> bits;
          for (const Position& at : tile) {
            terms.push_back(c.gradient(at.row, at.position, n));
            bits.push_back(c.input(plane, at.row, at.position, n, k));
          }
          const float scaled = c.plane_weight(plane) * tile_sum(c.precision, c.update, terms, bits);
          accumulator = accumulator + scaled;
        }
      }
      grad_weight[size(c.weight_index(n, k))] = c.scale * accumulator;
    }
  }
  return grad_weight;
}

// ---- what is tested

Floats forward(const Case& c) {
  Floats currents(size(c.rows() * c.geometry.out_features()), -7);
  hardware_forward(c.geometry, c.inputs(), c.weight.data(),
                   c.bias.empty() ? nullptr : c.bias.data(), currents.data(), c.precision,
                   c.forward);
  return currents;
}

Floats backward(const Case& c) {
  Floats grad_inputs(size(c.rows() * c.geometry.in_features()), -7);
  hardware_backward(c.geometry, c.grad_currents.data(), c.rows(), c.weight.data(),
                    c.mask.empty() ? nullptr : c.mask.data(), grad_inputs.data(), c.precision);
  return grad_inputs;
}

Floats update(const Case& c) {
  Floats grad_weight(size(c.geometry.weights()), -7);
  hardware_update(c.geometry, c.inputs(), c.grad_currents.data(), c.timesteps, c.samples,
                  grad_weight.data(), c.precision, c.update);
  return grad_weight;
}

/// Values over many powers of two, some of them beyond what `precision` holds.
Floats wide_floats(int64_t count, std::mt19937& generator, float lowest, float highest) {
  std::uniform_real_distribution<float> exponent(lowest, highest);
  std::uniform_real_distribution<float> significand(-1, 1);
  Floats values(size(count));
  for (float& value : values) value = significand(generator) * std::exp2(exponent(generator));
  return values;
}

void keep(Floats& values, double density, std::mt19937& generator) {
  std::bernoulli_distribution kept(density);
  for (float& value : values) value = kept(generator) ? value : 0;
}

Case random_case(unsigned seed) {
  std::mt19937 generator(seed);
  const auto pick = [&](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(generator);
  };
  Case c;
  const int64_t groups = pick(0, 3) == 0 ? pick(2, 3) : 1;
  if (pick(0, 2) == 0) {
    c.geometry = {groups * pick(1, 90), 1, 1, groups * pick(1, 40)};
    c.geometry.groups = groups;
  } else {
    const int64_t channels = pick(0, 4) == 0 ? 66 : pick(1, 5);
    c.geometry = {groups * channels, pick(3, 6), pick(3, 6), groups * pick(1, 20), pick(1, 3),
                  pick(1, 3),        pick(1, 2), pick(1, 2), pick(0, 1),           pick(0, 1)};
    c.geometry.groups = groups;
    if (c.geometry.kernel_height == 2) c.geometry.dilation_height = 2;
  }
  c.precision = static_cast<Precision>(pick(0, 2));
  c.timesteps = pick(1, 4);
  c.samples = pick(1, 4);
  c.planes = pick(0, 1) == 0 ? 1 : pick(2, 4);
  c.forward = {pick(1, 6), pick(1, 4), pick(0, 3) != 0};
  c.update.rows = pick(1, 6);
  c.update.inputs = pick(1, 4);
  c.update.tables = pick(0, 3) != 0;
  c.update.columns = pick(1, 20);
  c.update.parts = pick(1, 5);
  c.update.compact = pick(0, 1) == 0;
  const int64_t image_bytes = c.planes * ((c.geometry.in_features() + 7) / 8);
  c.update.spikes_bytes = 2 * image_bytes * pick(1, 6) + pick(0, 1);

  const double density = std::uniform_real_distribution<double>(0, 0.6)(generator);
  c.words = random_words(c.planes * c.rows(), c.geometry.in_features(), density, seed);
  if (pick(0, 2) == 0) {
    c.plane_weights = wide_floats(c.planes, generator, 0, 3);
  }
  c.scale = pick(0, 1) == 0 ? 1.0F : 0.3F;
  c.weight = wide_floats(c.geometry.weights(), generator, -6, 1);
  if (pick(0, 1) == 0) c.bias = wide_floats(c.geometry.out_channels, generator, -3, 0);
  // Gradients reach below what fp16 holds: some are zero for the machine and not for float32.
  c.grad_currents = wide_floats(c.rows() * c.geometry.out_features(), generator, -30, 0);
  keep(c.grad_currents, std::uniform_real_distribution<double>(0, 1)(generator), generator);
  if (pick(0, 1) == 0) {
    c.mask = random_words(c.rows(), c.geometry.in_features(), 0.5, seed + 1);
  }
  return c;
}

TEST(Datapath, EqualsTheReferenceBitForBit) {
  for (unsigned seed = 0; seed < 120; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const Case c = random_case(seed);
    EXPECT_EQ(bits_of(forward(c)), bits_of(reference_forward(c)));
    EXPECT_EQ(bits_of(backward(c)), bits_of(reference_backward(c)));
    EXPECT_EQ(bits_of(update(c)), bits_of(reference_update(c)));
    if (HasFailure()) break;
  }
}

Case large_case(const Geometry& geometry, int64_t planes, int64_t timesteps, int64_t samples) {
  Case c;
  c.geometry = geometry;
  c.precision = Precision::fp16;
  c.planes = planes;
  c.timesteps = timesteps;
  c.samples = samples;
  c.words = random_words(planes * c.rows(), geometry.in_features(), 0.1, 1);
  c.weight = random_floats(geometry.weights(), -0.1F, 0.1F, 2);
  c.grad_currents = sparse_floats(c.rows() * geometry.out_features(), 0.1, 3);
  return c;
}

/// More positions and outputs than one stretch and one block of columns hold.
TEST(Datapath, LargeLayersEqualTheReference) {
  Case c = large_case({10, 9, 9, 18, 3, 3, 1, 1, 1, 1}, 2, 3, 5);
  c.update.spikes_bytes = 4000;
  for (const bool compact : {false, true}) {
    c.update.compact = compact;
    EXPECT_EQ(bits_of(update(c)), bits_of(reference_update(c)));
  }
  EXPECT_EQ(bits_of(forward(c)), bits_of(reference_forward(c)));
}

/// More table indices than are made at a time.
TEST(Datapath, DeepLayersEqualTheReference) {
  Case c = large_case({1000, 1, 1, 1}, 4, 2, 530);
  c.forward.inputs = 1;
  c.update.inputs = 1;
  EXPECT_EQ(bits_of(forward(c)), bits_of(reference_forward(c)));
  EXPECT_EQ(bits_of(update(c)), bits_of(reference_update(c)));
}

/// The whole range of fp16 and beyond, each result rounded once more as it is written.
TEST(Datapath, ProductsRoundAsRoundToDoes) {
  std::mt19937 generator(5);
  for (const Precision precision : {Precision::fp32, Precision::fp16, Precision::bf16}) {
    for (const float weight : wide_floats(40, generator, -14, 15)) {
      Case c;
      c.precision = precision;
      c.timesteps = 500;
      c.weight = {weight};
      c.grad_currents = wide_floats(c.timesteps, generator, -14, 16);
      Floats expected;
      for (const float gradient : c.grad_currents) {
        const float product = round_to(precision, weight) * round_to(precision, gradient);
        expected.push_back(round_to(precision, 0 + product));
      }
      EXPECT_EQ(bits_of(backward(c)), bits_of(expected));
    }
  }
}

TEST(Datapath, DoesNotDependOnThreads) {
  for (const unsigned seed : {3U, 11U, 12U, 25U}) {
    const Case c = random_case(seed);
    const auto all = [&] { return std::vector<Floats>{forward(c), backward(c), update(c)}; };
    const Threads one(1);
    const auto expected = all();
    for (const int count : {2, 3, 7}) {
      const Threads threads(count);
      EXPECT_TRUE(all() == expected) << "seed " << seed << ", " << count << " threads";
    }
  }
}

// ---- the clocked simulator, which computes the same numbers as it ticks

/// Small units and buffers, so that every tile and block has an end that is not whole.
Machine machine_of(const Case& c, std::mt19937& generator) {
  const auto pick = [&](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(generator);
  };
  Machine machine;
  machine.value_bytes = bytes_of(c.precision);
  machine.parts = c.update.parts;
  machine.schedule = static_cast<Schedule>(pick(0, 2));
  machine.compressed_gradients = pick(0, 1) == 0;
  machine.forward.rows = c.forward.rows;
  machine.forward.inputs = c.forward.inputs;
  machine.forward.tables = c.forward.tables;
  machine.forward.columns = pick(1, 8);
  machine.forward.psum_bytes = 8 * machine.forward.columns * pick(1, 30);
  machine.update.rows = c.update.rows;
  machine.update.inputs = c.update.inputs;
  machine.update.tables = c.update.tables;
  machine.update.columns = c.update.columns;
  machine.update.compact = c.update.compact;
  machine.update.spikes_bytes = c.update.spikes_bytes;
  machine.update.psum_bytes = 8 * machine.update.columns * pick(1, 100);
  machine.backward.groups = pick(1, 8);
  machine.backward.lanes = pick(1, 4);
  machine.backward.slice = pick(1, 7);
  machine.backward.tile_rows = pick(1, 20);
  machine.backward.input_sparsity = pick(0, 2) != 0;
  machine.backward.output_sparsity = pick(0, 2) != 0;
  return machine;
}

TEST(Datapath, EqualsTheClockedSimulatorBitForBit) {
  for (unsigned seed = 1000; seed < 1060; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 generator(seed);
    const Case c = random_case(seed);
    const Geometry& g = c.geometry;
    Floats gradients = c.grad_currents;
    for (float& gradient : gradients) gradient = round_to(c.precision, gradient);
    Words nonzero(size(c.rows() * words_for(g.out_features())));
    pack_nonzero(gradients.data(), c.rows(), g.out_features(), nonzero.data());

    LayerWork work;
    work.name = "layer";
    work.geometry = g;
    work.timesteps = c.timesteps;
    work.samples = c.samples;
    work.planes = c.planes;
    work.inputs = c.words.data();
    work.mask = c.mask.empty() ? nullptr : c.mask.data();
    work.nonzero = nonzero.data();
    work.input_gradient = work.weight_gradient = true;
    std::vector<LayerValues> values(1);
    values[0].weight = c.weight.data();
    values[0].bias = c.bias.empty() ? nullptr : c.bias.data();
    values[0].grad_currents = c.grad_currents.data();
    values[0].scale = c.scale;
    values[0].plane_weights = c.plane_weights;
    simulate_clocked(machine_of(c, generator), {{work}}, c.precision, values);

    EXPECT_EQ(bits_of(values[0].currents), bits_of(forward(c)));
    EXPECT_EQ(bits_of(values[0].grad_inputs), bits_of(backward(c)));
    EXPECT_EQ(bits_of(values[0].weight_gradient), bits_of(update(c)));
    if (HasFailure()) break;
  }
}

/// Sums of small integers are exact in every order and precision.
TEST(Datapath, IntegersAreExact) {
  for (const Precision precision : {Precision::fp32, Precision::fp16, Precision::bf16}) {
    for (const Layer& layer : layers()) {
      if (layer.images > 100) continue;
      SCOPED_TRACE(layer.name);
      const Spikes spikes(layer, 2, 0.2, 5);
      Case c;
      c.geometry = layer.geometry;
      c.precision = precision;
      c.timesteps = layer.images;
      c.planes = 2;
      c.words = spikes.words;
      c.weight = random_binary(c.geometry.weights(), 0.5, 6);
      c.grad_currents = random_binary(c.rows() * c.geometry.out_features(), 0.3, 7);
      for (std::size_t i = 0; i < c.weight.size(); i += 3) c.weight[i] *= -1;
      for (std::size_t i = 0; i < c.grad_currents.size(); i += 3) c.grad_currents[i] *= -1;
      EXPECT_EQ(relative_error(forward(c),
                               exact_forward(c.geometry, spikes.counts, c.rows(), c.weight, {})),
                0);
      EXPECT_EQ(relative_error(update(c), exact_weight_update(c.geometry, spikes.counts, c.rows(),
                                                              c.grad_currents)),
                0);
      const Doubles exact = exact_backward(c.geometry, c.grad_currents, c.rows(), c.weight);
      // Sums beyond 2^8 are rounded once, as they are written in bf16.
      const Floats found = backward(c);
      for (std::size_t i = 0; i < exact.size(); ++i) {
        EXPECT_EQ(found[i], round_to(precision, static_cast<float>(exact[i])));
      }
    }
  }
}

TEST(Datapath, BeyondTheRangeOfFp16) {
  Case c;
  c.geometry = {4, 1, 1, 1};
  c.precision = Precision::fp16;
  c.words = {0b0011};
  c.weight = {60000, 10000, 1e30F, 1};
  c.grad_currents = {1e-9F};  // below half of the smallest subnormal, 2^-24
  EXPECT_EQ(forward(c)[0], std::numeric_limits<float>::infinity());  // an entry overflows
  EXPECT_EQ(bits_of(backward(c)), bits_of({0, 0, 0, 0}));
  EXPECT_EQ(bits_of(update(c)), bits_of({0, 0, 0, 0}));
  c.forward.inputs = 1;
  EXPECT_EQ(forward(c)[0], 70000);  // the tree adds in fp32
  c.precision = Precision::bf16;
  EXPECT_NEAR(update(c)[0], 1e-9, 1e-11);
}

TEST(Datapath, NoImages) {
  Case c = random_case(1);
  c.timesteps = 0;
  c.words.clear();
  c.grad_currents.clear();
  c.mask.clear();
  EXPECT_TRUE(forward(c).empty());
  EXPECT_TRUE(backward(c).empty());
  EXPECT_EQ(update(c), Floats(size(c.geometry.weights())));
}

TEST(Datapath, RefusesWhatIsImpossible) {
  const auto refused = [](auto change, const std::vector<std::string>& parts) {
    Case c = random_case(2);
    c.bias.clear();
    change(c);
    expect_refused([&] { forward(c), update(c), backward(c); }, parts);
  };
  refused([](Case& c) { c.forward.rows = 0; }, {"rows", "1 to 1024", "0"});
  refused([](Case& c) { c.forward.inputs = 13; }, {"inputs", "1 to 12", "13"});
  refused([](Case& c) { c.update.inputs = 0; }, {"inputs", "1 to 12", "0"});
  refused([](Case& c) { c.update.columns = 0; }, {"columns", "0"});
  refused([](Case& c) { c.update.parts = 0; }, {"parts", "0"});
  refused([](Case& c) { c.update.spikes_bytes = 1; }, {"update.spikes_bytes = 1", "at least"});
  refused([](Case& c) { c.weight[1] = NAN; }, {"weight", "finite", "nan", "index 1"});
  refused([](Case& c) { c.scale = INFINITY; }, {"scale", "finite", "inf"});
  refused([](Case& c) { c.plane_weights = Floats(size(c.planes), NAN); }, {"plane_weights"});
  refused([](Case& c) { c.geometry.groups = 0; }, {"groups"});

  Case c = random_case(2);
  Floats grad_weight(size(c.geometry.weights()));
  expect_refused(
      [&] {
        hardware_update(c.geometry, c.inputs(), c.grad_currents.data(), c.timesteps + 1, c.samples,
                        grad_weight.data(), c.precision, c.update);
      },
      {"timesteps * samples", std::to_string(c.rows())});
}

}  // namespace
}  // namespace h2learn::accelerator
