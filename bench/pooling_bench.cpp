// Pooling by 2 x 2 windows, for channels that fill words and for channels that do not.
// time_per_input is the time of one input of the forward pass.
#include <benchmark/benchmark.h>

#include <vector>

#include "h2learn/pooling.hpp"

namespace {

using namespace h2learn;

constexpr std::int64_t images = 64;

struct Pool {
  PoolGeometry geometry;
  std::vector<float> dense;
  std::vector<std::uint64_t> spikes;
  std::vector<std::uint64_t> out;
  std::vector<float> grad_outputs;

  explicit Pool(std::int64_t channels) : geometry{channels, 24, 24, 2, 2, 2, 2} {
    const std::int64_t features = geometry.in_features();
    dense.resize(static_cast<std::size_t>(images * features));
    spikes.resize(static_cast<std::size_t>(images * words_for(features)));
    grad_outputs.resize(static_cast<std::size_t>(images * geometry.out_features()), 0.5F);
    out.resize(
        static_cast<std::size_t>(geometry.planes() * images * words_for(geometry.out_features())));
    std::uint32_t state = 1;
    for (float& value : dense) {
      state = state * 1664525U + 1013904223U;
      value = state >> 29 == 0 ? 1.0F : 0.0F;
    }
    pack(dense.data(), images, features, spikes.data());
  }

  PackedView view() const { return {spikes.data(), 1, images, geometry.in_features()}; }
};

void count(benchmark::State& state, const Pool& pool) {
  const double inputs =
      static_cast<double>(state.iterations()) * static_cast<double>(pool.dense.size());
  state.counters["time_per_input"] =
      benchmark::Counter(inputs, benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

void pool_count(benchmark::State& state) {
  Pool pool(state.range(0));
  for (auto _ : state) count_pool(pool.geometry, pool.view(), pool.out.data());
  count(state, pool);
}

void pool_max(benchmark::State& state) {
  Pool pool(state.range(0));
  for (auto _ : state) max_pool(pool.geometry, pool.view(), pool.out.data());
  count(state, pool);
}

void pool_average_backward(benchmark::State& state) {
  Pool pool(state.range(0));
  for (auto _ : state) {
    average_pool_backward(pool.geometry, pool.grad_outputs.data(), images, pool.dense.data());
  }
  count(state, pool);
}

void pool_max_backward(benchmark::State& state) {
  Pool pool(state.range(0));
  for (auto _ : state) {
    max_pool_backward(pool.geometry, pool.view(), pool.grad_outputs.data(), pool.dense.data());
  }
  count(state, pool);
}

BENCHMARK(pool_count)->ArgName("channels")->Arg(16)->Arg(128)->UseRealTime();
BENCHMARK(pool_max)->ArgName("channels")->Arg(16)->Arg(128)->UseRealTime();
BENCHMARK(pool_average_backward)->ArgName("channels")->Arg(16)->Arg(128)->UseRealTime();
BENCHMARK(pool_max_backward)->ArgName("channels")->Arg(16)->Arg(128)->UseRealTime();

}  // namespace
