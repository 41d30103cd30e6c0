// The fast simulator: its bit kernels against the scalar ones, tiles worked out by hand, the rules
// of time and of the DRAM channel on whole steps, and every number that comes from bits against a
// count of one bit after the other.
#include <algorithm>
#include <map>
#include <tuple>

#include "accelerator/fast_items.hpp"
#include "accelerator/fast_shape.hpp"
#include "h2learn/accelerator/simulate.hpp"
#include "kernels/bit_strings.hpp"
#include "reference/bit_strings.hpp"
#include "support.hpp"

namespace h2learn::test {
namespace {

using namespace h2learn::accelerator;
using Counts = std::vector<std::int64_t>;

std::int64_t up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// ---- steps and machines

/// A step that owns its bits.
struct Step {
  StepWork work;
  std::vector<Words> bits;
  std::int64_t timesteps;
  std::int64_t samples;
  unsigned seed = 1;

  Step(std::int64_t all_timesteps, std::int64_t all_samples)
      : timesteps(all_timesteps), samples(all_samples) {
    bits.reserve(64);
  }

  const std::uint64_t* keep(Words words) {
    bits.push_back(std::move(words));
    return bits.back().data();
  }
  const std::uint64_t* random(std::int64_t rows, std::int64_t features, double rate) {
    return keep(random_words(rows, features, rate, seed++));
  }

  /// Random spikes, masks and gradients.
  LayerWork& add(const Geometry& geometry, std::int64_t planes = 1, double spikes = 0.2,
                 double mask = 0.6, double gradients = 0.4) {
    LayerWork layer;
    layer.name = "layer " + std::to_string(work.layers.size());
    layer.geometry = geometry;
    layer.timesteps = timesteps;
    layer.samples = samples;
    layer.planes = planes;
    layer.inputs = random(planes * layer.rows(), geometry.in_features(), spikes);
    layer.mask = random(layer.rows(), geometry.in_features(), mask);
    layer.nonzero = random(layer.rows(), geometry.out_features(), gradients);
    layer.weight_gradient = true;
    layer.input_gradient = true;
    layer.neurons = true;
    layer.membrane = true;
    work.layers.push_back(layer);
    return work.layers.back();
  }
};

Geometry linear(std::int64_t inputs, std::int64_t outputs) { return {inputs, 1, 1, outputs}; }

/// Small enough for every loop of every engine to turn more than once on small layers.
Machine small_machine() {
  Machine m;
  m.forward.rows = 3;
  m.forward.columns = 4;
  m.forward.inputs = 3;
  m.forward.weights_bytes = 256;
  m.forward.weights_banks = 4;
  m.forward.spikes_bytes = 4096;
  m.forward.spikes_banks = 1;
  m.forward.psum_bytes = 2 * 4 * 4 * 20;
  m.forward.psum_banks = 2;
  m.soma.lanes = 8;
  m.gradient.lanes = 8;
  m.gradient.buffer_bytes = 2 * 6 * 100;
  m.backward.groups = 3;
  m.backward.lanes = 2;
  m.backward.slice = 5;
  m.backward.tile_rows = 16;
  m.backward.weights_bytes = 2 * 16 * 10 * 2;
  m.backward.weights_banks = 3;
  m.backward.gradients_bytes = 1 << 14;
  m.backward.psum_bytes = 2 * 4 * 10 * 15;
  m.update.rows = 2;
  m.update.columns = 3;
  m.update.inputs = 4;
  m.update.gradients_bytes = 256;
  m.update.gradients_banks = 4;
  m.update.spikes_bytes = 1024;
  m.update.spikes_banks = 1;
  m.update.psum_bytes = 2 * 4 * 3 * 11;
  m.update.psum_banks = 2;
  m.dram.bytes_per_cycle = 8;
  m.dram.latency_cycles = 20;
  m.dram.burst_bytes = 16;
  m.state_bytes = 2000;
  m.membrane_bytes = 100;
  m.parts = 2;
  return m;
}

/// Layers with every kind of geometry.
const std::vector<Geometry>& geometries() {
  static const std::vector<Geometry> all = {
      linear(13, 7),
      linear(70, 9),
      {12, 1, 1, 10, 1, 1, 1, 1, 0, 0, 1, 1, 2},
      {3, 5, 4, 6, 3, 3, 1, 1, 1, 1},
      {2, 6, 7, 5, 3, 2, 2, 3, 1, 0},
      {4, 7, 6, 3, 2, 2, 1, 1, 2, 1, 2, 3},
      {6, 4, 5, 9, 3, 3, 1, 1, 1, 1, 1, 1, 3},
      {5, 5, 4, 5, 3, 1, 1, 2, 1, 0, 1, 1, 5},
      {3, 5, 5, 4, 2, 2, 3, 3},
      {1, 3, 3, 1, 3, 3, 1, 1, 3, 3},
  };
  return all;
}

Tile tile_of(const Result& result, Engine engine, std::size_t index) {
  return result.tiles[static_cast<std::size_t>(engine)].at(index);
}

const Counters& counters(const Result& result, Pass pass, std::size_t layer = 0) {
  return result.layers.at(layer)[static_cast<std::size_t>(pass)];
}

auto everything(const Result& r) {
  return std::tie(r.cycles, r.dram_busy_cycles, r.tail_idle_cycles, r.layers, r.resident, r.tiles);
}

// ---- kernels on strings of bits

const BitStringKernels& kernels() {
  static constexpr BitStringKernels scalar = {
      &reference::add_ones,        &reference::most_in_bank,           &reference::place,
      &reference::count_addresses, &reference::count_window_addresses, &reference::add_shifted};
  const Target target = active_target();
  return target == Target::scalar ? scalar : detail::pick_bit_strings(target);
}

TEST(FastBits, StringsAreCountedAlikeOnEveryTarget) {
  std::mt19937 random(1);
  const auto pick = [&](std::int64_t least, std::int64_t most) {
    return std::uniform_int_distribution<std::int64_t>(least, most)(random);
  };
  for (int round = 0; round < 300; ++round) {
    const bool aligned = round % 3 == 0;
    const std::int64_t unit = aligned ? 64 : 1;
    const std::int64_t length = pick(1, aligned ? 4 : 200) * unit;
    const std::int64_t first = pick(0, aligned ? 2 : 130) * unit;
    const std::int64_t stride = length + pick(0, aligned ? 2 : 70) * unit;
    const std::int64_t count = pick(0, 9);
    const double rate = static_cast<double>(pick(0, 10)) / 10.0;
    const Words words = random_words(1, first + count * stride + 1, rate, unsigned(round));
    const BitStrings strings{words.data(), first, stride, count, length};
    const std::int64_t banks = pick(1, 200);
    const std::int64_t to = pick(0, 100);
    SCOPED_TRACE("round " + std::to_string(round));
    expect_same_everywhere([&] {
      std::vector<Counts> found(2, Counts(size(count), 5));
      Words copy(size(words_for(to + count * stride)), 0);
      kernels().add_ones(strings, found[0].data());
      kernels().most_in_bank(strings, banks, found[1].data());
      kernels().place(strings, to, stride, copy.data());
      return std::pair(found, copy);
    });
  }
}

TEST(FastBits, StringsThatShareWordsAreCountedAlikeOnEveryTarget) {
  for (const std::int64_t length : {1, 2, 3, 4, 8, 16, 32, 64}) {
    for (const std::int64_t count : {0, 1, 7, 64, 129}) {
      for (const std::int64_t first : {0, 64, 66}) {
        for (const double rate : {0.5, 1.0}) {
          const Words words = random_words(1, first + count * length + 1, rate, unsigned(count));
          SCOPED_TRACE(std::to_string(count) + " of " + std::to_string(length) + " bits");
          expect_same_everywhere([&] {
            Counts ones(size(count), 5);
            kernels().add_ones({words.data(), first, length, count, length}, ones.data());
            return ones;
          });
        }
      }
    }
  }
}

TEST(FastBits, AddressesOfOneKindAreCountedAlikeOnEveryTarget) {
  std::mt19937 random(2);
  const auto pick = [&](std::int64_t least, std::int64_t most) {
    return std::uniform_int_distribution<std::int64_t>(least, most)(random);
  };
  for (int round = 0; round < 100; ++round) {
    Counts offsets(size(pick(1, 12)));
    for (std::int64_t& offset : offsets) offset = round % 4 == 0 ? 64 * pick(0, 3) : pick(0, 300);
    const std::int64_t words = round % 5 == 0 ? pick(60, 200) : pick(1, 9);
    const std::int64_t first = pick(0, 3);
    const std::int64_t digits = pick(1, 5);
    const Words bits =
        random_words(1, 64 * (first + words + 5 + words_behind), 0.1, unsigned(round));
    const Words weights = random_words(digits, 64 * words, 0.3, unsigned(round) + 1000);
    SCOPED_TRACE("round " + std::to_string(round));
    expect_same_everywhere([&] {
      return kernels().count_addresses({bits.data(), offsets.data(),
                                        static_cast<std::int64_t>(offsets.size()), first, words,
                                        weights.data(), digits});
    });
  }
}

TEST(FastBits, ShiftedSumsByHand) {
  on_each_target([&] {
    Counts from(40);
    for (std::size_t i = 0; i < from.size(); ++i) from[i] = static_cast<std::int64_t>(i * i);
    const Counts shifts = {0, 3, 3, 9};
    Counts sums(31, 7);
    kernels().add_shifted(from.data(), shifts.data(), 4, 31, sums.data());
    for (std::int64_t i = 0; i < 31; ++i) {
      EXPECT_EQ(sums[size(i)], 7 + i * i + 2 * (i + 3) * (i + 3) + (i + 9) * (i + 9));
    }
  });
}

TEST(FastBits, BanksByHand) {
  // Places 0, 3, 4, 6, 9: modulo 3 they are 0, 0, 1, 0, 0.
  const std::uint64_t word = 0b1001011001;
  on_each_target([&] {
    for (const auto& [banks, expected] :
         {std::pair{1, 5}, {2, 3}, {3, 4}, {4, 2}, {5, 2}, {10, 1}, {64, 1}, {65, 1}}) {
      std::int64_t most = -1;
      kernels().most_in_bank({&word, 0, 0, 1, 10}, banks, &most);
      EXPECT_EQ(most, expected) << banks << " banks";
    }
  });
}

TEST(FastBits, AddressesOfWindowsAreCountedAlikeOnEveryTarget) {
  for (const Geometry& g : geometries()) {
    for (std::int64_t together : {1, 4, 12}) {
      const std::int64_t planes = 2;
      const std::int64_t rows = 3;
      const Words words = random_words(planes * rows, g.in_features(), 0.3, 9);
      const std::vector<std::int32_t> inputs = g.input_of_output();
      std::vector<const std::uint64_t*> row_of;
      std::vector<std::int32_t> outputs;
      for (std::int64_t row : {2, 0, 1}) {
        for (std::int64_t output = 0; output < g.out_positions(); ++output) {
          if (output % 5 == 3) continue;
          row_of.push_back(words.data() + row * words_for(g.in_features()));
          outputs.push_back(static_cast<std::int32_t>(output));
        }
      }
      expect_same_everywhere([&] {
        return kernels().count_window_addresses(
            {row_of.data(), outputs.data(), static_cast<std::int64_t>(outputs.size()), together,
             inputs.data(), g.taps(), planes, rows * words_for(g.in_features()),
             (g.groups - 1) * g.channels_per_group(), g.in_channels, g.channels_per_group()});
      });
    }
  }
}

// ---- list scheduling

TEST(FastItems, GoToTheFirstFreeGroupInOrder) {
  std::mt19937 random(3);
  fast::ItemSchedule schedule;
  for (int round = 0; round < 400; ++round) {
    const auto pick = [&](std::int64_t least, std::int64_t most) {
      return std::uniform_int_distribution<std::int64_t>(least, most)(random);
    };
    const std::int64_t groups = pick(1, 9);
    // Beyond 65536 cycles a heap takes over.
    const std::int64_t longest = round % 4 == 0 ? 200'000 : pick(1, 300);
    Counts cycles(size(pick(0, 60)));
    for (std::int64_t& taken : cycles) taken = pick(1, longest);
    Counts free(size(groups), 0);
    for (const std::int64_t taken : cycles) *std::min_element(free.begin(), free.end()) += taken;
    EXPECT_EQ(schedule.last_end(cycles, longest, groups),
              *std::max_element(free.begin(), free.end()));
  }
}

// ---- blocks

TEST(FastShape, BlocksAreImagesTogetherOrChunksOfOne) {
  const auto sizes = [](const std::vector<fast::Block>& blocks) {
    std::vector<std::array<std::int64_t, 5>> all;
    for (const fast::Block& b : blocks) {
      all.push_back({b.first_image, b.images, b.first_unit, b.units, std::int64_t{b.first_chunk}});
    }
    return all;
  };
  using Sizes = std::vector<std::array<std::int64_t, 5>>;
  EXPECT_EQ(sizes(fast::cut(5, 10, 25, 9)),
            (Sizes{{0, 2, 0, 10, 1}, {2, 2, 0, 10, 1}, {4, 1, 0, 10, 1}}));
  EXPECT_EQ(sizes(fast::cut(3, 10, 100, 2)), (Sizes{{0, 2, 0, 10, 1}, {2, 1, 0, 10, 1}}));
  EXPECT_EQ(sizes(fast::cut(2, 10, 4, 9)), (Sizes{{0, 1, 0, 4, 1},
                                                  {0, 1, 4, 4, 0},
                                                  {0, 1, 8, 2, 0},
                                                  {1, 1, 0, 4, 1},
                                                  {1, 1, 4, 4, 0},
                                                  {1, 1, 8, 2, 0}}));
}

TEST(FastShape, PartsTakeSamplesInOrderAndRunTimeForwardsAndBackwards) {
  Step step(3, 5);
  step.add(linear(4, 4));
  Machine machine;
  machine.parts = 2;
  const std::vector<fast::Part> parts = fast::parts_of(machine, step.work);
  ASSERT_EQ(parts.size(), 2U);
  EXPECT_EQ(parts[0].samples, 3);
  EXPECT_EQ(parts[1].first_sample, 3);
  EXPECT_EQ(parts[1].samples, 2);
  Counts rows;
  for (std::int64_t i = 0; i < parts[1].images(); ++i) rows.push_back(parts[1].row(i));
  EXPECT_EQ(rows, (Counts{3, 8, 13, 4, 9, 14}));
  EXPECT_EQ(parts[1].row(parts[1].reversed(0)), 14);
  machine.parts = 100;
  EXPECT_EQ(fast::parts_of(machine, step.work).size(), 5U);
}

// ---- by hand

/// The machine of "A tile by hand" in docs/microarchitecture.md.
Machine hand_machine() {
  Machine m;
  m.forward.rows = 2;
  m.forward.columns = 2;
  m.forward.inputs = 2;
  m.forward.weights_banks = 1;
  m.forward.weights_bytes = 128;
  m.dram = {4, 3, 4};
  m.parts = 1;
  return m;
}

TEST(FastSimulate, TheTilesOfTheDocumentByHand) {
  Step step(2, 1);
  LayerWork& layer = step.add(linear(8, 3));
  layer.nonzero = nullptr;
  const Result r = simulate(hand_machine(), step.work);
  ASSERT_EQ(r.tiles[0].size(), 4U);
  const Tile first = tile_of(r, Engine::forward, 0);
  EXPECT_EQ(first.load_bytes, 50);
  EXPECT_EQ(first.load_issue, 0);
  EXPECT_EQ(first.load_done, 16);
  EXPECT_EQ(first.build_end, 24);
  EXPECT_EQ(first.start, 24);
  EXPECT_EQ(first.end, 29);
  const Tile second = tile_of(r, Engine::forward, 1);
  EXPECT_EQ(second.load_bytes, 0);
  EXPECT_EQ(second.load_done, 0);
  EXPECT_EQ(second.build_end, 32);
  EXPECT_EQ(second.start, 32);
  EXPECT_EQ(second.end, 37);
  const Tile third = tile_of(r, Engine::forward, 2);
  EXPECT_EQ(third.column, 1);
  EXPECT_EQ(third.build_end, 36);
  EXPECT_EQ(third.start, 37);
  EXPECT_EQ(third.end, 42);
  const Tile soma = tile_of(r, Engine::soma, 0);
  EXPECT_EQ(soma.ready, 37);
  EXPECT_EQ(soma.start, 37);
  EXPECT_EQ(soma.end, 37 + 1 + 4);
  const Counters& forward = counters(r, Pass::forward);
  EXPECT_EQ(forward.building_cycles, 24 - 16 + 3);
  EXPECT_EQ(forward.stalled_load_cycles, 16);
  EXPECT_EQ(forward.operations_offered, 2 * 8 * 3);
  EXPECT_EQ(forward.table_builds, 2 * 2 * (2 + 1));
  EXPECT_EQ(forward.table_reads + forward.table_reads_skipped, 2 * 4 * 3);
  EXPECT_EQ(forward.psum_reads, 2 * 3);
  EXPECT_EQ(forward.psum_writes, 2 * 2 * 3);
}

TEST(FastSimulate, AddressesOfTheForwardEngineByHand) {
  // One image: inputs 0, 1 and 5 of 7 set; addresses of two bits are 11, 00, 01, 0.
  Step step(1, 1);
  LayerWork& layer = step.add(linear(7, 3));
  layer.inputs = step.keep({0b0100011});
  layer.nonzero = nullptr;
  Machine machine = hand_machine();
  const Result r = simulate(machine, step.work);
  const Counters& tables = counters(r, Pass::forward);
  EXPECT_EQ(tables.operations_needed, 3 * 3);
  EXPECT_EQ(tables.table_reads, 2 * 3);
  EXPECT_EQ(tables.table_reads_skipped, 2 * 3);
  EXPECT_EQ(tables.additions, 4 * 3 * (4 - 1 - 2) + 2 * 3);

  machine.forward.tables = false;
  const Result plain = simulate(machine, step.work);
  const Counters& adders = counters(plain, Pass::forward);
  EXPECT_EQ(adders.table_builds + adders.table_reads + adders.table_reads_skipped, 0);
  EXPECT_EQ(adders.additions, 3 * 3);
  // Two passes a position, three to drain; building is only fetching 4 * 2 weights.
  EXPECT_EQ(tile_of(plain, Engine::forward, 0).end - tile_of(plain, Engine::forward, 0).start, 5);
  EXPECT_EQ(tile_of(plain, Engine::forward, 0).build_end,
            tile_of(plain, Engine::forward, 0).load_done + 8);
}

TEST(FastSimulate, ItemsOfTheBackwardEngineByHand) {
  // Two images of 6 inputs in slices of 4 and 2, 5 gradients. The backward sequence starts with
  // image 1.
  Step step(2, 1);
  LayerWork& layer = step.add(linear(6, 5));
  layer.mask = step.keep({0b110101, 0b001111});
  layer.nonzero = step.keep({0b10110, 0b00000});
  Machine machine;
  machine.backward.groups = 2;
  machine.backward.lanes = 3;
  machine.backward.slice = 4;
  machine.backward.weights_banks = 2;
  machine.backward.encode_cycles = 4;
  machine.parts = 1;
  const Result r = simulate(machine, step.work);
  const Counters& c = counters(r, Pass::backward);
  ASSERT_EQ(c.tiles, 1);
  // Image 1 has no gradients: two items of a cycle. Image 0, slice 0: channels 0, 2 in bank 0:
  // 2 rounds of 3 gradients; slice 1: channels 4, 5: 1 round.
  EXPECT_EQ(c.run_cycles, 1 + (2 * 3 + 4));
  EXPECT_EQ(c.items, 4);
  EXPECT_EQ(c.items_empty, 2);
  EXPECT_EQ(c.operations_offered, 2 * 6 * 5);
  EXPECT_EQ(c.operations_needed, 4 * 3);
  EXPECT_EQ(c.skipped_by_gradient, 4 * 5 + 4 * 2);
  EXPECT_EQ(c.skipped_by_mask, 2 * 5 + 2 * 5);
  EXPECT_EQ(c.lane_slots, (2 * 3 + 1 * 3) * 3);
  EXPECT_EQ(c.gradient_reads, 2 * 3 + 1 * 3);
  EXPECT_EQ(c.psum_writes, 8);
  EXPECT_EQ(c.psum_reads, 0);
  EXPECT_EQ(c.mask_read_bits, 12);
  EXPECT_EQ(c.store_bytes, 8 * 2);
  // Weights, gradients as a bit map with 3 values (those of an only layer fit on chip), masks.
  EXPECT_EQ(r.resident, (Counts{1 + 2 + 4 + 16}));
  EXPECT_EQ(c.load_bytes, 6 * 5 * 2 + 2 * 1);

  machine.backward.output_sparsity = false;
  machine.backward.input_sparsity = false;
  const Result dense = simulate(machine, step.work);
  const Counters& all = counters(dense, Pass::backward);
  EXPECT_EQ(all.items_empty, 0);
  EXPECT_EQ(all.operations_needed, all.operations_offered);
  EXPECT_EQ(all.skipped_by_gradient + all.skipped_by_mask + all.mask_read_bits, 0);
  // 14, 9, 14, 9 cycles on two groups.
  EXPECT_EQ(all.run_cycles, 14 + 9);
  EXPECT_EQ(all.store_bytes, 12 * 2);
}

TEST(FastSimulate, PositionsOfTheUpdateEngineByHand) {
  // Three images of 3 inputs and 2 outputs, two positions to a table, two tables to a tile.
  Step step(3, 1);
  LayerWork& layer = step.add(linear(3, 2));
  layer.inputs = step.keep({0b101, 0b001, 0b110});
  layer.nonzero = step.keep({0b01, 0b00, 0b10});
  layer.input_gradient = false;
  Machine machine;
  machine.update.rows = 2;
  machine.update.columns = 2;
  machine.update.inputs = 2;
  machine.parts = 1;
  machine.state_bytes = 0;
  const Result r = simulate(machine, step.work);
  const Counters& c = counters(r, Pass::update);
  // Backward sequence: images 2, 1, 0. Addresses: inputs of images (2, 1) and of (0): 111, 101.
  EXPECT_EQ(c.tiles, 1);
  EXPECT_EQ(c.table_builds, 2 * 2);
  EXPECT_EQ(c.table_reads, (3 + 2) * 2);
  EXPECT_EQ(c.table_reads_skipped, 1 * 2);
  EXPECT_EQ(c.additions, 2 * 2 * (4 - 1 - 2) + (3 + 2) * 2);
  EXPECT_EQ(c.operations_offered, 3 * 3 * 2);
  EXPECT_EQ(c.operations_needed, 2 * 1 + 1 * 0 + 2 * 1);
  EXPECT_EQ(c.run_cycles, 3 + 1 + 2);
  EXPECT_EQ(c.psum_reads, 0);
  EXPECT_EQ(c.psum_writes, 3 * 2);
  EXPECT_EQ(c.load_bytes, 3 * 1 + (1 + 2 * 2));
  EXPECT_EQ(c.store_bytes, 3 * 2 * 4);

  machine.update.compact = true;
  const Result compacted = simulate(machine, step.work);
  const Counters& kept = counters(compacted, Pass::update);
  // Images 2 and 0 share the only table: 111.
  EXPECT_EQ(kept.table_builds, 2);
  EXPECT_EQ(kept.table_reads, 3 * 2);
  EXPECT_EQ(kept.table_reads_skipped, 0);
  EXPECT_EQ(kept.operations_offered, 3 * 3 * 2);
  EXPECT_EQ(kept.skipped_by_gradient, 1 * 3 * 2);
  EXPECT_EQ(kept.operations_needed, c.operations_needed);
  EXPECT_EQ(kept.gradient_reads, 2 * 2);

  machine.update.tables = false;
  const Result adders = simulate(machine, step.work);
  EXPECT_EQ(counters(adders, Pass::update).additions, (2 + 2) * 2);
  EXPECT_EQ(counters(adders, Pass::update).run_cycles, 3 * 2 + 1 + 2);
}

TEST(FastSimulate, WithoutAnyGradientACompactUpdateIsOneTileOfNoPositions) {
  Step step(2, 1);
  step.add(linear(5, 3), 1, 0.5, 0.5, 0.0);
  Machine machine;
  machine.update.compact = true;
  const Result r = simulate(machine, step.work);
  const Counters& c = counters(r, Pass::update);
  EXPECT_EQ(c.tiles, 1);
  EXPECT_EQ(c.run_cycles, 1);
  EXPECT_EQ(c.building_cycles, 0);
  EXPECT_EQ(c.operations_offered, 2 * 5 * 3);
  EXPECT_EQ(c.skipped_by_gradient, 2 * 5 * 3);
  EXPECT_EQ(c.table_builds + c.table_reads + c.psum_writes + c.gradient_reads, 0);
  EXPECT_EQ(c.store_bytes, 5 * 3 * 4);
}

TEST(FastSimulate, SomaAndGradientUnitByHand) {
  Step step(2, 1);
  step.add(linear(4, 6));
  Machine machine;
  machine.soma = {4, 7};
  machine.gradient.lanes = 5;
  machine.gradient.latency_cycles = 3;
  machine.membrane_bytes = 2 * (6 * 4 - 1);
  machine.state_bytes = 0;
  machine.forward.psum_bytes = 2 * 4 * 32;
  machine.forward.psum_banks = 3;
  const Result r = simulate(machine, step.work);
  // One image a block. Spikes, mask, membranes; and those carried from the first to the second.
  const Counters& soma = counters(r, Pass::soma);
  EXPECT_EQ(soma.tiles, 2);
  EXPECT_EQ(soma.run_cycles, 2 * (2 + 7));
  EXPECT_EQ(soma.store_bytes, 2 * (1 + 1 + 24) + 24);
  EXPECT_EQ(soma.load_bytes, 24);
  EXPECT_EQ(soma.comparisons, 2 * 12);
  const Counters& gradient = counters(r, Pass::gradient);
  EXPECT_EQ(gradient.tiles, 1);
  EXPECT_EQ(gradient.run_cycles, 3 + 3);
  // From the host 12 values; mask and spikes; membranes. Nothing is carried within one block.
  EXPECT_EQ(gradient.load_bytes, 12 * 2 + 2 * 2 + 48);
  EXPECT_EQ(gradient.multiplications, 3 * 12);

  machine.membrane = Membrane::recompute;
  const Result again = simulate(machine, step.work);
  EXPECT_EQ(counters(again, Pass::soma).store_bytes, 2 * (1 + 1) + 24);
  EXPECT_EQ(counters(again, Pass::recompute_soma).store_bytes, 2 * 24 + 24);
  EXPECT_EQ(counters(again, Pass::recompute_soma).spike_write_bits, 0);
  EXPECT_EQ(counters(again, Pass::recompute_forward).table_reads,
            counters(again, Pass::forward).table_reads);
}

TEST(FastSimulate, BytesOfGradientsByHand) {
  // Two samples, a part each. The gradient unit takes two neurons at a time: of the lower layer's
  // three, chunks of two and one.
  Step step(1, 2);
  LayerWork& lower = step.add(linear(4, 3));
  lower.nonzero = step.keep({0b011, 0b000});
  lower.input_gradient = false;
  LayerWork& upper = step.add(linear(3, 2));
  upper.mask = step.keep({0b101, 0b111});
  upper.nonzero = step.keep({0b01, 0b11});
  Machine machine;
  machine.parts = 2;
  machine.state_bytes = 0;
  machine.gradient.buffer_bytes = 2 * 2 * (2 + 4);
  machine.update.columns = 2;
  machine.update.psum_bytes = 2 * (3 * 4 * 4);
  const auto bytes = [&](Engine engine, std::int64_t layer) {
    std::vector<std::pair<std::int64_t, std::int64_t>> all;
    const Result r = simulate(machine, step.work);
    for (const Tile& tile : r.tiles[static_cast<std::size_t>(engine)]) {
      if (tile.layer == layer) all.emplace_back(tile.load_bytes, tile.store_bytes);
    }
    return all;
  };
  using Bytes = std::vector<std::pair<std::int64_t, std::int64_t>>;
  // From the host two values, a byte of mask and of spikes each, two membranes.
  EXPECT_EQ(bytes(Engine::gradient, 1), (Bytes{{4 + 2 + 8, 1 + 2}, {4 + 2 + 8, 1 + 4}}));
  // What the mask above asked for, with the first chunk.
  EXPECT_EQ(bytes(Engine::gradient, 0),
            (Bytes{{2 * 2 + 2 + 8, 1 + 2 * 2}, {2 + 4, 1}, {3 * 2 + 2 + 8, 1}, {2 + 4, 1}}));
  EXPECT_EQ(bytes(Engine::backward, 1),
            (Bytes{{1 + 2 + 1 + 3 * 2 * 2, 2 * 2}, {1 + 4 + 1 + 3 * 2 * 2, 3 * 2}}));
  // The accumulators stay: stored at the end of each part, loaded by the second one.
  const std::int64_t all = 3 * 4 * 4;
  EXPECT_EQ(bytes(Engine::update, 0),
            (Bytes{{1 + 1 + 4, 0}, {1, all}, {1 + 1 + all, 0}, {1, all}}));
  // They do not: blocks of three inputs and one, in columns of two and one.
  machine.update.psum_bytes = 2 * 4 * 2 * 3;
  EXPECT_EQ(bytes(Engine::update, 0), (Bytes{{1 + 1 + 4, 24},
                                             {1 + 4, 8},
                                             {1, 12},
                                             {1, 4},
                                             {1 + 1 + 24, 24},
                                             {1 + 8, 8},
                                             {1 + 12, 12},
                                             {1 + 4, 4}}));
  EXPECT_EQ(counters(simulate(machine, step.work), Pass::update).psum_reads, 12);

  machine.compressed_gradients = false;
  EXPECT_EQ(bytes(Engine::gradient, 0),
            (Bytes{{2 * 2 + 2 + 8, 4}, {2 + 4, 2}, {3 * 2 + 2 + 8, 4}, {2 + 4, 2}}));
  EXPECT_EQ(bytes(Engine::update, 0).front(), (std::pair<std::int64_t, std::int64_t>{1 + 4, 24}));
  machine.backward.output_sparsity = false;
  EXPECT_EQ(bytes(Engine::backward, 1), (Bytes{{4 + 12, 6}, {4 + 12, 6}}));
}

TEST(FastSimulate, ChunksLoadTheirImageOnce) {
  Step step(2, 1);
  step.add({2, 4, 5, 3, 3, 3, 1, 1, 1, 1});
  Machine machine;
  machine.forward.psum_bytes = 2 * 4 * 32 * 8;
  machine.forward.weights_bytes = 2 * 32 * 6 * 32 * 2;
  machine.backward.psum_bytes = 2 * 4 * 128 * 1;
  machine.backward.slice = 128;
  machine.gradient.buffer_bytes = 2 * 6 * 25;
  machine.state_bytes = 0;
  machine.parts = 1;
  const Result r = simulate(machine, step.work);
  // 20 positions, 8 at a time: chunks of 8, 8 and 4.
  ASSERT_EQ(r.tiles[0].size(), 6U);
  Counts loads;
  for (const Tile& tile : r.tiles[0]) loads.push_back(tile.load_bytes);
  const std::int64_t weights = 3 * 18 * 2;
  EXPECT_EQ(loads, (Counts{weights + 5, 0, 0, 5, 0, 0}));
  // 60 neurons, 25 at a time; each chunk brings its own gradients from the host.
  EXPECT_EQ(counters(r, Pass::gradient).tiles, 6);
  EXPECT_EQ(counters(r, Pass::gradient).gradient_reads, 120);
  // Backward: cap 128 * 4 / (4 * 2) = 64 positions, both images at once.
  EXPECT_EQ(counters(r, Pass::backward).tiles, 1);
}

// ---- the rules of time, on whole steps

/// Every schedule, membrane policy, sparsity and other switch on the same small network.
std::vector<Machine> machines() {
  std::vector<Machine> all;
  for (Schedule schedule : {Schedule::serial, Schedule::layer, Schedule::batch}) {
    for (Membrane membrane : {Membrane::store, Membrane::recompute}) {
      Machine m = small_machine();
      m.schedule = schedule;
      m.membrane = membrane;
      m.parts = 3;
      all.push_back(m);
      m.state_bytes = 0;
      m.compressed_gradients = false;
      m.update.compact = true;
      m.value_bytes = 4;
      m.backward.weights_bytes *= 2;
      m.forward.weights_bytes *= 2;
      all.push_back(m);
      m.dram = {1000, 0, 1};
      m.state_bytes = 1 << 30;
      m.membrane_bytes = 1 << 20;
      m.forward.tables = false;
      m.update.tables = false;
      m.forward.psum_bytes *= 100;
      m.update.psum_bytes *= 100;
      m.parts = 1;
      all.push_back(m);
    }
  }
  return all;
}

Step network() {
  Step step(3, 4);
  step.add({2, 6, 6, 5, 3, 3, 1, 1, 1, 1}, 2).input_gradient = false;
  step.add({5, 6, 6, 4, 3, 3, 2, 2, 1, 1});
  step.add(linear(36, 8));
  step.add(linear(8, 3)).neurons = false;
  return step;
}

TEST(FastSimulate, EnginesAccountForEveryCycle) {
  const Step step = network();
  for (const Machine& machine : machines()) {
    const Result r = simulate(machine, step.work);
    std::array<std::int64_t, engine_count> total = r.tail_idle_cycles;
    for (const auto& layer : r.layers) {
      for (int pass = 0; pass < pass_count; ++pass) {
        const Counters& c = layer[size(pass)];
        total[static_cast<std::size_t>(engine_of(static_cast<Pass>(pass)))] +=
            c.run_cycles + c.building_cycles + c.stalled_load_cycles + c.stalled_store_cycles +
            c.idle_cycles;
      }
    }
    for (const std::int64_t cycles : total) EXPECT_EQ(cycles, r.cycles);
  }
}

TEST(FastSimulate, TimesFollowFromEachOther) {
  const Step step = network();
  for (const Machine& machine : machines()) {
    const Result r = simulate(machine, step.work);
    std::int64_t last = 0;
    for (const std::vector<Tile>& tiles : r.tiles) {
      const auto before = [&](std::size_t i, std::size_t back) {
        return i < back ? Tile{} : tiles[i - back];
      };
      for (std::size_t i = 0; i < tiles.size(); ++i) {
        const Tile& t = tiles[i];
        const Tile one = before(i, 1);
        const Tile two = before(i, 2);
        EXPECT_GE(t.load_issue, std::max(one.load_issue, two.end));
        EXPECT_GE(t.build_end, std::max({one.build_end, two.end, t.load_done}));
        EXPECT_EQ(t.start, std::max({one.end, t.ready, t.load_done, two.store_done, t.build_end}));
        EXPECT_EQ(t.store_issue, std::max(t.end, one.store_issue));
        EXPECT_GE(t.store_done, one.store_done);
        if (t.load_bytes == 0) {
          EXPECT_EQ(t.load_done, t.load_issue);
        }
        if (t.store_bytes == 0) {
          EXPECT_EQ(t.store_done, std::max(one.store_done, t.store_issue));
        }
        last = std::max(last, t.store_done);
      }
    }
    EXPECT_EQ(r.cycles, last);
  }
}

TEST(FastSimulate, TheChannelServesInTheOrderOfIssue) {
  const Step step = network();
  for (const Machine& machine : machines()) {
    const Result r = simulate(machine, step.work);
    // Issue, engine, store, tile; bytes and done.
    std::map<std::array<std::int64_t, 4>, std::pair<std::int64_t, std::int64_t>> transfers;
    for (std::size_t e = 0; e < r.tiles.size(); ++e) {
      for (std::size_t i = 0; i < r.tiles[e].size(); ++i) {
        const Tile& t = r.tiles[e][i];
        const auto engine = static_cast<std::int64_t>(e);
        const auto index = static_cast<std::int64_t>(i);
        if (t.load_bytes > 0) {
          transfers[{t.load_issue, engine, 0, index}] = {t.load_bytes, t.load_done};
        }
        if (t.store_bytes > 0) {
          transfers[{t.store_issue, engine, 1, index}] = {t.store_bytes, t.store_done};
        }
      }
    }
    std::int64_t free = 0;
    std::int64_t busy = 0;
    for (const auto& [key, moved] : transfers) {
      const Dram& dram = machine.dram;
      const std::int64_t cycles =
          up(up(moved.first, dram.burst_bytes) * dram.burst_bytes, dram.bytes_per_cycle);
      free = std::max(free, key[0] + dram.latency_cycles) + cycles;
      busy += cycles;
      EXPECT_EQ(moved.second, free);
    }
    EXPECT_EQ(r.dram_busy_cycles, busy);
  }
}

/// What a tile waits for, found by searching all tiles for what the document names.
class Prerequisites {
 public:
  Prerequisites(const Machine& machine, const StepWork& step, const Result& result)
      : machine_(machine), step_(step), result_(result) {}

  std::int64_t ready(Engine engine, std::size_t index) const {
    const Tile tile = tile_of(result_, engine, index);
    const auto pass = static_cast<Pass>(tile.pass);
    std::int64_t time = 0;
    const auto complete = [&](const Tile* other) {
      if (other) time = std::max(time, other->store_done);
    };
    const auto ended = [&](const Tile* other) {
      if (other) time = std::max(time, other->end);
    };
    const auto layers = static_cast<std::int64_t>(step_.layers.size());
    const bool recompute = pass == Pass::recompute_forward;
    if (pass == Pass::forward && tile.layer > 0) {
      complete(last(Pass::soma, tile.part, tile.layer - 1));
    }
    if (recompute || pass == Pass::gradient) {
      const Tile* backward = nullptr;
      for (std::int64_t l = layers - 1; l > tile.layer; --l) {
        if (const Tile* found = last(Pass::backward, tile.part, l)) backward = found;
      }
      complete(backward ? backward : last(Pass::soma, tile.part, layers - 1));
    }
    if (pass == Pass::gradient) complete(last(Pass::recompute_soma, tile.part, tile.layer));
    if (engine == Engine::soma) {
      const Pass above = pass == Pass::soma ? Pass::forward : Pass::recompute_forward;
      const Tile* end = nullptr;
      for (const Tile& other : result_.tiles[0]) {
        if (other.pass == static_cast<std::int64_t>(above) && other.part == tile.part &&
            other.layer == tile.layer && other.block == tile.block && other.column == tile.column) {
          end = &other;
        }
      }
      complete(end);
    }
    if (pass == Pass::backward || pass == Pass::update) complete(gradient_of(tile));

    if (engine == Engine::forward && tile.row == 0) {
      std::size_t sets = 0;
      for (std::size_t i = 0; i < index; ++i) sets += result_.tiles[0][i].row == 0 ? 1U : 0U;
      if (sets >= 2) ended(&result_.tiles[1][sets - 2]);
    }
    if (pass == Pass::gradient && tile.block == 0) {
      std::vector<const Tile*> updates;
      for (std::int64_t l = layers - 1; l > tile.layer; --l) {
        if (const Tile* found = last(Pass::update, tile.part, l)) updates.push_back(found);
      }
      if (updates.size() >= 2) ended(updates[updates.size() - 2]);
    }
    const std::int64_t behind = machine_.schedule == Schedule::batch ? 2 : 1;
    if (machine_.schedule != Schedule::serial && pass == Pass::forward && tile.layer == 0 &&
        tile.block == 0 && tile.column == 0 && tile.row == 0) {
      for (Pass of : {Pass::gradient, Pass::backward, Pass::update}) {
        for (std::int64_t l = 0; l < layers; ++l) {
          const Tile* found = last(of, tile.part - behind, l);
          if (found) {
            ended(found);
            break;
          }
        }
      }
    }
    return time;
  }

 private:
  const Tile* last(Pass pass, std::int64_t part, std::int64_t layer) const {
    const Tile* found = nullptr;
    for (const Tile& tile : result_.tiles[static_cast<std::size_t>(engine_of(pass))]) {
      if (tile.pass == static_cast<std::int64_t>(pass) && tile.part == part &&
          tile.layer == layer) {
        found = &tile;
      }
    }
    return found;
  }

  const Tile* gradient_of(const Tile& tile) const {
    const fast::Layer layer(machine_, step_.layers[size(tile.layer)]);
    const fast::Part part = fast::parts_of(machine_, step_)[size(tile.part)];
    const auto blocks = static_cast<Pass>(tile.pass) == Pass::backward
                            ? fast::BackwardTiling(machine_, layer).blocks(machine_, layer, part)
                            : fast::UpdateTiling(machine_, layer).blocks(machine_, layer, part);
    const std::int64_t image = blocks[size(tile.block)].last_image();
    const auto gradients = fast::gradient_blocks(machine_, layer, part);
    std::int64_t block = -1;
    for (const fast::Block& b : gradients) {
      if (b.first_image <= image && image <= b.last_image()) block = b.index;
    }
    for (const Tile& other : result_.tiles[static_cast<std::size_t>(Engine::gradient)]) {
      if (other.part == tile.part && other.layer == tile.layer && other.block == block) {
        return &other;
      }
    }
    return nullptr;
  }

  const Machine& machine_;
  const StepWork& step_;
  const Result& result_;
};

TEST(FastSimulate, TilesWaitForWhatTheDocumentNames) {
  Step step = network();
  for (bool bare : {false, true}) {
    // A layer without backward pass, so that gradients wait for a pass further up.
    if (bare) step.work.layers[2].input_gradient = false;
    for (Machine machine : machines()) {
      if (machine.schedule == Schedule::serial) continue;
      const Result r = simulate(machine, step.work);
      const Prerequisites plain(machine, step.work, r);
      for (int e = 0; e < engine_count; ++e) {
        for (std::size_t i = 0; i < r.tiles[size(e)].size(); ++i) {
          ASSERT_EQ(r.tiles[size(e)][i].ready, plain.ready(static_cast<Engine>(e), i))
              << "engine " << e << " tile " << i;
        }
      }
    }
  }
}

TEST(FastSimulate, SerialEnginesTakeTurns) {
  const Step step = network();
  for (const Machine& machine : machines()) {
    const Result r = simulate(machine, step.work);
    std::vector<std::pair<std::int64_t, std::int64_t>> runs;
    for (const auto& tiles : r.tiles) {
      for (const Tile& tile : tiles) runs.emplace_back(tile.start, tile.end);
    }
    std::sort(runs.begin(), runs.end());
    bool overlap = false;
    for (std::size_t i = 1; i < runs.size(); ++i) {
      overlap = overlap || runs[i].first < runs[i - 1].second;
    }
    EXPECT_EQ(overlap, machine.schedule != Schedule::serial);
  }
}

TEST(FastSimulate, BatchRunsTheNextPartAhead) {
  const Step step = network();
  Machine machine = small_machine();
  machine.parts = 4;
  machine.membrane = Membrane::recompute;
  const auto order = [&](Schedule schedule) {
    machine.schedule = schedule;
    std::vector<std::pair<std::int64_t, std::int64_t>> passes;
    const Result r = simulate(machine, step.work);
    for (const Tile& tile : r.tiles[0]) {
      if (passes.empty() || passes.back() != std::pair(tile.pass, tile.part)) {
        passes.emplace_back(tile.pass, tile.part);
      }
    }
    return passes;
  };
  using Order = std::vector<std::pair<std::int64_t, std::int64_t>>;
  EXPECT_EQ(order(Schedule::layer),
            (Order{{0, 0}, {2, 0}, {0, 1}, {2, 1}, {0, 2}, {2, 2}, {0, 3}, {2, 3}}));
  EXPECT_EQ(order(Schedule::batch),
            (Order{{0, 0}, {0, 1}, {2, 0}, {0, 2}, {2, 1}, {0, 3}, {2, 2}, {2, 3}}));
}

TEST(FastSimulate, ResultsAreTheSameOnEveryTargetAndNumberOfThreads) {
  const Step step = network();
  for (const Machine& machine : machines()) {
    const Result expected = simulate(machine, step.work);
    on_each_target([&] {
      for (int count : {1, 2, 5}) {
        const Threads threads(count);
        const Result r = simulate(machine, step.work);
        EXPECT_TRUE(everything(r) == everything(expected)) << count << " threads";
      }
    });
  }
}

// ---- every number that comes from bits, one bit after the other

/// The bits of one layer and the sums over them that the document names.
class Plain {
 public:
  Plain(const Machine& machine, const Step& step)
      : m_(machine),
        w_(step.work.layers.front()),
        g_(w_.geometry),
        inputs_(g_.input_of_output()),
        outputs_(g_.output_of_input()),
        part_(fast::parts_of(machine, step.work).front()),
        layer_(machine, w_) {}

  bool input(std::int64_t plane, std::int64_t row, std::int64_t output, std::int64_t group,
             std::int64_t k) const {
    const std::int64_t channels = g_.channels_per_group();
    const std::int64_t position = inputs_[size(output * g_.taps() + k / channels)];
    if (position < 0) return false;
    return bit(w_.inputs, plane * w_.rows() + row, g_.in_features(),
               position * g_.in_channels + group * channels + k % channels);
  }
  bool gradient(std::int64_t row, std::int64_t output, std::int64_t channel) const {
    return bit(w_.nonzero, row, g_.out_features(), output * g_.out_channels + channel);
  }
  bool needed(std::int64_t row, std::int64_t position, std::int64_t channel) const {
    return !w_.mask || !m_.backward.output_sparsity ||
           bit(w_.mask, row, g_.in_features(), position * g_.in_channels + channel);
  }

  void expect_forward(const Counters& c) const {
    std::int64_t set = 0;
    std::int64_t reads = 0;
    std::int64_t skipped = 0;
    for (std::int64_t row = 0; row < w_.rows(); ++row) {
      for (std::int64_t output = 0; output < g_.out_positions(); ++output) {
        for (std::int64_t channel = 0; channel < g_.out_channels; ++channel) {
          const std::int64_t group = channel / g_.outputs_per_group();
          for (std::int64_t plane = 0; plane < w_.planes; ++plane) {
            for (std::int64_t k = 0; k < g_.fan_in(); k += m_.forward.inputs) {
              std::int64_t ones = 0;
              for (std::int64_t i = k; i < std::min(k + m_.forward.inputs, g_.fan_in()); ++i) {
                ones += std::int64_t{input(plane, row, output, group, i)};
              }
              set += ones;
              (ones > 0 ? reads : skipped) += 1;
            }
          }
        }
      }
    }
    EXPECT_EQ(c.operations_needed, set);
    EXPECT_EQ(c.table_reads, m_.forward.tables ? reads : 0);
    EXPECT_EQ(c.table_reads_skipped, m_.forward.tables ? skipped : 0);
    if (!m_.forward.tables) {
      EXPECT_EQ(c.additions, set);
    }
  }

  void expect_backward(const Counters& c, const std::vector<Tile>& tiles) const {
    const fast::BackwardTiling tiling(m_, layer_);
    Counters sum;
    std::size_t index = 0;
    std::int64_t stored = 0;
    for (const fast::Block& block : tiling.blocks(m_, layer_, part_)) {
      for (std::int64_t column = 0; column < tiling.column_tiles; ++column) {
        for (std::int64_t row = 0; row < tiling.row_tiles; ++row, ++index) {
          ASSERT_LT(index, tiles.size());
          const Tile& tile = tiles[index];
          EXPECT_EQ(tile.block, block.index);
          EXPECT_EQ(tile.column, column);
          EXPECT_EQ(tile.row, row);
          const std::int64_t channels = sum.psum_writes;
          EXPECT_EQ(tile.end - tile.start, run_items(tiling, block, column, row, sum));
          if (row + 1 < tiling.row_tiles) continue;
          stored += sum.psum_writes - channels;
          EXPECT_EQ(tile.store_bytes, (sum.psum_writes - channels) * m_.value_bytes);
        }
      }
    }
    EXPECT_EQ(index, tiles.size());
    EXPECT_EQ(c.operations_offered, sum.operations_offered);
    EXPECT_EQ(c.operations_needed, sum.operations_needed);
    EXPECT_EQ(c.skipped_by_gradient, sum.skipped_by_gradient);
    EXPECT_EQ(c.skipped_by_mask, sum.skipped_by_mask);
    EXPECT_EQ(c.operations_offered,
              c.operations_needed + c.skipped_by_gradient + c.skipped_by_mask);
    EXPECT_EQ(c.items, sum.items);
    EXPECT_EQ(c.items_empty, sum.items_empty);
    EXPECT_EQ(c.lane_slots, sum.gradient_reads * m_.backward.lanes);
    EXPECT_EQ(c.gradient_reads, sum.gradient_reads);
    EXPECT_EQ(c.psum_writes, sum.psum_writes);
    EXPECT_EQ(stored, all_needed());
    EXPECT_EQ(c.psum_reads, sum.psum_writes - all_needed());
    EXPECT_EQ(c.store_bytes, stored * m_.value_bytes);
  }

  void expect_update(const Counters& c, const std::vector<Tile>& tiles) const {
    const fast::UpdateTiling tiling(m_, layer_);
    const TableEngine& engine = m_.update;
    const std::int64_t per_group = up(g_.outputs_per_group(), engine.columns);
    Counters sum;
    std::size_t index = 0;
    for (const fast::Block& block : tiling.blocks(m_, layer_, part_)) {
      for (std::int64_t column = 0; column < g_.groups * per_group; ++column) {
        const std::int64_t group = column / per_group;
        const std::int64_t first =
            group * g_.outputs_per_group() + column % per_group * engine.columns;
        const std::int64_t columns =
            std::min(engine.columns, (group + 1) * g_.outputs_per_group() - first);
        const auto positions = kept(block, first, columns);
        for (std::int64_t from = 0; from < g_.fan_in(); from += tiling.input_block) {
          const std::int64_t to = std::min(from + tiling.input_block, g_.fan_in());
          for (std::size_t p = 0; p == 0 || p < positions.size();
               p += size(engine.rows * engine.inputs)) {
            ASSERT_LT(index, tiles.size());
            const Tile& tile = tiles[index++];
            EXPECT_EQ(tile.column, column);
            EXPECT_EQ(tile.depth, from / tiling.input_block);
            const std::size_t end =
                std::min(positions.size(), p + size(engine.rows * engine.inputs));
            add_update_tile(Places{group, first, columns, from, to},
                            {positions.begin() + static_cast<std::ptrdiff_t>(p),
                             positions.begin() + static_cast<std::ptrdiff_t>(end)},
                            sum);
          }
          const std::int64_t all = block.images * g_.out_positions();
          const std::int64_t left = all - static_cast<std::int64_t>(positions.size());
          sum.operations_offered += all * w_.planes * (to - from) * columns;
          sum.skipped_by_gradient += left * w_.planes * (to - from) * columns;
        }
      }
    }
    EXPECT_EQ(index, tiles.size());
    EXPECT_EQ(c.operations_offered, sum.operations_offered);
    EXPECT_EQ(c.operations_needed, sum.operations_needed);
    EXPECT_EQ(c.skipped_by_gradient, sum.skipped_by_gradient);
    EXPECT_EQ(c.table_reads, engine.tables ? sum.table_reads : 0);
    EXPECT_EQ(c.table_reads_skipped, engine.tables ? sum.table_reads_skipped : 0);
    if (!engine.tables) {
      EXPECT_EQ(c.additions, sum.additions);
    }
    EXPECT_EQ(c.gradient_reads, sum.gradient_reads);
  }

 private:
  struct Position {
    std::int64_t row;
    std::int64_t output;
  };
  /// A tile's output channels and fan-in indices.
  struct Places {
    std::int64_t group;
    std::int64_t first;
    std::int64_t columns;
    std::int64_t from;
    std::int64_t to;
  };

  static bool bit(const std::uint64_t* words, std::int64_t row, std::int64_t features,
                  std::int64_t f) {
    return ((words[row * words_for(features) + f / 64] >> (f % 64)) & 1U) != 0;
  }

  std::int64_t row_of(std::int64_t i) const { return part_.row(part_.reversed(i)); }

  /// n_out of the items of one row tile of all column tiles.
  std::int64_t all_needed() const {
    std::int64_t channels = 0;
    for (std::int64_t row = 0; row < w_.rows(); ++row) {
      for (std::int64_t position = 0; position < g_.in_positions(); ++position) {
        for (std::int64_t channel = 0; channel < g_.in_channels; ++channel) {
          channels += std::int64_t{needed(row, position, channel)};
        }
      }
    }
    return channels;
  }

  std::int64_t run_items(const fast::BackwardTiling& tiling, const fast::Block& block,
                         std::int64_t column, std::int64_t row, Counters& sum) const {
    const BackwardEngine& e = m_.backward;
    const std::int64_t per_group = up(tiling.slices, tiling.tile_slices);
    const std::int64_t group = column / per_group;
    const std::int64_t channels = g_.channels_per_group();
    Counts free(size(e.groups), 0);
    for (std::int64_t i = block.first_image; i <= block.last_image(); ++i) {
      for (std::int64_t p = block.first_unit; p < block.first_unit + block.units; ++p) {
        std::int64_t valid = 0;
        std::int64_t gradients = 0;
        const std::int64_t reduction = g_.taps() * g_.outputs_per_group();
        for (std::int64_t r = row * e.tile_rows; r < std::min(reduction, (row + 1) * e.tile_rows);
             ++r) {
          const std::int64_t output = outputs_[size(p * g_.taps() + r / g_.outputs_per_group())];
          if (output < 0) continue;
          ++valid;
          const std::int64_t n = group * g_.outputs_per_group() + r % g_.outputs_per_group();
          if (!e.input_sparsity || gradient(row_of(i), output, n)) ++gradients;
        }
        const std::int64_t first = column % per_group * tiling.tile_slices;
        for (std::int64_t slice = first;
             slice < std::min(tiling.slices, first + tiling.tile_slices); ++slice) {
          const std::int64_t last = std::min(channels, (slice + 1) * e.slice);
          Counts banks(size(e.weights_banks), 0);
          std::int64_t out = 0;
          for (std::int64_t c = slice * e.slice; c < last; ++c) {
            if (!needed(row_of(i), p, group * channels + c)) continue;
            ++out;
            ++banks[size(c % e.weights_banks)];
          }
          const std::int64_t h = last - slice * e.slice;
          const std::int64_t rounds =
              std::max(up(out, e.lanes), *std::max_element(banks.begin(), banks.end()));
          const bool empty = out == 0 || gradients == 0;
          *std::min_element(free.begin(), free.end()) +=
              empty ? 1 : rounds * gradients + e.encode_cycles;
          sum.items += 1;
          sum.items_empty += std::int64_t{empty};
          sum.operations_offered += h * valid;
          sum.operations_needed += out * gradients;
          sum.skipped_by_gradient += out * (valid - gradients);
          sum.skipped_by_mask += (h - out) * valid;
          sum.gradient_reads += rounds * gradients;
          sum.psum_writes += out;
        }
      }
    }
    return *std::max_element(free.begin(), free.end());
  }

  std::vector<Position> kept(const fast::Block& block, std::int64_t first,
                             std::int64_t columns) const {
    std::vector<Position> positions;
    for (std::int64_t i = block.first_image; i <= block.last_image(); ++i) {
      for (std::int64_t output = 0; output < g_.out_positions(); ++output) {
        bool any = !m_.update.compact;
        for (std::int64_t n = first; n < first + columns; ++n) {
          any = any || gradient(row_of(i), output, n);
        }
        if (any) positions.push_back({row_of(i), output});
      }
    }
    return positions;
  }

  void add_update_tile(const Places& places, const std::vector<Position>& positions,
                       Counters& sum) const {
    for (std::size_t p = 0; p < positions.size(); p += size(m_.update.inputs)) {
      const std::size_t end = std::min(positions.size(), p + size(m_.update.inputs));
      for (std::int64_t plane = 0; plane < w_.planes; ++plane) {
        for (std::int64_t k = places.from; k < places.to; ++k) {
          std::int64_t ones = 0;
          for (std::size_t i = p; i < end; ++i) {
            const auto& [row, output] = positions[i];
            if (!input(plane, row, output, places.group, k)) continue;
            ++ones;
            for (std::int64_t n = 0; n < places.columns; ++n) {
              sum.operations_needed += std::int64_t{gradient(row, output, places.first + n)};
            }
          }
          (ones > 0 ? sum.table_reads : sum.table_reads_skipped) += places.columns;
          sum.additions += ones * places.columns;
        }
      }
    }
    sum.gradient_reads += static_cast<std::int64_t>(positions.size()) * places.columns;
  }

  const Machine& m_;
  const LayerWork& w_;
  const Geometry& g_;
  std::vector<std::int32_t> inputs_;
  std::vector<std::int32_t> outputs_;
  fast::Part part_;
  fast::Layer layer_;
};

TEST(FastSimulate, CountsWhatCountingEveryBitCounts) {
  std::mt19937 random(5);
  const auto pick = [&](std::int64_t least, std::int64_t most) {
    return std::uniform_int_distribution<std::int64_t>(least, most)(random);
  };
  for (int round = 0; round < 120; ++round) {
    SCOPED_TRACE("round " + std::to_string(round));
    Step step(pick(1, 3), pick(1, 2));
    step.seed = unsigned(round) * 10;
    const double sparse = round % 3 == 0 ? 0.05 : 0.5;
    LayerWork& layer = step.add(geometries()[size(round) % geometries().size()], pick(1, 3), sparse,
                                sparse, sparse);
    if (pick(0, 4) == 0) layer.mask = nullptr;
    Machine m = small_machine();
    m.state_bytes = 0;
    m.parts = 1;
    m.forward.inputs = pick(1, 12);
    m.forward.weights_bytes = 4096;
    m.forward.tables = pick(0, 3) > 0;
    m.update.inputs = pick(1, 7);
    m.update.rows = pick(1, 3);
    m.update.columns = pick(1, 5);
    m.update.gradients_bytes = 4096;
    m.update.psum_bytes = 2 * 4 * 5 * pick(1, 20);
    m.update.tables = pick(0, 3) > 0;
    m.update.compact = pick(0, 1) == 1;
    m.backward.slice = pick(1, 9);
    m.backward.weights_banks = pick(1, 9);
    m.backward.tile_rows = pick(1, 30);
    m.backward.weights_bytes = 2 * 30 * 9 * 2 * 2;
    m.backward.psum_bytes = 2 * 4 * 9 * pick(1, 30);
    m.backward.input_sparsity = pick(0, 3) > 0;
    m.backward.output_sparsity = pick(0, 3) > 0;
    const Result r = simulate(m, step.work);
    const Plain plain(m, step);
    plain.expect_forward(counters(r, Pass::forward));
    plain.expect_backward(counters(r, Pass::backward), r.tiles[3]);
    plain.expect_update(counters(r, Pass::update), r.tiles[4]);
  }
}

// ---- sizes

TEST(FastSimulate, SumsOfLargeLayersDoNotOverflow) {
  // 2^40 weights, one image: 128 KiB of bits each. Everything set, so that sums are known.
  const std::int64_t wide = std::int64_t{1} << 20;
  Step step(1, 1);
  LayerWork layer;
  layer.name = "wide";
  layer.geometry = linear(wide, wide);
  layer.inputs = step.keep(Words(size(wide / 64), ~std::uint64_t{0}));
  layer.mask = layer.inputs;
  layer.nonzero = layer.inputs;
  layer.input_gradient = true;
  layer.weight_gradient = true;
  step.work.layers.push_back(layer);

  Machine m;
  const std::int64_t huge = std::int64_t{1} << 40;
  m.forward.rows = 1024;
  m.forward.columns = 1024;
  m.forward.inputs = 12;
  m.forward.tables_bytes = huge;
  m.forward.weights_bytes = huge;
  m.forward.psum_bytes = huge;
  m.backward.slice = 1 << 16;
  m.backward.tile_rows = 1 << 20;
  m.backward.weights_bytes = huge;
  m.backward.gradients_bytes = huge;
  m.backward.psum_bytes = huge;
  m.update.rows = 1024;
  m.update.columns = 1024;
  m.update.inputs = 12;
  m.update.tables_bytes = huge;
  m.update.gradients_bytes = huge;
  m.update.psum_bytes = huge;
  const Result r = simulate(m, step.work);

  const std::int64_t weights = wide * wide;
  const std::int64_t tables = 86 * 1024;  // of 12 inputs, in each of 1024 column tiles
  const Counters& forward = counters(r, Pass::forward);
  EXPECT_EQ(forward.tiles, tables);
  EXPECT_EQ(forward.operations_offered, weights);
  EXPECT_EQ(forward.operations_needed, weights);
  EXPECT_EQ(forward.table_builds, up(wide, 12) * wide);
  EXPECT_EQ(forward.table_writes, up(wide, 12) * wide * 4095);
  EXPECT_EQ(forward.table_reads, up(wide, 12) * wide);
  EXPECT_EQ(forward.load_bytes, weights * 2 + wide / 8);
  const Counters& backward = counters(r, Pass::backward);
  EXPECT_EQ(backward.operations_offered, weights);
  EXPECT_EQ(backward.operations_needed, weights);
  // 16 slices of 65536 channels, 2048 to each of 32 banks, but only 16 lanes.
  EXPECT_EQ(backward.lane_slots, weights);
  EXPECT_EQ(backward.gradient_reads, 16 * 4096 * wide);
  const Counters& update = counters(r, Pass::update);
  EXPECT_EQ(update.operations_needed, weights);
  EXPECT_EQ(update.psum_writes, weights);
  EXPECT_EQ(update.store_bytes, weights * 4);
  EXPECT_GT(r.cycles, weights / (1 << 16));
  for (const auto& tiles : r.tiles) {
    for (const Tile& tile : tiles) ASSERT_GE(tile.store_done, tile.load_issue);
  }
}

TEST(FastSimulate, TensorsStayOnChipInTheOrderOfTheDocument) {
  // Spikes and masks of 2 x 3 images: 6 and 6 bytes; gradients 6 * 2 * 8 = 96; membranes 192.
  Step step(2, 3);
  step.add(linear(4, 8));
  Machine machine;
  machine.parts = 1;
  const auto resident = [&](std::int64_t half) {
    machine.state_bytes = 2 * half;
    return simulate(machine, step.work).resident.front();
  };
  EXPECT_EQ(resident(5), 0);
  EXPECT_EQ(resident(6), 1);
  EXPECT_EQ(resident(12), 1 + 2);
  EXPECT_EQ(resident(12 + 96), 1 + 2 + 4);
  EXPECT_EQ(resident(12 + 96 + 191), 1 + 2 + 4);
  EXPECT_EQ(resident(12 + 96 + 192), 1 + 2 + 4 + 16);
}

TEST(FastSimulate, RecomputedMembranesShareOnePlace) {
  // Spikes and masks 4 * 6 bytes, three gradients of 96; membranes 192 a layer.
  Step step(2, 3);
  step.add(linear(4, 8)).input_gradient = false;
  step.add(linear(8, 8));
  Machine machine;
  machine.parts = 1;
  machine.state_bytes = 2 * (4 * 6 + 3 * 96 + 192);
  EXPECT_EQ(simulate(machine, step.work).resident, (Counts{1 + 2 + 4 + 8 + 16, 1 + 2 + 4}));
  machine.membrane = Membrane::recompute;
  EXPECT_EQ(simulate(machine, step.work).resident, (Counts{1 + 2 + 4 + 8 + 16, 1 + 2 + 4 + 16}));
}

TEST(FastSimulate, NothingToDoTakesNoTime) {
  const Result r = simulate(Machine(), StepWork());
  EXPECT_EQ(r.cycles, 0);
  EXPECT_TRUE(r.layers.empty());
}

TEST(FastSimulate, BadInputIsRefused) {
  Step step(1, 1);
  step.add(linear(4, 4));
  Machine machine;
  machine.forward.rows = 0;
  expect_refused([&] { simulate(machine, step.work); }, {"forward.rows", "0"});
  step.add(linear(4, 4)).samples = 2;
  expect_refused([&] { simulate(Machine(), step.work); }, {"layer 1", "2"});
}

}  // namespace
}  // namespace h2learn::test
