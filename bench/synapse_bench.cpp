// The synapse's three products on layers of small and large networks, by kernel and by density of
// the operand that can be skipped: spikes for `forward` and `weight_update`, gradients for
// `backward`.
//
// `flops` is the rate of a dense product that would take as long: 2 operations for each weight
// that reaches each output, whether skipped or not. Above the machine's peak, skipping pays.
#include <benchmark/benchmark.h>

#include <array>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "h2learn/backward.hpp"
#include "h2learn/forward.hpp"
#include "h2learn/weight_update.hpp"

namespace {

using namespace h2learn;

struct Workload {
  const char* name;
  Geometry geometry;
  std::int64_t images;
};

const std::array<Workload, 6> workloads = {{
    {"linear_784_512", {784, 1, 1, 512}, 1024},
    {"linear_512_10", {512, 1, 1, 10}, 1024},
    {"conv_2_16_5x5_34x34", {2, 34, 34, 16, 5, 5}, 256},
    {"conv_16_32_5x5_15x15", {16, 15, 15, 32, 5, 5}, 256},
    {"conv_128_256_3x3_32x32", {128, 32, 32, 256, 3, 3, 1, 1, 1, 1}, 64},
    {"conv_512_1024_3x3_8x8", {512, 8, 8, 1024, 3, 3, 1, 1, 1, 1}, 64},
}};

const std::array<std::pair<const char*, Kernel>, 4> kernels = {{{"auto", Kernel::automatic},
                                                                {"event", Kernel::event},
                                                                {"dense", Kernel::dense},
                                                                {"lut", Kernel::lut}}};

constexpr std::array<int, 3> percents = {1, 15, 50};

/// A layer's operands; the same random numbers every time.
struct Operands {
  std::vector<std::uint64_t> words;
  std::vector<float> weight;
  std::vector<float> currents;  ///< outputs, or gradients of which `percent` are not zero
  std::vector<float> inputs;    ///< gradients of the inputs

  Operands(const Workload& workload, int percent) {
    const Geometry& geometry = workload.geometry;
    std::minstd_rand generator(1);
    const auto chosen = [&] { return static_cast<int>(generator() / 64 % 100) < percent; };
    const std::int64_t features = geometry.in_features();
    words.resize(static_cast<std::size_t>(workload.images * words_for(features)));
    for (std::int64_t i = 0; i < workload.images * features; ++i) {
      const std::int64_t word = i / features * words_for(features) + i % features / word_bits;
      const std::uint64_t bit = chosen() ? 1 : 0;
      words[static_cast<std::size_t>(word)] |= bit << (i % features % word_bits);
    }
    weight.resize(static_cast<std::size_t>(geometry.weights()));
    for (float& value : weight) value = static_cast<float>(generator() % 2001) * 1e-3F - 1;
    currents.resize(static_cast<std::size_t>(workload.images * geometry.out_features()));
    for (float& value : currents) {
      value = chosen() ? static_cast<float>(generator() % 1000 + 1) * 1e-3F : 0;
    }
    inputs.resize(static_cast<std::size_t>(workload.images * features));
  }

  PackedView view(const Workload& workload) const {
    return {words.data(), 1, workload.images, workload.geometry.in_features()};
  }
};

void count(benchmark::State& state, const Workload& workload) {
  const double products = static_cast<double>(workload.images * workload.geometry.out_positions()) *
                          static_cast<double>(workload.geometry.weights());
  state.counters["flops"] = benchmark::Counter(
      2 * products * static_cast<double>(state.iterations()), benchmark::Counter::kIsRate);
}

void run_forward(benchmark::State& state, const Workload& workload, Kernel kernel, int percent) {
  Operands operands(workload, percent);
  for (auto _ : state) {
    forward(workload.geometry, operands.view(workload), 1, operands.weight.data(), nullptr,
            operands.currents.data(), kernel);
  }
  count(state, workload);
}

void run_backward(benchmark::State& state, const Workload& workload, Kernel kernel, int percent) {
  Operands operands(workload, percent);
  for (auto _ : state) {
    backward(workload.geometry, operands.currents.data(), workload.images, operands.weight.data(),
             operands.words.data(), operands.inputs.data(), kernel);
  }
  count(state, workload);
}

void run_weight_update(benchmark::State& state, const Workload& workload, Kernel kernel,
                       int percent) {
  Operands operands(workload, percent);
  for (auto _ : state) {
    weight_update(workload.geometry, operands.view(workload), 1, operands.currents.data(),
                  operands.weight.data(), kernel);
  }
  count(state, workload);
}

using Run = void (*)(benchmark::State&, const Workload&, Kernel, int);

int register_all() {
  const std::array<std::pair<const char*, Run>, 3> products = {
      {{"forward", run_forward}, {"backward", run_backward}, {"weight_update", run_weight_update}}};
  for (const auto& [product, run] : products) {
    for (const Workload& workload : workloads) {
      for (const auto& [name, kernel] : kernels) {
        // Floats have no tables.
        if (kernel == Kernel::lut && run == run_backward) continue;
        for (int percent : percents) {
          const std::string title = std::string(product) + "/" + workload.name + "/" + name + "/" +
                                    std::to_string(percent) + "%";
          benchmark::RegisterBenchmark(title.c_str(), run, workload, kernel, percent)
              ->Unit(benchmark::kMillisecond)
              ->UseRealTime();
        }
      }
    }
  }
  return 0;
}

[[maybe_unused]] const int registered = register_all();

}  // namespace
