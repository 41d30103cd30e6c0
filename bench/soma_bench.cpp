// The soma's forward and backward pass, T = 8, from the cache and from memory, beside a plain
// copy of as many bytes: what the kernels do besides moving their data should not show.
//
// Counters: bytes_per_second counts every byte the pass must read or write; time_per_step is the
// time of one neuron at one timestep.
#include <benchmark/benchmark.h>

#include <cstring>
#include <new>
#include <vector>

#include "h2learn/soma.hpp"
#include "h2learn/spikes.hpp"

namespace {

using namespace h2learn;

constexpr std::int64_t steps = 8;
constexpr std::int64_t batch = 4;

/// Memory as torch hands it out: aligned to 64 bytes.
template <typename T>
struct Aligned {
  using value_type = T;
  static constexpr std::align_val_t alignment{64};
  Aligned() = default;
  template <typename U>
  explicit Aligned(const Aligned<U>&) {}
  T* allocate(std::size_t count) {
    return static_cast<T*>(::operator new(count * sizeof(T), alignment));
  }
  void deallocate(T* memory, std::size_t) { ::operator delete(memory, alignment); }
  bool operator==(const Aligned&) const { return true; }
};
using Floats = std::vector<float, Aligned<float>>;

/// Tensors of one layer with currents that make about one neuron in six fire.
struct Layer {
  SomaOptions options;
  SomaShape shape;
  Floats currents;
  Floats membrane;
  Floats gradients;
  std::vector<std::uint64_t> spikes;
  std::vector<std::uint64_t> mask;

  explicit Layer(std::int64_t features) : shape{steps, batch, features} {
    const auto values = static_cast<std::size_t>(steps * batch * features);
    const auto words = static_cast<std::size_t>(steps * batch * words_for(features));
    currents.resize(values);
    gradients.resize(values);
    membrane.resize(values);
    spikes.resize(words);
    mask.resize(words);
    std::uint32_t state = 1;
    for (float& x : currents) {
      state = state * 1664525U + 1013904223U;
      x = static_cast<float>(state >> 8) * 0x1p-24F - 0.7F;
    }
  }
};

void count(benchmark::State& state, const Layer& layer, double bytes_a_step) {
  const auto values = static_cast<double>(layer.currents.size());
  const auto done = static_cast<double>(state.iterations());
  state.SetBytesProcessed(static_cast<std::int64_t>(done * values * bytes_a_step));
  state.counters["time_per_step"] =
      benchmark::Counter(done * values, benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

void copy_floats(benchmark::State& state) {
  Layer layer(state.range(0));
  for (auto _ : state) {
    std::memcpy(layer.membrane.data(), layer.currents.data(),
                layer.currents.size() * sizeof(float));
    benchmark::ClobberMemory();
  }
  count(state, layer, 8.0);
}

void read_floats(benchmark::State& state) {
  Layer layer(state.range(0));
  for (auto _ : state) {
    float most = 0.0F;
#pragma omp simd reduction(max : most)
    for (std::size_t i = 0; i < layer.currents.size(); ++i) {
      most = most > layer.currents[i] ? most : layer.currents[i];
    }
    benchmark::DoNotOptimize(most);
  }
  count(state, layer, 4.0);
}

void soma_forward_masks(benchmark::State& state) {
  Layer layer(state.range(0));
  for (auto _ : state) {
    soma_forward(layer.options, layer.shape, layer.currents.data(), nullptr, layer.spikes.data(),
                 layer.mask.data(), nullptr, nullptr);
  }
  count(state, layer, 4.25);
}

void soma_forward_membrane(benchmark::State& state) {
  Layer layer(state.range(0));
  for (auto _ : state) {
    soma_forward(layer.options, layer.shape, layer.currents.data(), nullptr, layer.spikes.data(),
                 layer.mask.data(), layer.membrane.data(), nullptr);
  }
  count(state, layer, 8.25);
}

void backward(benchmark::State& state, Layer& layer, bool sums) {
  const bool compact = is_compact(layer.options.surrogate);
  std::uint64_t* const mask = compact ? layer.mask.data() : nullptr;
  soma_forward(layer.options, layer.shape, layer.currents.data(), nullptr, layer.spikes.data(),
               mask, layer.membrane.data(), nullptr);
  double decay = 0.0;
  double threshold = 0.0;
  SomaGradients g;
  g.grad_spikes = layer.currents.data();
  g.spikes = layer.spikes.data();
  g.mask = mask;
  const bool membrane = layer.options.needs_membrane() || sums;
  if (membrane) g.membrane = layer.membrane.data();
  g.grad_currents = layer.gradients.data();
  if (sums) {
    g.grad_decay = &decay;
    g.grad_threshold = &threshold;
  }
  for (auto _ : state) soma_backward(layer.options, layer.shape, g);
  count(state, layer, 8.125 + (compact ? 0.125 : 0.0) + (membrane ? 4.0 : 0.0));
}

void soma_backward_masks(benchmark::State& state) {
  Layer layer(state.range(0));
  layer.options.detach_reset = true;
  backward(state, layer, false);
}

void soma_backward_membrane(benchmark::State& state) {
  Layer layer(state.range(0));
  backward(state, layer, false);
}

void soma_backward_sigmoid(benchmark::State& state) {
  Layer layer(state.range(0));
  layer.options.surrogate = Surrogate::sigmoid;
  backward(state, layer, false);
}

void soma_backward_sums(benchmark::State& state) {
  Layer layer(state.range(0));
  backward(state, layer, true);
}

/// 128 KiB of currents stay in a core's L2; 256 MiB come from memory.
void sizes(benchmark::internal::Benchmark* b) {
  b->ArgName("features")->Arg(1 << 10)->Arg(1 << 21)->UseRealTime();
}

BENCHMARK(copy_floats)->Apply(sizes);
BENCHMARK(read_floats)->Apply(sizes);
BENCHMARK(soma_forward_masks)->Apply(sizes);
BENCHMARK(soma_forward_membrane)->Apply(sizes);
BENCHMARK(soma_backward_masks)->Apply(sizes);
BENCHMARK(soma_backward_membrane)->Apply(sizes);
BENCHMARK(soma_backward_sigmoid)->Apply(sizes);
BENCHMARK(soma_backward_sums)->Apply(sizes);

}  // namespace
