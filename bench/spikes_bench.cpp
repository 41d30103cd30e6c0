// Operations on packed spikes. bytes_per_second counts every byte read or written; time_per_bit is
// the time of one bit.
#include <benchmark/benchmark.h>

#include <vector>

#include "h2learn/spikes.hpp"

namespace {

using namespace h2learn;

constexpr std::int64_t features = 128 * 16 * 16;

/// Images of one layer, one neuron in eight firing.
struct Images {
  std::int64_t rows;
  std::vector<float> dense;
  std::vector<std::uint64_t> words;
  std::vector<std::uint64_t> out;

  explicit Images(std::int64_t count) : rows(count) {
    dense.resize(static_cast<std::size_t>(rows * features));
    words.resize(static_cast<std::size_t>(rows * words_for(features)));
    out.resize(static_cast<std::size_t>(features * words_for(rows)));
    std::uint32_t state = 1;
    for (float& value : dense) {
      state = state * 1664525U + 1013904223U;
      value = state >> 29 == 0 ? 1.0F : 0.0F;
    }
    pack(dense.data(), rows, features, words.data());
  }

  PackedView view() const { return {words.data(), 1, rows, features}; }
};

void count(benchmark::State& state, const Images& images, double bytes_a_bit) {
  const double bits =
      static_cast<double>(state.iterations()) * static_cast<double>(images.rows * features);
  state.SetBytesProcessed(static_cast<std::int64_t>(bits * bytes_a_bit));
  state.counters["time_per_bit"] =
      benchmark::Counter(bits, benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

void spikes_pack(benchmark::State& state) {
  Images images(state.range(0));
  for (auto _ : state) {
    benchmark::DoNotOptimize(pack(images.dense.data(), images.rows, features, images.words.data()));
  }
  count(state, images, 4.125);
}

void spikes_pack_nonzero(benchmark::State& state) {
  Images images(state.range(0));
  for (auto _ : state) {
    pack_nonzero(images.dense.data(), images.rows, features, images.words.data());
    benchmark::ClobberMemory();
  }
  count(state, images, 4.125);
}

void spikes_unpack(benchmark::State& state) {
  Images images(state.range(0));
  for (auto _ : state) unpack(images.view(), 1.0F, images.dense.data());
  count(state, images, 4.125);
}

void spikes_popcount(benchmark::State& state) {
  const Images images(state.range(0));
  for (auto _ : state) benchmark::DoNotOptimize(popcount(images.view()));
  count(state, images, 0.125);
}

void spikes_transpose_features(benchmark::State& state) {
  Images images(state.range(0));
  const std::int64_t channels = state.range(1);
  for (auto _ : state) {
    transpose_features(images.view(), features / channels, channels, false, images.out.data());
  }
  count(state, images, 0.25);
}

void spikes_transpose_bits(benchmark::State& state) {
  Images images(state.range(0));
  for (auto _ : state) {
    transpose_bits(images.words.data(), images.rows, features, images.out.data());
  }
  count(state, images, 0.25);
}

BENCHMARK(spikes_pack)->ArgName("images")->Arg(8)->Arg(1024)->UseRealTime();
BENCHMARK(spikes_pack_nonzero)->ArgName("images")->Arg(8)->Arg(1024)->UseRealTime();
BENCHMARK(spikes_unpack)->ArgName("images")->Arg(8)->Arg(1024)->UseRealTime();
BENCHMARK(spikes_popcount)->ArgName("images")->Arg(8)->Arg(1024)->UseRealTime();
BENCHMARK(spikes_transpose_features)
    ->ArgNames({"images", "channels"})
    ->Args({256, 128})
    ->Args({256, 16})
    ->UseRealTime();
BENCHMARK(spikes_transpose_bits)->ArgName("images")->Arg(256)->UseRealTime();

}  // namespace
