// Packed weights kept from call to call: a result must follow its weights, whoever changes them.
#include "packed_weights.hpp"

#include <limits>
#include <stdexcept>

#include "h2learn/backward.hpp"
#include "h2learn/forward.hpp"
#include "h2learn/memory.hpp"
#include "synapse_support.hpp"

namespace h2learn::test {
namespace {

/// Few enough rows for its weights to be kept.
const Geometry small = {6, 5, 7, 10, 3, 3, 1, 1, 1, 1};
constexpr std::int64_t images = 3;
const Layer layer = {"small", small, images};
constexpr WeightShape small_shape = {1, 10, 6, 9};

class KeptWeights : public ::testing::Test {
 protected:
  void SetUp() override { release_free_blocks(); }
  void TearDown() override { release_free_blocks(); }
};

/// Everything that weights are packed for.
Floats products_of(const Floats& weight) {
  const Spikes spikes(layer, 1, 0.3, 1);
  const Floats gradients = random_floats(images * small.out_features(), -1, 1, 2);
  const Floats inputs = random_floats(images * small.in_features(), 0, 1, 3);
  const Spikes mask(layer, 1, 0.3, 4);
  Floats all;
  const auto append = [&all](const Floats& more) {
    all.insert(all.end(), more.begin(), more.end());
  };
  Floats currents(size(images * small.out_features()));
  for (Kernel kernel : {Kernel::event, Kernel::dense, Kernel::lut}) {
    forward(small, spikes.view(), 1, weight.data(), nullptr, currents.data(), kernel);
    append(currents);
  }
  forward(small, inputs.data(), images, weight.data(), nullptr, currents.data());
  append(currents);
  Floats grad_inputs(size(images * small.in_features()));
  for (Kernel kernel : {Kernel::event, Kernel::dense, Kernel::sampled}) {
    backward(small, gradients.data(), images, weight.data(), mask.words.data(), grad_inputs.data(),
             kernel);
    append(grad_inputs);
  }
  return all;
}

TEST_F(KeptWeights, EveryWeightThatChangesIsSeen) {
  on_each_target([] {
    Floats weight = random_floats(small.weights(), -1, 1, 5);
    products_of(weight);
    for (std::size_t changed = 0; changed < weight.size(); changed += 7) {
      weight[changed] += 1;
      const Floats found = products_of(weight);
      release_free_blocks();
      EXPECT_TRUE(found == products_of(weight));
    }
  });
}

TEST_F(KeptWeights, TheyAreKeptWhileTheyAreTheSameBits) {
  const ForcedTarget forced(available_targets().back());
  const SynapseKernels& kernels = detail::pick_synapse_kernels(active_target());
  Floats weight = random_floats(small.weights(), -1, 1, 6);
  weight[17] = 0;
  const auto first = packed_weights(kernels, small_shape, PackFor::forward, weight.data());
  EXPECT_EQ(packed_weights(kernels, small_shape, PackFor::forward, weight.data()), first);
  EXPECT_NE(packed_weights(kernels, small_shape, PackFor::backward, weight.data()), first);
  EXPECT_GT(memory_statistics().weights, first->bytes());
  weight[17] = -0.0F;
  const auto second = packed_weights(kernels, small_shape, PackFor::forward, weight.data());
  EXPECT_NE(second, first);
  EXPECT_EQ(packed_weights(kernels, small_shape, PackFor::forward, weight.data()), second);
  release_free_blocks();
  EXPECT_EQ(memory_statistics().weights, 0);
}

TEST_F(KeptWeights, AtMostSoManyBytes) {
  const ForcedTarget forced(available_targets().back());
  const SynapseKernels& kernels = detail::pick_synapse_kernels(active_target());
  const WeightShape large = {1, 1024, 1024, 2};
  std::vector<Floats> layers;
  for (int i = 0; i < 5; ++i) {
    layers.emplace_back(size(1024 * 1024 * 2), 1.0F);
    EXPECT_NE(packed_weights(kernels, large, PackFor::forward, layers.back().data()), nullptr);
    EXPECT_LE(memory_statistics().weights, most_kept_bytes);
    EXPECT_GT(memory_statistics().weights, 0);
  }
  // The first has made room.
  const auto last = packed_weights(kernels, large, PackFor::forward, layers.back().data());
  const auto first = packed_weights(kernels, large, PackFor::forward, layers.front().data());
  EXPECT_NE(first, nullptr);
  EXPECT_EQ(packed_weights(kernels, large, PackFor::forward, layers.back().data()), last);
  const WeightShape too_large = {1, 1024, 1024, 9};
  const Floats weight(size(1024 * 1024 * 9), 1.0F);
  EXPECT_EQ(packed_weights(kernels, too_large, PackFor::forward, weight.data()), nullptr);
}

TEST_F(KeptWeights, ManySmallLayersMakeRoomToo) {
  const ForcedTarget forced(available_targets().back());
  const SynapseKernels& kernels = detail::pick_synapse_kernels(active_target());
  std::vector<Floats> layers;
  std::int64_t each = 0;
  for (int i = 0; i < 100; ++i) {
    layers.push_back(random_floats(small.weights(), -1, 1, 7));
    const auto packed =
        packed_weights(kernels, small_shape, PackFor::forward, layers.back().data());
    each = packed->bytes();
  }
  EXPECT_EQ(memory_statistics().weights, 64 * each);
}

TEST_F(KeptWeights, WeightsThatAreNotFiniteAreRefusedEveryTime) {
  on_each_target([] {
    Floats weight = random_floats(small.weights(), -1, 1, 8);
    const Floats before = products_of(weight);
    const float kept = weight[100];
    weight[100] = std::numeric_limits<float>::infinity();
    EXPECT_THROW(products_of(weight), std::invalid_argument);
    EXPECT_THROW(products_of(weight), std::invalid_argument);
    weight[100] = kept;
    EXPECT_TRUE(products_of(weight) == before);
  });
}

}  // namespace
}  // namespace h2learn::test
