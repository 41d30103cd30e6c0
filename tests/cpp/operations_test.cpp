// Counts of synaptic operations against counting every product one by one.
#include "h2learn/operations.hpp"

#include "synapse_support.hpp"

namespace h2learn::test {
namespace {

std::int64_t counted(const Layer& layer, const Spikes& spikes,
                     const std::vector<std::int64_t>* outputs) {
  const Geometry& g = layer.geometry;
  const std::int64_t group_outputs = g.outputs_per_group();
  std::int64_t operations = 0;
  for_each_product(g, layer.images, [&](auto image, auto position, auto n, auto feature, auto) {
    std::int64_t set = 0;
    for (std::int64_t plane = 0; plane < spikes.planes; ++plane) {
      set += bit(spikes.words, plane * spikes.rows + image, spikes.features, feature) ? 1 : 0;
    }
    if (outputs == nullptr) {
      operations += set;
    } else if (n % group_outputs == 0) {  // each group's outputs are counted at its first
      operations +=
          set *
          (*outputs)[size((image * g.out_positions() + position) * g.groups + n / group_outputs)];
    }
  });
  return operations;
}

TEST(Operations, AreTheProductsWithASetBit) {
  for (const Layer& layer : layers()) {
    for (double rate : {0.0, 0.3, 1.0}) {
      for (std::int64_t planes : {1, 3}) {
        SCOPED_TRACE(layer.name);
        const Spikes spikes(layer, planes, rate, 1);
        EXPECT_EQ(count_operations(layer.geometry, spikes.view(), nullptr),
                  counted(layer, spikes, nullptr));
      }
    }
  }
}

TEST(Operations, AreWeightedByTheOutputsGiven) {
  for (const Layer& layer : layers()) {
    SCOPED_TRACE(layer.name);
    const Geometry& g = layer.geometry;
    const Spikes spikes(layer, 1, 0.4, 2);
    std::mt19937 generator(3);
    std::uniform_int_distribution<std::int64_t> distribution(0, g.outputs_per_group());
    std::vector<std::int64_t> outputs(size(layer.images * g.out_positions() * g.groups));
    for (std::int64_t& count : outputs) count = distribution(generator);
    EXPECT_EQ(count_operations(g, spikes.view(), outputs.data()), counted(layer, spikes, &outputs));
  }
}

TEST(Operations, DenseCountLeavesThePaddingOut) {
  for (const Layer& layer : layers()) {
    SCOPED_TRACE(layer.name);
    std::int64_t products = 0;
    for_each_product(layer.geometry, layer.images, [&](auto...) { ++products; });
    EXPECT_EQ(count_dense_operations(layer.geometry, layer.images), products);
  }
}

TEST(Operations, DenseCountIsThatOfSpikesAllSet) {
  for (const Layer& layer : layers()) {
    SCOPED_TRACE(layer.name);
    const Spikes spikes(layer, 1, 1.0, 4);
    EXPECT_EQ(count_dense_operations(layer.geometry, layer.images),
              count_operations(layer.geometry, spikes.view(), nullptr));
  }
}

TEST(Operations, BadInputIsNamed) {
  const Layer layer = {"", {3, 6, 7, 5, 3, 3}, 2};
  const Spikes spikes(layer, 1, 0.5, 5);
  PackedView view = spikes.view();
  view.features = 12;
  expect_refused([&] { count_operations(layer.geometry, view, nullptr); },
                 {"features", "126", "12"});
  Geometry geometry = layer.geometry;
  geometry.groups = 0;
  expect_refused([&] { count_operations(geometry, spikes.view(), nullptr); }, {"groups", "0"});
  expect_refused([&] { count_dense_operations(layer.geometry, -1); }, {"rows", "-1"});
}

}  // namespace
}  // namespace h2learn::test
