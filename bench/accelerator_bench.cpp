// The fast simulator on one training step of the CIFAR-10 network 128C3-256C3-AP2-512C3-AP2-1024C3-
// 512C3-1024-512-10 with random bits. simulated_cycles_per_second counts the step's cycles; the
// time includes the scan of all bits. Goal: 200 M/s with two threads.
#include <benchmark/benchmark.h>

#include <vector>

#include "h2learn/accelerator/simulate.hpp"

namespace {

using namespace h2learn;
using namespace h2learn::accelerator;

constexpr std::int64_t timesteps = 8;
constexpr std::int64_t samples = 8;

class RandomBits {
 public:
  /// Rows of bits, each set with probability `rate`; padding zero.
  std::vector<std::uint64_t> rows(std::int64_t count, std::int64_t features, double rate) {
    const auto threshold = static_cast<std::uint32_t>(rate * 4294967295.0);
    const std::int64_t words = words_for(features);
    std::vector<std::uint64_t> bits(static_cast<std::size_t>(count * words), 0);
    for (std::int64_t r = 0; r < count; ++r) {
      for (std::int64_t f = 0; f < features; ++f) {
        const std::uint64_t set = next() < threshold ? 1 : 0;
        bits[static_cast<std::size_t>(r * words + f / word_bits)] |= set << (f % word_bits);
      }
    }
    return bits;
  }

 private:
  std::uint32_t next() {
    state_ = state_ * 6364136223846793005U + 1442695040888963407U;
    return static_cast<std::uint32_t>(state_ >> 32);
  }

  std::uint64_t state_ = 1;
};

/// A step of the network, and the bits it points to.
struct Network {
  StepWork step;
  std::vector<std::vector<std::uint64_t>> operands;
  RandomBits random;

  Network() {
    operands.reserve(24);
    add("conv1", {3, 32, 32, 128, 3, 3, 1, 1, 1, 1}, 8);
    add("conv2", {128, 32, 32, 256, 3, 3, 1, 1, 1, 1}, 1);
    add("conv3", {256, 16, 16, 512, 3, 3, 1, 1, 1, 1}, 3);
    add("conv4", {512, 8, 8, 1024, 3, 3, 1, 1, 1, 1}, 3);
    add("conv5", {1024, 8, 8, 512, 3, 3, 1, 1, 1, 1}, 1);
    add("linear1", {512 * 8 * 8, 1, 1, 1024}, 1);
    add("linear2", {1024, 1, 1, 512}, 1);
    add("linear3", {512, 1, 1, 10}, 1);
    step.layers.back().neurons = false;
  }

  void add(const char* name, const Geometry& geometry, std::int64_t planes) {
    LayerWork layer;
    layer.name = name;
    layer.geometry = geometry;
    layer.timesteps = timesteps;
    layer.samples = samples;
    layer.planes = planes;
    layer.inputs = bits(planes * layer.rows(), geometry.in_features(), 0.15);
    layer.nonzero = bits(layer.rows(), geometry.out_features(), 0.4);
    layer.weight_gradient = true;
    layer.neurons = true;
    layer.membrane = true;
    layer.input_gradient = !step.layers.empty();
    if (layer.input_gradient) layer.mask = bits(layer.rows(), geometry.in_features(), 0.6);
    step.layers.push_back(layer);
  }

  const std::uint64_t* bits(std::int64_t rows, std::int64_t features, double rate) {
    operands.push_back(random.rows(rows, features, rate));
    return operands.back().data();
  }
};

void accelerator_simulate(benchmark::State& state) {
  const Network network;
  Machine machine;
  machine.schedule = static_cast<Schedule>(state.range(0));
  double cycles = 0.0;
  std::size_t tiles = 0;
  for (auto _ : state) {
    const Result result = simulate(machine, network.step);
    cycles += static_cast<double>(result.cycles);
    tiles = 0;
    for (const auto& of_engine : result.tiles) tiles += of_engine.size();
  }
  state.counters["simulated_cycles_per_second"] =
      benchmark::Counter(cycles, benchmark::Counter::kIsRate);
  state.counters["simulated_cycles"] =
      benchmark::Counter(cycles, benchmark::Counter::kAvgIterations);
  state.counters["tiles"] = static_cast<double>(tiles);
}

BENCHMARK(accelerator_simulate)
    ->ArgName("schedule")
    ->Arg(static_cast<int>(Schedule::serial))
    ->Arg(static_cast<int>(Schedule::batch))
    ->UseRealTime()
    ->MeasureProcessCPUTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
