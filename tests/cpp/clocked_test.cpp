// The clocked simulator: the document's example, small cases by hand, what must hold whatever the
// machine and the work (docs/microarchitecture.md states it as equations), and its numbers.
#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <random>
#include <tuple>

#include "h2learn/accelerator/precision.hpp"
#include "h2learn/accelerator/simulate.hpp"
#include "h2learn/accelerator/values.hpp"
#include "support.hpp"

namespace h2learn::accelerator {
namespace {

using h2learn::test::expect_refused;
using h2learn::test::Floats;
using h2learn::test::random_words;
using h2learn::test::size;
using h2learn::test::Words;
using std::int64_t;

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

bool packed_bit(const std::uint64_t* words, int64_t row, int64_t features, int64_t f) {
  return ((words[row * words_for(features) + f / word_bits] >> (f % word_bits)) & 1U) != 0;
}

/// A step with the words that it points to.
struct OwnedStep {
  StepWork step;
  std::vector<std::unique_ptr<Words>> words;

  const std::uint64_t* keep(Words made) {
    words.push_back(std::make_unique<Words>(std::move(made)));
    return words.back()->data();
  }
};

Geometry linear(int64_t inputs, int64_t outputs) {
  Geometry g;
  g.in_channels = inputs;
  g.out_channels = outputs;
  return g;
}

struct Density {
  double inputs = 0.3;
  double mask = 0.6;
  double nonzero = 0.5;
};

/// A layer with everything that training has.
LayerWork& add_layer(OwnedStep& owned, const Geometry& g, int64_t timesteps, int64_t samples,
                     int64_t planes, Density density, unsigned seed) {
  LayerWork layer;
  layer.name = "layer" + std::to_string(owned.step.layers.size());
  layer.geometry = g;
  layer.timesteps = timesteps;
  layer.samples = samples;
  layer.planes = planes;
  const int64_t rows = layer.rows();
  layer.inputs =
      owned.keep(random_words(rows * planes, g.in_features(), density.inputs, seed * 4 + 1));
  layer.mask = owned.keep(random_words(rows, g.in_features(), density.mask, seed * 4 + 2));
  layer.nonzero = owned.keep(random_words(rows, g.out_features(), density.nonzero, seed * 4 + 3));
  layer.input_gradient = true;
  layer.weight_gradient = true;
  layer.neurons = true;
  layer.membrane = true;
  owned.step.layers.push_back(layer);
  return owned.step.layers.back();
}

const Counters& counters(const Result& result, std::size_t layer, Pass pass) {
  return result.layers[layer][static_cast<std::size_t>(pass)];
}

const std::vector<Tile>& tiles(const Result& result, Engine engine) {
  return result.tiles[static_cast<std::size_t>(engine)];
}

// A small machine, so that small work has many tiles.
Machine small_machine() {
  Machine m;
  m.forward.rows = 2;
  m.forward.columns = 2;
  m.forward.inputs = 2;
  m.forward.weights_bytes = 128;
  m.forward.weights_banks = 1;
  m.update.rows = 2;
  m.update.columns = 2;
  m.update.inputs = 2;
  m.dram = {.bytes_per_cycle = 4, .latency_cycles = 3, .burst_bytes = 4};
  return m;
}

TEST(Clocked, TileByHandOfTheDocument) {
  OwnedStep owned;
  LayerWork& layer = add_layer(owned, linear(8, 3), 2, 1, 1, {}, 1);
  layer.nonzero = nullptr;
  const Result result = simulate_clocked(small_machine(), owned.step);

  const std::vector<Tile>& forward = tiles(result, Engine::forward);
  ASSERT_EQ(forward.size(), 4U);
  EXPECT_EQ(forward[0].load_bytes, 50);
  EXPECT_EQ(forward[0].load_issue, 0);
  EXPECT_EQ(forward[0].load_done, 16);
  EXPECT_EQ(forward[0].build_end, 24);
  EXPECT_EQ(forward[0].start, 24);
  EXPECT_EQ(forward[0].end, 29);
  EXPECT_EQ(forward[1].load_bytes, 0);
  EXPECT_EQ(forward[1].build_end, 32);
  EXPECT_EQ(forward[1].start, 32);
  EXPECT_EQ(forward[1].end, 37);
  EXPECT_EQ(forward[2].column, 1);
  EXPECT_EQ(forward[2].row, 0);
  EXPECT_EQ(forward[2].build_end, 36);
  EXPECT_EQ(forward[2].start, 37);
  EXPECT_EQ(forward[2].end, 42);

  // 4 neuron-steps enter 64 lanes in one cycle and leave them 4 cycles later.
  const std::vector<Tile>& soma = tiles(result, Engine::soma);
  ASSERT_EQ(soma.size(), 2U);
  EXPECT_EQ(soma[0].ready, 37);
  EXPECT_EQ(soma[0].start, 37);
  EXPECT_EQ(soma[0].end, 42);

  const Counters& counted = counters(result, 0, Pass::forward);
  EXPECT_EQ(counted.tiles, 4);
  EXPECT_EQ(counted.run_cycles, 20);
  EXPECT_EQ(counted.stalled_load_cycles, 16);
  EXPECT_EQ(counted.building_cycles, 8 + 3);
  EXPECT_EQ(counted.load_bursts, 13);
  EXPECT_EQ(counted.operations_offered, 2 * 8 * 3);
  EXPECT_EQ(counted.table_builds, 2 * 2 * 2 + 2 * 2 * 1);
  EXPECT_EQ(counted.table_writes, 3 * 12);
  EXPECT_EQ(counted.table_reads + counted.table_reads_skipped, 2 * 4 * 3);
  EXPECT_EQ(counted.additions, 12 + counted.table_reads);
  EXPECT_EQ(counted.psum_writes, 2 * 3 * 2);
  EXPECT_EQ(counted.psum_reads, 2 * 3);
  EXPECT_EQ(result.resident, std::vector<int64_t>{1});
}

TEST(Clocked, NothingTakesNoTime) {
  const Result result = simulate_clocked(Machine{}, StepWork{});
  EXPECT_EQ(result.cycles, 0);
  EXPECT_EQ(result.dram_busy_cycles, 0);
}

// One position, two slices of 2 and 1 channels, 3 outputs; one group of 2 lanes.
TEST(Clocked, BackwardItemsByHand) {
  OwnedStep owned;
  LayerWork& layer = add_layer(owned, linear(3, 3), 1, 1, 1, {}, 1);
  layer.weight_gradient = false;
  layer.mask = owned.keep({0b011});
  layer.nonzero = owned.keep({0b101});
  Machine m = small_machine();
  m.backward.groups = 1;
  m.backward.lanes = 2;
  m.backward.slice = 2;
  m.backward.weights_banks = 1;
  m.backward.encode_cycles = 3;
  const Result result = simulate_clocked(m, owned.step);
  const Counters& counted = counters(result, 0, Pass::backward);
  // Slice 0 needs 2 channels, which share the one bank: 2 rounds for each of 2 gradients.
  EXPECT_EQ(counted.items, 2);
  EXPECT_EQ(counted.items_empty, 1);
  EXPECT_EQ(counted.run_cycles, 2 * 2 + 3 + 1);
  EXPECT_EQ(counted.lane_slots, 2 * 2 * 2);
  EXPECT_EQ(counted.gradient_reads, 4);
  EXPECT_EQ(counted.operations_offered, 3 * 3);
  EXPECT_EQ(counted.operations_needed, 2 * 2);
  EXPECT_EQ(counted.skipped_by_gradient, 2 * 1);
  EXPECT_EQ(counted.skipped_by_mask, 1 * 3);
  EXPECT_EQ(counted.store_bytes, 2 * 2);
  // Without either sparsity: 2 and 1 channels for 3 gradients.
  m.backward.input_sparsity = false;
  m.backward.output_sparsity = false;
  EXPECT_EQ(counters(simulate_clocked(m, owned.step), 0, Pass::backward).run_cycles,
            (2 * 3 + 3) + (1 * 3 + 3));
  // With two groups they run side by side.
  m.backward.groups = 2;
  EXPECT_EQ(counters(simulate_clocked(m, owned.step), 0, Pass::backward).run_cycles, 2 * 3 + 3);
}

TEST(Clocked, UpdateTilesByHand) {
  OwnedStep owned;
  LayerWork& layer = add_layer(owned, linear(5, 2), 5, 1, 1, {}, 1);
  layer.input_gradient = false;
  layer.neurons = false;
  layer.inputs = owned.keep({0b11111, 0, 0b00001, 0, 0b10000});
  layer.nonzero = owned.keep({0b11, 0b00, 0b01, 0b00, 0b10});
  Machine m = small_machine();
  Result result = simulate_clocked(m, owned.step);
  // 5 positions are a tile of 4 and one of 1, each streams 5 inputs.
  const Counters& all = counters(result, 0, Pass::update);
  EXPECT_EQ(all.tiles, 2);
  EXPECT_EQ(all.run_cycles, 2 * (5 + 1 + 2));
  EXPECT_EQ(all.operations_offered, 5 * 5 * 2);
  EXPECT_EQ(all.operations_needed, 5 * 2 + 1 * 1 + 1 * 1);
  EXPECT_EQ(all.table_builds, 2 * 2 + 1 * 2);
  EXPECT_EQ(all.gradient_reads, 10);
  EXPECT_EQ(all.psum_writes, 2 * 5 * 2);
  EXPECT_EQ(all.psum_reads, 5 * 2);
  EXPECT_EQ(all.store_bytes, 5 * 2 * 4);
  // Three positions have a gradient: one tile.
  m.update.compact = true;
  result = simulate_clocked(m, owned.step);
  const Counters& compact = counters(result, 0, Pass::update);
  EXPECT_EQ(compact.tiles, 1);
  EXPECT_EQ(compact.run_cycles, 5 + 1 + 2);
  EXPECT_EQ(compact.operations_offered, 5 * 5 * 2);
  EXPECT_EQ(compact.skipped_by_gradient, 2 * 5 * 2);
  EXPECT_EQ(compact.operations_needed, 12);
  // No gradient at all: a tile of one cycle.
  layer.nonzero = owned.keep({0, 0, 0, 0, 0});
  result = simulate_clocked(m, owned.step);
  EXPECT_EQ(counters(result, 0, Pass::update).run_cycles, 1);
  EXPECT_EQ(counters(result, 0, Pass::update).table_builds, 0);
  EXPECT_EQ(counters(result, 0, Pass::update).skipped_by_gradient, 5 * 5 * 2);
}

// 10 positions of 40 inputs and 3 outputs, 2 planes, in one tile.
TEST(Clocked, PortsSetTheInterval) {
  OwnedStep owned;
  add_layer(owned, linear(40, 3), 10, 1, 2, {}, 1).nonzero = nullptr;
  Machine m;
  const auto cycles = [&](Pass pass) {
    return counters(simulate_clocked(m, owned.step), 0, pass).run_cycles;
  };
  EXPECT_EQ(cycles(Pass::forward), 10 * 2 + 5 + 2);
  EXPECT_EQ(cycles(Pass::soma), 1 + 4);
  m.forward.spikes_banks = 1;  // 32 bits a cycle
  EXPECT_EQ(cycles(Pass::forward), 10 * 2 * 2 + 5 + 2);
  m.forward.psum_banks = 1;  // a column a cycle
  EXPECT_EQ(cycles(Pass::forward), 10 * 2 * 3 + 5 + 2);
  EXPECT_EQ(cycles(Pass::soma), 30 + 4);
  m.forward.tables = false;
  EXPECT_EQ(cycles(Pass::forward), 10 * 2 * 3 * 6 + 5 + 2);
  m.soma = {.lanes = 7, .latency_cycles = 0};
  m.forward.psum_banks = 8;
  EXPECT_EQ(cycles(Pass::soma), 5);
}

// 4 neurons, 3 timesteps, a block for each: membranes and gradients pass from one to the next.
TEST(Clocked, MembranesAndGradientsAreCarried) {
  OwnedStep owned;
  LayerWork& layer = add_layer(owned, linear(4, 4), 3, 1, 1, {}, 1);
  layer.input_gradient = false;
  layer.nonzero = owned.keep({0b1111, 0b0001, 0b0000});
  Machine m = small_machine();
  m.forward.columns = 4;
  m.forward.psum_bytes = 2 * 4 * 4;
  m.gradient.buffer_bytes = 2 * 4 * (2 + 4);
  m.state_bytes = 0;
  const auto bytes = [&](Pass pass) {
    const Result result = simulate_clocked(m, owned.step);
    const Counters& c = counters(result, 0, pass);
    EXPECT_EQ(c.tiles, 3);
    return std::pair(c.load_bytes, c.store_bytes);
  };
  using Bytes = std::pair<int64_t, int64_t>;
  // Spikes, mask, and the membranes that the gradient needs; gradients from the host (4 of 2 bytes
  // each), bits and those not zero to DRAM.
  m.membrane_bytes = 2 * 16;
  EXPECT_EQ(bytes(Pass::soma), (Bytes{0, 3 * (1 + 1 + 16)}));
  EXPECT_EQ(bytes(Pass::gradient), (Bytes{3 * (4 * 2 + 1 + 1 + 16), 3 * 1 + 5 * 2}));
  m.membrane_bytes = 2 * 16 - 1;
  EXPECT_EQ(bytes(Pass::soma), (Bytes{2 * 16, 3 * (1 + 1 + 16) + 2 * 16}));
  EXPECT_EQ(bytes(Pass::gradient),
            (Bytes{3 * (4 * 2 + 1 + 1 + 16) + 2 * 16, 3 * 1 + 5 * 2 + 2 * 16}));
  m.compressed_gradients = false;
  EXPECT_EQ(bytes(Pass::gradient).second, 12 * 2 + 2 * 16);
  m.membrane = Membrane::recompute;
  EXPECT_EQ(bytes(Pass::soma).second, 3 * (1 + 1) + 2 * 16);
  EXPECT_EQ(bytes(Pass::recompute_soma), (Bytes{2 * 16, 3 * 16 + 2 * 16}));
  const Result result = simulate_clocked(m, owned.step);
  const std::vector<Tile>& gradient = tiles(result, Engine::gradient);
  EXPECT_EQ(gradient[0].load_bytes, 4 * 2 + 1 + 1 + 16);  // nothing from beyond the last timestep
  EXPECT_EQ(gradient[2].store_bytes, 4 * 2);              // nothing for before the first
  const std::vector<Tile>& soma = tiles(result, Engine::soma);
  EXPECT_EQ(soma[0].load_bytes, 0);
  EXPECT_EQ(soma[2].store_bytes, 1 + 1);
}

// A machine and work of any kind that can run.

struct Case {
  Machine machine;
  OwnedStep owned;
};

int64_t image_bytes(const LayerWork& layer) {
  return layer.planes * ceil_div(layer.geometry.in_features(), 8);
}

class Random {
 public:
  explicit Random(unsigned seed) : generator_(seed) {}
  int64_t between(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(generator_);
  }
  bool often(double rate = 0.5) { return std::bernoulli_distribution(rate)(generator_); }
  double rate() {
    return often(0.2) ? 0.0 : std::uniform_real_distribution<>(0.0, 1.0)(generator_);
  }
  /// From just `need` to so much that all fits.
  int64_t buffer(int64_t need) { return 2 * need * (often() ? between(1, 4) : between(1, 40)); }

 private:
  std::mt19937 generator_;
};

Geometry random_geometry(Random& random) {
  Geometry g;
  g.groups = random.often(0.3) ? 2 : 1;
  g.in_channels = g.groups * random.between(1, 9);
  g.out_channels = g.groups * random.between(1, 9);
  if (random.often(0.4)) return g;  // linear
  g.in_height = random.between(1, 5);
  g.in_width = random.between(1, 5);
  g.kernel_height = random.between(1, 3);
  g.kernel_width = random.between(1, 3);
  g.stride_height = random.between(1, 2);
  g.stride_width = random.between(1, 2);
  g.padding_height = random.between(0, 2);
  g.padding_width = random.between(0, 2);
  g.dilation_height = random.between(1, 2);
  g.dilation_width = random.between(1, 2);
  if (g.in_height + 2 * g.padding_height <= g.dilation_height * (g.kernel_height - 1) ||
      g.in_width + 2 * g.padding_width <= g.dilation_width * (g.kernel_width - 1)) {
    g.kernel_height = g.kernel_width = 1;
  }
  return g;
}

/// A convolution that takes what `below` gives, in the same arrangement.
Geometry above(const Geometry& below, Random& random) {
  Geometry g;
  g.in_channels = below.out_channels;
  g.in_height = below.out_height();
  g.in_width = below.out_width();
  g.out_channels = random.between(1, 9);
  g.kernel_height = g.kernel_width = g.padding_height = g.padding_width = 1;
  if (random.often()) {
    g.kernel_height = std::min<int64_t>(3, g.in_height + 2);
    g.kernel_width = std::min<int64_t>(3, g.in_width + 2);
  }
  return g;
}

void random_tables(TableEngine& engine, Random& random, int64_t largest_image) {
  engine.rows = random.between(1, 5);
  engine.columns = random.between(1, 5);
  engine.inputs = random.between(1, 4);
  engine.tables = random.often(0.7);
  engine.spikes_banks = random.between(1, 2);
  engine.psum_banks = random.between(1, 6);
  engine.spikes_bytes = random.buffer(largest_image);
  engine.psum_bytes = random.buffer(4 * engine.columns);
}

Case random_case(unsigned seed) {
  Random random(seed);
  Case made;
  const int64_t timesteps = random.between(1, 4);
  const int64_t samples = random.between(1, 4);
  const int64_t layers = random.between(1, 3);
  Geometry g = random_geometry(random);
  for (int64_t l = 0; l < layers; ++l) {
    if (l > 0) g = above(g, random);
    LayerWork& layer = add_layer(
        made.owned, g, timesteps, samples, random.often(0.3) ? random.between(1, 3) : 1,
        {random.rate(), random.rate(), random.rate()}, seed * 8 + static_cast<unsigned>(l));
    if (random.often(0.2)) layer.mask = nullptr;
    if (random.often(0.1)) layer.nonzero = nullptr;
    layer.input_gradient = random.often(l == 0 ? 0.3 : 0.9);
    layer.weight_gradient = random.often(0.9);
    layer.neurons = random.often(0.8);
    layer.membrane = random.often(0.7);
  }
  int64_t image = 1;
  int64_t outputs = 1;
  for (const LayerWork& layer : made.owned.step.layers) {
    image = std::max(image, image_bytes(layer));
    outputs = std::max(outputs, layer.geometry.out_features());
  }
  Machine& m = made.machine;
  const int64_t v = m.value_bytes = random.often() ? 2 : 4;
  random_tables(m.forward, random, image);
  random_tables(m.update, random, image);
  m.forward.weights_bytes =
      random.buffer(m.forward.rows * m.forward.inputs * m.forward.columns * v);
  m.forward.weights_banks = random.between(1, 8);
  m.update.gradients_bytes = random.buffer(m.update.rows * m.update.inputs * m.update.columns * v);
  m.update.gradients_banks = random.between(1, 8);
  m.update.compact = random.often();
  m.soma = {.lanes = random.between(1, 8), .latency_cycles = random.between(0, 5)};
  m.gradient.lanes = random.between(1, 8);
  m.gradient.latency_cycles = random.between(0, 5);
  m.gradient.buffer_bytes = random.buffer(v + 4);
  m.backward.groups = random.between(1, 5);
  m.backward.lanes = random.between(1, 5);
  m.backward.slice = random.between(1, 6);
  m.backward.encode_cycles = random.between(0, 4);
  m.backward.tile_rows = random.between(1, 30);
  m.backward.weights_bytes = random.buffer(m.backward.tile_rows * m.backward.slice * v);
  m.backward.weights_banks = random.between(1, 5);
  m.backward.gradients_bytes = random.buffer(outputs * v);
  m.backward.psum_bytes = random.buffer(4 * m.backward.slice);
  m.backward.input_sparsity = random.often(0.7);
  m.backward.output_sparsity = random.often(0.7);
  m.dram = {.bytes_per_cycle = random.between(1, 40),
            .latency_cycles = random.between(0, 30),
            .burst_bytes = random.between(1, 16)};
  m.state_bytes = random.often(0.3) ? 0 : random.between(0, 4000);
  m.membrane_bytes = random.between(0, 1000);
  m.membrane = random.often() ? Membrane::store : Membrane::recompute;
  m.compressed_gradients = random.often();
  m.schedule = static_cast<Schedule>(random.between(0, 2));
  m.parts = random.between(1, 4);
  return made;
}

constexpr unsigned random_cases = 200;

/// Calls `body(case)` for many of them.
template <typename Body>
void on_random_cases(Body body) {
  for (unsigned seed = 0; seed < random_cases; ++seed) {
    SCOPED_TRACE("case " + std::to_string(seed));
    Case made = random_case(seed);
    body(made);
    if (testing::Test::HasFailure()) return;
  }
}

// The times of an engine's tiles satisfy the equations of "Tiles and time".
TEST(Clocked, TimesSatisfyTheEquations) {
  on_random_cases([](Case& made) {
    const Result result = simulate_clocked(made.machine, made.owned.step);
    int64_t last = 0;
    for (const std::vector<Tile>& engine : result.tiles) {
      const Tile none{};
      for (std::size_t i = 0; i < engine.size(); ++i) {
        SCOPED_TRACE("pass " + std::to_string(engine[i].pass) + ", tile " + std::to_string(i));
        const Tile& tile = engine[i];
        const Tile& before = i >= 1 ? engine[i - 1] : none;
        const Tile& second = i >= 2 ? engine[i - 2] : none;
        EXPECT_GE(tile.load_issue, std::max(before.load_issue, second.end));
        if (tile.load_bytes == 0) {
          EXPECT_EQ(tile.load_done, tile.load_issue);
        }
        EXPECT_GE(tile.build_end, std::max({before.build_end, second.end, tile.load_done}));
        EXPECT_EQ(tile.start, std::max({before.end, tile.ready, tile.load_done, second.store_done,
                                        tile.build_end}));
        EXPECT_GT(tile.end, tile.start);
        EXPECT_EQ(tile.store_issue, std::max(tile.end, before.store_issue));
        if (tile.store_bytes == 0) {
          EXPECT_EQ(tile.store_done, std::max(before.store_done, tile.store_issue));
        } else {
          EXPECT_GT(tile.store_done, tile.store_issue);
        }
        EXPECT_GE(tile.store_done, before.store_done);
        last = std::max(last, tile.store_done);
      }
    }
    EXPECT_EQ(result.cycles, last);
  });
}

// What each engine waited for, told from its tiles' times alone.
TEST(Clocked, CyclesAddUp) {
  on_random_cases([](Case& made) {
    const Result result = simulate_clocked(made.machine, made.owned.step);
    std::vector<std::array<Counters, pass_count>> told(made.owned.step.layers.size());
    for (std::size_t e = 0; e < result.tiles.size(); ++e) {
      int64_t sum = result.tail_idle_cycles[e];
      for (std::size_t layer = 0; layer < result.layers.size(); ++layer) {
        for (int pass = 0; pass < pass_count; ++pass) {
          if (engine_of(static_cast<Pass>(pass)) != static_cast<Engine>(e)) continue;
          const Counters& c = counters(result, layer, static_cast<Pass>(pass));
          sum += c.run_cycles + c.building_cycles + c.stalled_load_cycles + c.stalled_store_cycles +
                 c.idle_cycles;
        }
      }
      EXPECT_EQ(sum, result.cycles) << "engine " << e;
      int64_t end = 0;
      int64_t stored[2] = {0, 0};  // X of the tile before, and of the one before that
      for (const Tile& tile : result.tiles[e]) {
        Counters& c = told[size(tile.layer)][size(tile.pass)];
        const int64_t idle = std::max(end, tile.ready);
        const int64_t load = std::max(idle, tile.load_done);
        const int64_t store = std::max(load, stored[1]);
        ++c.tiles;
        c.idle_cycles += idle - end;
        c.stalled_load_cycles += load - idle;
        c.stalled_store_cycles += store - load;
        c.building_cycles += tile.start - store;
        c.run_cycles += tile.end - tile.start;
        c.load_bytes += tile.load_bytes;
        c.store_bytes += tile.store_bytes;
        c.loads += tile.load_bytes > 0 ? 1 : 0;
        c.stores += tile.store_bytes > 0 ? 1 : 0;
        end = tile.end;
        stored[1] = stored[0];
        stored[0] = tile.store_done;
      }
      EXPECT_EQ(result.tail_idle_cycles[e], result.cycles - end);
    }
    for (std::size_t layer = 0; layer < told.size(); ++layer) {
      for (int pass = 0; pass < pass_count; ++pass) {
        SCOPED_TRACE("layer " + std::to_string(layer) + ", pass " + std::to_string(pass));
        const Counters& c = counters(result, layer, static_cast<Pass>(pass));
        const Counters& t = told[layer][size(pass)];
        EXPECT_EQ(c.tiles, t.tiles);
        EXPECT_EQ(c.idle_cycles, t.idle_cycles);
        EXPECT_EQ(c.stalled_load_cycles, t.stalled_load_cycles);
        EXPECT_EQ(c.stalled_store_cycles, t.stalled_store_cycles);
        EXPECT_EQ(c.building_cycles, t.building_cycles);
        EXPECT_EQ(c.run_cycles, t.run_cycles);
        EXPECT_EQ(c.load_bytes, t.load_bytes);
        EXPECT_EQ(c.store_bytes, t.store_bytes);
        EXPECT_EQ(c.loads, t.loads);
        EXPECT_EQ(c.stores, t.stores);
      }
    }
  });
}

// One transfer after the other, in the order of issue.
TEST(Clocked, DramServesInOrder) {
  on_random_cases([](Case& made) {
    const Result result = simulate_clocked(made.machine, made.owned.step);
    const Dram& dram = made.machine.dram;
    // (issue, engine, store, tile) -> (bytes, done)
    std::map<std::tuple<int64_t, std::size_t, bool, std::size_t>, std::pair<int64_t, int64_t>> all;
    for (std::size_t e = 0; e < result.tiles.size(); ++e) {
      for (std::size_t i = 0; i < result.tiles[e].size(); ++i) {
        const Tile& tile = result.tiles[e][i];
        if (tile.load_bytes > 0) {
          all[{tile.load_issue, e, false, i}] = {tile.load_bytes, tile.load_done};
        }
        if (tile.store_bytes > 0) {
          all[{tile.store_issue, e, true, i}] = {tile.store_bytes, tile.store_done};
        }
      }
    }
    int64_t bus_free = 0;
    int64_t busy = 0;
    for (const auto& [key, transfer] : all) {
      const int64_t moved = ceil_div(transfer.first, dram.burst_bytes) * dram.burst_bytes;
      const int64_t bus = ceil_div(moved, dram.bytes_per_cycle);
      bus_free = std::max(bus_free, std::get<0>(key) + dram.latency_cycles) + bus;
      busy += bus;
      EXPECT_EQ(transfer.second, bus_free);
    }
    EXPECT_EQ(result.dram_busy_cycles, busy);
  });
}

// However the work is cut into tiles, it is the same work.
TEST(Clocked, WorkIsConserved) {
  on_random_cases([](Case& made) {
    const Machine& m = made.machine;
    const Result result = simulate_clocked(m, made.owned.step);
    for (std::size_t l = 0; l < result.layers.size(); ++l) {
      const LayerWork& work = made.owned.step.layers[l];
      const Geometry& g = work.geometry;
      const std::vector<std::int32_t> reads = g.input_of_output();
      int64_t set_bits = 0;  // of every fan-in of every position, once for each of its outputs
      int64_t products = 0;  // of them with a gradient that is not zero
      int64_t needed = 0;    // pairs of input and gradient that the backward engine multiplies
      int64_t valid = 0;
      for (int64_t row = 0; row < work.rows(); ++row) {
        for (int64_t position = 0; position < g.out_positions(); ++position) {
          for (int64_t n = 0; n < g.out_channels; ++n) {
            const int64_t group = n / g.outputs_per_group();
            const int64_t output = position * g.out_channels + n;
            const bool gradient =
                work.nonzero && packed_bit(work.nonzero, row, g.out_features(), output);
            for (int64_t tap = 0; tap < g.taps(); ++tap) {
              const int64_t from = reads[size(position * g.taps() + tap)];
              if (from < 0) continue;
              for (int64_t c = 0; c < g.channels_per_group(); ++c) {
                const int64_t input = from * g.in_channels + group * g.channels_per_group() + c;
                int64_t set = 0;
                for (int64_t plane = 0; plane < work.planes; ++plane) {
                  set += packed_bit(work.inputs, plane * work.rows() + row, g.in_features(), input);
                }
                set_bits += set;
                if (gradient) products += set;
                const bool masked = !work.mask || !m.backward.output_sparsity ||
                                    packed_bit(work.mask, row, g.in_features(), input);
                ++valid;
                if (masked && (gradient || !m.backward.input_sparsity)) ++needed;
              }
            }
          }
        }
      }
      const int64_t dense = work.rows() * work.planes * g.out_positions() * g.weights();
      const Counters& forward = counters(result, l, Pass::forward);
      EXPECT_EQ(forward.operations_offered, dense);
      EXPECT_EQ(forward.operations_needed, set_bits);
      const Counters& soma = counters(result, l, Pass::soma);
      EXPECT_EQ(soma.psum_reads, work.rows() * g.out_features());
      EXPECT_EQ(soma.spike_write_bits, work.neurons ? work.rows() * g.out_features() : 0);
      const Counters& again = counters(result, l, Pass::recompute_forward);
      if (again.tiles > 0) {
        EXPECT_EQ(again.operations_needed, set_bits);
      }
      const Counters& gradient = counters(result, l, Pass::gradient);
      EXPECT_EQ(gradient.gradient_writes, work.nonzero ? work.rows() * g.out_features() : 0);
      const Counters& backward = counters(result, l, Pass::backward);
      if (backward.tiles > 0) {
        EXPECT_EQ(backward.operations_offered, valid);
        EXPECT_EQ(backward.operations_needed, needed);
        EXPECT_EQ(backward.skipped_by_gradient + backward.skipped_by_mask, valid - needed);
        EXPECT_GE(backward.lane_slots, needed);
      }
      const Counters& update = counters(result, l, Pass::update);
      if (update.tiles > 0) {
        EXPECT_EQ(update.operations_offered, dense);
        EXPECT_EQ(update.operations_needed, products);
      }
    }
  });
}

/// The last image, in the sequence of a part, of each block of cut(units, cap, most).
std::vector<int64_t> last_images(int64_t images, int64_t units, int64_t cap, int64_t most) {
  std::vector<int64_t> last;
  if (units > cap) {
    for (int64_t i = 0; i < images * ceil_div(units, cap); ++i) {
      last.push_back(i / ceil_div(units, cap));
    }
    return last;
  }
  const int64_t block = std::min(cap / units, most);
  for (int64_t first = 0; first < images; first += block) {
    last.push_back(std::min(first + block, images) - 1);
  }
  return last;
}

constexpr int64_t unlimited = std::numeric_limits<int64_t>::max();

std::vector<int64_t> last_images(const Machine& m, const LayerWork& work, Pass pass,
                                 int64_t images) {
  const Geometry& g = work.geometry;
  if (pass == Pass::gradient) {
    return last_images(images, g.out_features(), m.gradient.buffer_bytes / 2 / (m.value_bytes + 4),
                       unlimited);
  }
  if (pass == Pass::update) {
    return last_images(images, 1, unlimited, m.update.spikes_bytes / 2 / image_bytes(work));
  }
  const BackwardEngine& b = m.backward;
  const int64_t rho = std::min(b.tile_rows, g.taps() * g.outputs_per_group());
  const int64_t slices = std::min({ceil_div(g.channels_per_group(), b.slice),
                                   b.weights_bytes / 2 / (m.value_bytes * rho * b.slice),
                                   b.psum_bytes / 2 / (4 * b.slice)});
  const int64_t channels = std::min(slices * b.slice, g.channels_per_group());
  return last_images(images, g.in_positions(), b.psum_bytes / 2 / (4 * channels),
                     b.gradients_bytes / 2 / (m.value_bytes * g.out_features()));
}

/// What the tiles of a result wait for, told from "Program order and schedules".
class Prerequisites {
 public:
  Prerequisites(const Case& made, const Result& result)
      : machine_(made.machine), layers_(made.owned.step.layers) {
    for (const std::vector<Tile>& engine : result.tiles) {
      for (const Tile& tile : engine) {
        passes_[{tile.pass, tile.part, tile.layer}].push_back(&tile);
        parts_ = std::max(parts_, tile.part + 1);
      }
    }
    for (const Tile& tile : tiles(result, Engine::forward)) {
      if (tile.row == 0) sets_.push_back(&tile);
    }
  }

  /// When the data of the tile is complete.
  int64_t data(const Tile& tile) const {
    switch (static_cast<Pass>(tile.pass)) {
      case Pass::forward:
        return tile.layer == 0 ? 0 : last(Pass::soma, tile.part, tile.layer - 1)->store_done;
      case Pass::soma:
        return of_set(Pass::forward, tile)->store_done;
      case Pass::recompute_soma:
        return of_set(Pass::recompute_forward, tile)->store_done;
      case Pass::recompute_forward:
        return arrived(tile);
      case Pass::gradient: {
        const Tile* again = last(Pass::recompute_soma, tile.part, tile.layer);
        return std::max(arrived(tile), again ? again->store_done : 0);
      }
      case Pass::backward:
      case Pass::update:
        return gradients(tile)->store_done;
    }
    return 0;
  }

  /// When what must have ended before the tile has.
  int64_t order(const Tile& tile) const {
    int64_t after = 0;
    const auto wait = [&after](const Tile* other) {
      if (other) after = std::max(after, other->end);
    };
    const Pass pass = static_cast<Pass>(tile.pass);
    if (engine_of(pass) == Engine::forward && tile.row == 0) {
      const auto at = std::ranges::find_if(sets_, [&](const Tile* set) { return set == &tile; });
      if (at - sets_.begin() >= 2) {
        const Tile& before = **(at - 2);
        const bool again = static_cast<Pass>(before.pass) == Pass::recompute_forward;
        wait(of_set(again ? Pass::recompute_soma : Pass::soma, before));
      }
    }
    if (pass == Pass::gradient && tile.block == 0) {
      std::vector<const Tile*> updates;
      for (int64_t l = static_cast<int64_t>(layers_.size()) - 1; l > tile.layer; --l) {
        if (const Tile* update = last(Pass::update, tile.part, l)) updates.push_back(update);
      }
      if (updates.size() >= 2) wait(updates[updates.size() - 2]);
    }
    const int64_t earlier = machine_.schedule == Schedule::batch ? 2 : 1;
    if (machine_.schedule != Schedule::serial && pass == Pass::forward && tile.part >= earlier &&
        &tile == passes_.at({0, tile.part, 0}).front()) {
      for (Pass ending : {Pass::gradient, Pass::backward, Pass::update}) {
        for (std::size_t l = 0; l < layers_.size(); ++l) {
          wait(last(ending, tile.part - earlier, static_cast<int64_t>(l)));
        }
      }
    }
    return after;
  }

  /// All tiles in the order of the step's program.
  std::vector<const Tile*> program() const {
    std::vector<const Tile*> all;
    const auto append = [&](Pass pass, int64_t part, std::size_t layer) {
      const auto at = passes_.find({static_cast<int64_t>(pass), part, static_cast<int64_t>(layer)});
      if (at != passes_.end()) all.insert(all.end(), at->second.begin(), at->second.end());
    };
    const auto append_sets = [&](Pass forward, Pass soma, int64_t part, std::size_t layer) {
      std::vector<const Tile*> both;
      std::swap(both, all);
      append(forward, part, layer);
      append(soma, part, layer);
      std::ranges::stable_sort(all, [](const Tile* a, const Tile* b) {
        return std::tuple(a->block, a->column) < std::tuple(b->block, b->column);
      });
      both.insert(both.end(), all.begin(), all.end());
      std::swap(both, all);
    };
    for (int64_t part = 0; part < parts_; ++part) {
      for (std::size_t l = 0; l < layers_.size(); ++l) {
        append_sets(Pass::forward, Pass::soma, part, l);
      }
      for (std::size_t l = layers_.size(); l-- > 0;) {
        append_sets(Pass::recompute_forward, Pass::recompute_soma, part, l);
        append(Pass::gradient, part, l);
        append(Pass::backward, part, l);
        append(Pass::update, part, l);
      }
    }
    return all;
  }

 private:
  const Tile* last(Pass pass, int64_t part, int64_t layer) const {
    const auto at = passes_.find({static_cast<int64_t>(pass), part, layer});
    return at == passes_.end() ? nullptr : at->second.back();
  }

  /// The last tile of a pass in the set of a tile.
  const Tile* of_set(Pass pass, const Tile& tile) const {
    const Tile* found = nullptr;
    for (const Tile* other : passes_.at({static_cast<int64_t>(pass), tile.part, tile.layer})) {
      if (other->block == tile.block && other->column == tile.column) found = other;
    }
    return found;
  }

  /// When the gradient at a layer's spikes is there.
  int64_t arrived(const Tile& tile) const {
    for (auto l = tile.layer + 1; l < static_cast<int64_t>(layers_.size()); ++l) {
      if (const Tile* backward = last(Pass::backward, tile.part, l)) return backward->store_done;
    }
    return last(Pass::soma, tile.part, static_cast<int64_t>(layers_.size()) - 1)->store_done;
  }

  const Tile* gradients(const Tile& tile) const {
    const LayerWork& work = layers_[size(tile.layer)];
    const int64_t parts = std::min(machine_.parts, work.samples);
    const int64_t samples = work.samples / parts + (tile.part < work.samples % parts ? 1 : 0);
    const int64_t images = samples * work.timesteps;
    const std::vector<int64_t> made = last_images(machine_, work, Pass::gradient, images);
    const int64_t image =
        last_images(machine_, work, static_cast<Pass>(tile.pass), images)[size(tile.block)];
    // The last tile of the first block that goes so far.
    auto at = std::ranges::lower_bound(made, image);
    while (at + 1 != made.end() && *(at + 1) == *at) ++at;
    return passes_.at({static_cast<int64_t>(Pass::gradient), tile.part, tile.layer})
        .at(size(at - made.begin()));
  }

  const Machine& machine_;
  const std::vector<LayerWork>& layers_;
  std::map<std::tuple<int64_t, int64_t, int64_t>, std::vector<const Tile*>> passes_;
  std::vector<const Tile*> sets_;  // the first tile of each, in the engine's order
  int64_t parts_ = 0;
};

TEST(Clocked, TilesWaitForWhatTheTextSays) {
  on_random_cases([](Case& made) {
    const Result result = simulate_clocked(made.machine, made.owned.step);
    const Prerequisites told(made, result);
    std::map<const Tile*, int64_t> before;  // under `serial`, the end of the tile before
    if (made.machine.schedule == Schedule::serial) {
      const std::vector<const Tile*> program = told.program();
      for (std::size_t i = 1; i < program.size(); ++i) before[program[i]] = program[i - 1]->end;
    }
    for (const std::vector<Tile>& engine : result.tiles) {
      for (std::size_t i = 0; i < engine.size(); ++i) {
        const Tile& tile = engine[i];
        SCOPED_TRACE("pass " + std::to_string(tile.pass) + ", tile " + std::to_string(i));
        const int64_t data = told.data(tile);
        EXPECT_EQ(tile.ready, std::max({data, told.order(tile), before[&tile]}));
        EXPECT_EQ(tile.load_issue, std::max({data, i >= 1 ? engine[i - 1].load_issue : 0,
                                             i >= 2 ? engine[i - 2].end : 0}));
      }
    }
  });
}

// The forward engine takes the next part before it recomputes this one.
TEST(Clocked, BatchGoesOnBeforeItRecomputes) {
  OwnedStep owned;
  add_layer(owned, linear(4, 4), 1, 3, 1, {}, 1);
  Machine m = small_machine();
  m.membrane = Membrane::recompute;
  m.parts = 3;
  using Order = std::vector<std::pair<Pass, int64_t>>;
  const auto order = [&](Schedule schedule, Engine engine) {
    m.schedule = schedule;
    const Result result = simulate_clocked(m, owned.step);
    Order seen;
    for (const Tile& tile : tiles(result, engine)) {
      const std::pair at(static_cast<Pass>(tile.pass), tile.part);
      if (seen.empty() || seen.back() != at) seen.push_back(at);
    }
    return seen;
  };
  constexpr Pass first = Pass::forward;
  constexpr Pass again = Pass::recompute_forward;
  const Order by_part = {{first, 0}, {again, 0}, {first, 1}, {again, 1}, {first, 2}, {again, 2}};
  EXPECT_EQ(order(Schedule::batch, Engine::forward),
            (Order{{first, 0}, {first, 1}, {again, 0}, {first, 2}, {again, 1}, {again, 2}}));
  EXPECT_EQ(order(Schedule::layer, Engine::forward), by_part);
  EXPECT_EQ(order(Schedule::serial, Engine::forward), by_part);
  EXPECT_EQ(order(Schedule::batch, Engine::soma)[2], (std::pair(Pass::recompute_soma, int64_t{0})));
}

// Two layers of 16 neurons, two images: 4 bytes of spikes, as many of mask, 64 of gradients and 128
// of membranes each; half of the buffer is what counts.
TEST(Clocked, StateStaysOnChipWhileItFits) {
  OwnedStep owned;
  for (int64_t l = 0; l < 2; ++l) add_layer(owned, linear(16, 16), 2, 1, 1, {}, 1);
  Machine m = small_machine();
  const auto resident = [&](int64_t half_bytes) {
    m.state_bytes = 2 * half_bytes;
    return simulate_clocked(m, owned.step).resident;
  };
  using Bits = std::vector<int64_t>;
  EXPECT_EQ(resident(3), (Bits{0, 0}));
  EXPECT_EQ(resident(4), (Bits{1, 0}));
  EXPECT_EQ(resident(16), (Bits{3, 3}));
  EXPECT_EQ(resident(16 + 64), (Bits{3, 3 + 4}));
  EXPECT_EQ(resident(16 + 2 * 64), (Bits{3 + 8, 3 + 4}));
  EXPECT_EQ(resident(16 + 3 * 64), (Bits{3 + 4 + 8, 3 + 4}));
  EXPECT_EQ(resident(16 + 3 * 64 + 128), (Bits{3 + 4 + 8 + 16, 3 + 4}));
  m.membrane = Membrane::recompute;  // both in the same place
  EXPECT_EQ(resident(16 + 3 * 64 + 128), (Bits{3 + 4 + 8 + 16, 3 + 4 + 16}));
}

// 3 x 5 accumulators of 4 bytes, two parts of one image each: they stay where 60 bytes fit half.
TEST(Clocked, WeightGradientsComeAndGo) {
  OwnedStep owned;
  LayerWork& layer = add_layer(owned, linear(5, 3), 1, 2, 1, {}, 1);
  layer.input_gradient = false;
  layer.neurons = false;
  Machine m = small_machine();
  m.compressed_gradients = false;
  m.parts = 2;
  m.state_bytes = 0;
  const int64_t operands = 2 * 1 + 2 * 3 * 2;  // inputs, gradients
  m.update.psum_bytes = 2 * 60;
  Counters c = counters(simulate_clocked(m, owned.step), 0, Pass::update);
  EXPECT_EQ(c.tiles, 2 * 2);
  EXPECT_EQ(c.store_bytes, 2 * 60);
  EXPECT_EQ(c.load_bytes, operands + 60);
  // Input blocks of 2: three visits to each of two column tiles, gradients loaded in each.
  m.update.psum_bytes = 2 * 2 * 4 * 2;
  c = counters(simulate_clocked(m, owned.step), 0, Pass::update);
  EXPECT_EQ(c.tiles, 2 * 2 * 3);
  EXPECT_EQ(c.store_bytes, 2 * 60);
  EXPECT_EQ(c.load_bytes, operands + 2 * 2 * 3 * 2 + 60);
  EXPECT_EQ(c.psum_reads, 15);
}

// Numbers.

TEST(Precision, KeepsFp32) {
  for (float value : {0.1F, -3.0e38F, 1.0e-40F, -0.0F}) {
    EXPECT_EQ(round_to(Precision::fp32, value), value);
  }
}

/// All finite numbers of a format that are not negative, ascending, and the next beyond the last.
std::vector<double> numbers_of(int exponent_bits, int significand_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  std::vector<double> numbers;
  for (int exponent = 0; exponent < (1 << exponent_bits) - 1; ++exponent) {
    for (int s = 0; s < (1 << significand_bits); ++s) {
      const double significand = (exponent > 0 ? 1 << significand_bits : 0) + s;
      numbers.push_back(std::ldexp(significand, std::max(exponent, 1) - bias - significand_bits));
    }
  }
  numbers.push_back(std::ldexp(1.0, bias + 1));
  return numbers;
}

TEST(Precision, RoundsToTheNearestOfAll) {
  std::mt19937 generator(7);
  for (const auto& [precision, exponent_bits, significand_bits] :
       {std::tuple(Precision::fp16, 5, 10), std::tuple(Precision::bf16, 8, 7)}) {
    const std::vector<double> numbers = numbers_of(exponent_bits, significand_bits);
    const auto expected = [&](double value) {
      if (value >= numbers.back()) return std::numeric_limits<double>::infinity();
      const auto at = std::upper_bound(numbers.begin(), numbers.end(), value) - numbers.begin();
      const double below = numbers[size(at - 1)];
      const double above = numbers[size(at)];
      const bool even = (at - 1) % 2 == 0;
      const bool down = value - below < above - value || (value - below == above - value && even);
      if (!down && above == numbers.back()) return std::numeric_limits<double>::infinity();
      return down ? below : above;
    };
    const auto check = [&](float value) {
      ASSERT_EQ(static_cast<double>(round_to(precision, value)), expected(value)) << value;
      ASSERT_EQ(round_to(precision, -value), -round_to(precision, value)) << value;
    };
    for (std::size_t i = 0; i + 1 < numbers.size(); ++i) {
      // The number itself, the middle to the next one, and the floats beside the middle.
      const auto value = static_cast<float>(numbers[i]);
      const auto middle = static_cast<float>((numbers[i] + numbers[i + 1]) / 2);
      check(value);
      check(middle);
      check(std::nextafter(middle, 0.0F));
      check(std::nextafter(middle, std::numeric_limits<float>::infinity()));
    }
    for (int i = 0; i < 200'000; ++i) {
      const auto value = std::bit_cast<float>(static_cast<std::uint32_t>(generator()) >> 1);
      if (!std::isnan(value)) check(value);
    }
    const float infinity = std::numeric_limits<float>::infinity();
    EXPECT_EQ(round_to(precision, infinity), infinity);
    EXPECT_TRUE(std::isnan(round_to(precision, std::numeric_limits<float>::quiet_NaN())));
    EXPECT_TRUE(std::signbit(round_to(precision, -0.0F)));
    EXPECT_TRUE(std::signbit(round_to(precision, -1.0e-45F)));
  }
}

// A case with numbers: weights, gradients that are not zero just where the work says, biases.
struct Numbers {
  std::vector<Floats> owned;
  std::vector<LayerValues> layers;
};

/// `draw()` gives a value that is not zero.
template <typename Draw>
Numbers numbers_for(const StepWork& step, Draw draw) {
  Numbers numbers;
  numbers.owned.reserve(step.layers.size() * 3);
  const auto keep = [&](Floats values) {
    return numbers.owned.emplace_back(std::move(values)).data();
  };
  for (const LayerWork& work : step.layers) {
    const Geometry& g = work.geometry;
    LayerValues& layer = numbers.layers.emplace_back();
    Floats weight(size(g.weights()));
    std::ranges::generate(weight, draw);
    layer.weight = keep(weight);
    if (numbers.layers.size() % 2 == 1) {
      Floats bias(size(g.out_channels));
      std::ranges::generate(bias, draw);
      layer.bias = keep(bias);
    }
    if (!work.nonzero) continue;
    Floats gradients(size(work.rows() * g.out_features()));
    for (int64_t row = 0; row < work.rows(); ++row) {
      for (int64_t f = 0; f < g.out_features(); ++f) {
        if (packed_bit(work.nonzero, row, g.out_features(), f)) {
          gradients[size(row * g.out_features() + f)] = draw();
        }
      }
    }
    layer.grad_currents = keep(gradients);
  }
  return numbers;
}

float plane_weight(const LayerValues& values, int64_t plane) {
  return values.plane_weights.empty() ? std::ldexp(1.0F, static_cast<int>(plane))
                                      : values.plane_weights[size(plane)];
}

/// Σ over planes of w_plane · bit, of an input feature.
double input_value(const LayerWork& work, const LayerValues& values, int64_t row, int64_t f) {
  double value = 0;
  for (int64_t plane = 0; plane < work.planes; ++plane) {
    if (packed_bit(work.inputs, plane * work.rows() + row, work.geometry.in_features(), f)) {
      value += plane_weight(values, plane);
    }
  }
  return value;
}

/// One pair of an input and an output that a weight connects, of an image.
struct Connection {
  int64_t row, position, from, n, c, tap, weight, input, output;
};

template <typename Body>
void on_connections(const LayerWork& work, Body body) {
  const Geometry& g = work.geometry;
  const std::vector<std::int32_t> reads = g.input_of_output();
  for (int64_t row = 0; row < work.rows(); ++row) {
    for (int64_t position = 0; position < g.out_positions(); ++position) {
      for (int64_t n = 0; n < g.out_channels; ++n) {
        for (int64_t tap = 0; tap < g.taps(); ++tap) {
          const int64_t from = reads[size(position * g.taps() + tap)];
          for (int64_t c = 0; from >= 0 && c < g.channels_per_group(); ++c) {
            const int64_t channel = n / g.outputs_per_group() * g.channels_per_group() + c;
            body(Connection{row, position, from, n, c, tap,
                            (n * g.channels_per_group() + c) * g.taps() + tap,
                            row * g.in_features() + from * g.in_channels + channel,
                            row * g.out_features() + position * g.out_channels + n});
          }
        }
      }
    }
  }
}

// With small integers every sum is exact, whatever its order: the numbers are those of the layer.
TEST(ClockedValues, AreThoseOfTheLayer) {
  unsigned seed = 0;
  on_random_cases([&seed](Case& made) {
    std::mt19937 generator(++seed);
    std::uniform_int_distribution<int> distribution(1, 3);
    Numbers numbers = numbers_for(made.owned.step, [&] {
      return static_cast<float>(distribution(generator) * (generator() % 2 == 0 ? 1 : -1));
    });
    for (std::size_t l = 0; l < numbers.layers.size(); ++l) {
      if (l == 0) numbers.layers[l].scale = 0.5F;
      const auto planes = size(made.owned.step.layers[l].planes);
      if (seed % 2 == 0) numbers.layers[l].plane_weights.assign(planes, -3.0F);
    }
    const Precision precision = made.machine.value_bytes == 4 ? Precision::fp32
                                : seed % 3 == 0               ? Precision::bf16
                                                              : Precision::fp16;
    const Result timed = simulate_clocked(made.machine, made.owned.step);
    const Result result =
        simulate_clocked(made.machine, made.owned.step, precision, numbers.layers);
    EXPECT_EQ(result.cycles, timed.cycles);
    EXPECT_EQ(result.layers, timed.layers);
    EXPECT_EQ(result.tiles, timed.tiles);
    for (std::size_t l = 0; l < numbers.layers.size(); ++l) {
      SCOPED_TRACE("layer " + std::to_string(l));
      const LayerWork& work = made.owned.step.layers[l];
      const LayerValues& values = numbers.layers[l];
      const Geometry& g = work.geometry;
      const bool backward = work.nonzero && work.input_gradient;
      const bool update = work.nonzero && work.weight_gradient;
      std::vector<double> currents(size(work.rows() * g.out_features()));
      std::vector<double> grad_inputs(size(backward ? work.rows() * g.in_features() : 0));
      std::vector<double> weight_gradient(size(update ? g.weights() : 0));
      on_connections(work, [&](const Connection& at) {
        const double weight = values.weight[at.weight];
        const double input =
            values.scale * input_value(work, values, at.row, at.input % g.in_features());
        currents[size(at.output)] += weight * input;
        const bool needed = !work.mask || packed_bit(work.mask, at.row, g.in_features(),
                                                     at.input % g.in_features());
        if (backward && needed) {
          grad_inputs[size(at.input)] += weight * values.grad_currents[at.output];
        }
        if (update) weight_gradient[size(at.weight)] += input * values.grad_currents[at.output];
      });
      for (double& gradient : grad_inputs) {
        gradient = round_to(precision, static_cast<float>(gradient));
      }
      for (std::size_t i = 0; i < currents.size(); ++i) {
        if (values.bias) currents[i] += values.bias[i % size(g.out_channels)];
      }
      const auto same = [](const Floats& got, const std::vector<double>& expected) {
        return std::ranges::equal(got, expected);
      };
      EXPECT_TRUE(same(values.currents, currents));
      EXPECT_TRUE(same(values.grad_inputs, grad_inputs));
      EXPECT_TRUE(same(values.weight_gradient, weight_gradient));
    }
  });
}

// The order and the rounding of "Arithmetic", written a second time: from the operands and the
// bits of one output, without tiles of time.

float subset_sum(const TableEngine& engine, Precision precision, const Floats& operands,
                 unsigned index) {
  float sum = 0.0F;
  if (!engine.tables) {
    for (std::size_t i = 0; i < operands.size(); ++i) {
      if ((index >> i) & 1U) sum = sum + round_to(precision, operands[i]);
    }
    return sum;
  }
  // From the highest bit down: each step is an entry of the table.
  bool first = true;
  for (std::size_t i = operands.size(); i-- > 0;) {
    if (((index >> i) & 1U) == 0) continue;
    const float operand = round_to(precision, operands[i]);
    sum = first ? operand : round_to(precision, sum + operand);
    first = false;
  }
  return sum;
}

float tree(const Floats& leaves, std::size_t first, std::size_t width) {
  if (width == 1) return first < leaves.size() ? leaves[first] : 0.0F;
  return tree(leaves, first, width / 2) + tree(leaves, first + width / 2, width / 2);
}

/// Adds the row tiles of some operands, plane by plane; `set(i, plane)` is the operand's bit.
template <typename Set>
float accumulate(const TableEngine& engine, Precision precision, const Floats& operands,
                 const LayerValues& values, int64_t planes, float sum, Set set) {
  const auto count = static_cast<int64_t>(operands.size());
  for (int64_t tile = 0; tile < count; tile += engine.rows * engine.inputs) {
    for (int64_t plane = 0; plane < planes; ++plane) {
      Floats leaves;
      for (int64_t row = 0; row < engine.rows; ++row) {
        Floats some;
        unsigned index = 0;
        for (int64_t i = 0; i < engine.inputs; ++i) {
          const int64_t at = tile + row * engine.inputs + i;
          if (at >= count) break;
          some.push_back(operands[size(at)]);
          if (set(at, plane)) index |= 1U << i;
        }
        leaves.push_back(subset_sum(engine, precision, some, index));
      }
      const float weighted =
          plane_weight(values, plane) * tree(leaves, 0, std::bit_ceil(size(engine.rows)));
      sum = sum + weighted;
    }
  }
  return sum;
}

TEST(ClockedValues, FollowTheArithmeticToTheBit) {
  unsigned seed = 0;
  on_random_cases([&seed](Case& made) {
    if (++seed % 2 == 0) return;
    std::mt19937 generator(seed);
    std::uniform_real_distribution<float> distribution(0.1F, 2.0F);
    const auto draw = [&] { return distribution(generator) * (generator() % 2 == 0 ? 1 : -1); };
    Machine& m = made.machine;
    // One block, so that the row tiles of the weight update can be told from the sequence alone.
    m.update.spikes_bytes = 1 << 20;
    Numbers numbers = numbers_for(made.owned.step, draw);
    const Precision precision = m.value_bytes == 4 ? Precision::fp32
                                : generator() % 2  ? Precision::bf16
                                                   : Precision::fp16;
    for (LayerValues& values : numbers.layers) values.scale = draw();
    simulate_clocked(m, made.owned.step, precision, numbers.layers);
    for (std::size_t l = 0; l < numbers.layers.size(); ++l) {
      SCOPED_TRACE("layer " + std::to_string(l));
      const LayerWork& work = made.owned.step.layers[l];
      const LayerValues& values = numbers.layers[l];
      const Geometry& g = work.geometry;
      const std::vector<std::int32_t> reads = g.input_of_output();
      const std::vector<std::int32_t> readers = g.output_of_input();
      const auto input_bit = [&](int64_t row, int64_t position, int64_t n, int64_t k,
                                 int64_t plane) {
        const int64_t from = reads[size(position * g.taps() + k / g.channels_per_group())];
        if (from < 0) return false;
        const int64_t channel =
            n / g.outputs_per_group() * g.channels_per_group() + k % g.channels_per_group();
        return packed_bit(work.inputs, plane * work.rows() + row, g.in_features(),
                          from * g.in_channels + channel);
      };
      const auto weight_at = [&](int64_t n, int64_t k) {
        const int64_t tap = k / g.channels_per_group();
        return (n * g.channels_per_group() + k % g.channels_per_group()) * g.taps() + tap;
      };

      Floats currents(size(work.rows() * g.out_features()));
      for (int64_t n = 0; n < g.out_channels; ++n) {
        Floats operands;
        for (int64_t k = 0; k < g.fan_in(); ++k) operands.push_back(values.weight[weight_at(n, k)]);
        for (int64_t row = 0; row < work.rows(); ++row) {
          for (int64_t position = 0; position < g.out_positions(); ++position) {
            const float psum = accumulate(
                m.forward, precision, operands, values, work.planes, 0.0F,
                [&](int64_t k, int64_t plane) { return input_bit(row, position, n, k, plane); });
            const float scaled = values.scale * psum;
            currents[size((row * g.out_positions() + position) * g.out_channels + n)] =
                values.bias ? scaled + values.bias[n] : scaled;
          }
        }
      }
      EXPECT_EQ(test::bits_of(values.currents), test::bits_of(currents));

      if (work.nonzero && work.input_gradient) {
        Floats grad_inputs(size(work.rows() * g.in_features()));
        for (int64_t f = 0; f < work.rows() * g.in_features(); ++f) {
          const int64_t row = f / g.in_features();
          const int64_t position = f % g.in_features() / g.in_channels;
          const int64_t channel = f % g.in_channels;
          const int64_t group = channel / g.channels_per_group();
          if (work.mask && !packed_bit(work.mask, row, g.in_features(), f % g.in_features())) {
            continue;
          }
          for (int64_t tap = 0; tap < g.taps(); ++tap) {
            const int64_t output = readers[size(position * g.taps() + tap)];
            if (output < 0) continue;
            for (int64_t i = 0; i < g.outputs_per_group(); ++i) {
              const int64_t n = group * g.outputs_per_group() + i;
              const int64_t k = tap * g.channels_per_group() + channel % g.channels_per_group();
              const float gradient =
                  values.grad_currents[row * g.out_features() + output * g.out_channels + n];
              if (gradient == 0.0F) continue;
              const float product = round_to(precision, values.weight[weight_at(n, k)]) *
                                    round_to(precision, gradient);
              grad_inputs[size(f)] = grad_inputs[size(f)] + product;
            }
          }
        }
        for (float& gradient : grad_inputs) gradient = round_to(precision, gradient);
        EXPECT_EQ(test::bits_of(values.grad_inputs), test::bits_of(grad_inputs));
      }

      if (work.nonzero && work.weight_gradient) {
        Floats weight_gradient(size(g.weights()));
        const int64_t parts = std::min(m.parts, work.samples);
        for (int64_t n = 0; n < g.out_channels; ++n) {
          const int64_t first_column =
              n - n % g.outputs_per_group() % m.update.columns;  // of n's column tile
          const int64_t columns =
              std::min(m.update.columns,
                       (n / g.outputs_per_group() + 1) * g.outputs_per_group() - first_column);
          int64_t first_sample = 0;
          for (int64_t p = 0; p < parts; ++p) {
            const int64_t samples = work.samples / parts + (p < work.samples % parts ? 1 : 0);
            std::vector<std::pair<int64_t, int64_t>> sites;  // row, position
            Floats operands;
            for (int64_t s = first_sample + samples - 1; s >= first_sample; --s) {
              for (int64_t t = work.timesteps - 1; t >= 0; --t) {
                const int64_t row = t * work.samples + s;
                for (int64_t position = 0; position < g.out_positions(); ++position) {
                  const float* gradients =
                      values.grad_currents + row * g.out_features() + position * g.out_channels;
                  const bool any =
                      std::any_of(gradients + first_column, gradients + first_column + columns,
                                  [](float gradient) { return gradient != 0.0F; });
                  if (m.update.compact && !any) continue;
                  sites.emplace_back(row, position);
                  operands.push_back(gradients[n]);
                }
              }
            }
            first_sample += samples;
            for (int64_t k = 0; k < g.fan_in(); ++k) {
              float& sum = weight_gradient[size(weight_at(n, k))];
              sum = accumulate(m.update, precision, operands, values, work.planes, sum,
                               [&](int64_t i, int64_t plane) {
                                 return input_bit(sites[size(i)].first, sites[size(i)].second, n, k,
                                                  plane);
                               });
            }
          }
        }
        for (float& gradient : weight_gradient) gradient = values.scale * gradient;
        EXPECT_EQ(test::bits_of(values.weight_gradient), test::bits_of(weight_gradient));
      }
    }
  });
}

// 2048 and 1 are numbers of fp16, their sum is not: the table says 2048. In two tables both reach
// the adder tree, which is fp32.
TEST(ClockedValues, TablesRoundAndTreesDoNot) {
  OwnedStep owned;
  LayerWork& layer = add_layer(owned, linear(2, 1), 1, 1, 1, {}, 1);
  layer.inputs = owned.keep({0b11});
  layer.nonzero = nullptr;
  const Floats weight = {2048.0F, 1.0F};
  Machine m = small_machine();
  const auto current = [&](Precision precision) {
    std::vector<LayerValues> values(1);
    values[0].weight = weight.data();
    simulate_clocked(m, owned.step, precision, values);
    return values[0].currents.at(0);
  };
  EXPECT_EQ(current(Precision::fp16), 2048.0F);
  m.forward.inputs = 1;
  EXPECT_EQ(current(Precision::fp16), 2049.0F);
  m.forward.inputs = 2;
  m.forward.tables = false;
  EXPECT_EQ(current(Precision::fp16), 2049.0F);
}

// Half of the smallest number of fp16 rounds to zero, and zero times infinity is not added; what
// the backward engine gives is rounded once, after its last addition.
TEST(ClockedValues, BackwardRoundsWhatItGives) {
  OwnedStep owned;
  LayerWork& layer = add_layer(owned, linear(1, 3), 1, 1, 1, {}, 1);
  layer.mask = nullptr;
  layer.nonzero = owned.keep({0b111});
  const Floats weight = {2048.0F, std::numeric_limits<float>::infinity(), 1.0F};
  const Floats gradients = {1.0F, 0x1p-25F, 1.0F};
  std::vector<LayerValues> values(1);
  values[0].weight = weight.data();
  values[0].grad_currents = gradients.data();
  Machine m = small_machine();
  m.backward.tile_rows = 1;
  simulate_clocked(m, owned.step, Precision::fp16, values);
  EXPECT_EQ(values[0].grad_inputs, Floats{2048.0F});
  const Floats thrice = {2048.0F, 1.0F, 1.0F};
  const Floats ones = {1.0F, 1.0F, 1.0F};
  values[0].weight = thrice.data();
  values[0].grad_currents = ones.data();
  simulate_clocked(m, owned.step, Precision::fp16, values);
  EXPECT_EQ(values[0].grad_inputs, Floats{2050.0F});
}

TEST(ClockedValues, RefusesWhatDoesNotFitTheWork) {
  OwnedStep owned;
  LayerWork& layer = add_layer(owned, linear(8, 3), 2, 1, 2, {}, 1);
  const Machine m = small_machine();
  const Floats numbers(48, 1.0F);
  std::vector<LayerValues> values(1);
  const auto simulate = [&](Precision precision) {
    return [&, precision] { simulate_clocked(m, owned.step, precision, values); };
  };
  expect_refused(simulate(Precision::fp32), {"precision", "value_bytes = 2", "4"});
  expect_refused(simulate(Precision::fp16), {"layer0", "weights"});
  values[0].weight = numbers.data();
  expect_refused(simulate(Precision::fp16), {"layer0", "grad_currents"});
  values[0].grad_currents = numbers.data();
  values[0].plane_weights = {1.0F};
  expect_refused(simulate(Precision::fp16), {"layer0", "2 plane_weights", "got 1"});
  values[0].plane_weights = {1.0F, -1.0F};
  simulate(Precision::fp16)();
  EXPECT_EQ(values[0].currents.size(), size(layer.rows() * 3));
  values.resize(2);
  expect_refused(simulate(Precision::fp16), {"values", "1 layers", "got 2"});
}

}  // namespace
}  // namespace h2learn::accelerator
