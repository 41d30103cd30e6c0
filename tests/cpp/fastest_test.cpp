// Kernel::fastest: what it stands for, on every target and for each product.
#include "fastest.hpp"

#include <algorithm>

#include "h2learn/backward.hpp"
#include "h2learn/forward.hpp"
#include "h2learn/weight_update.hpp"
#include "synapse_support.hpp"

namespace h2learn::test {
namespace {

/// Whether anything pays depends on what was measured; what a target cannot do does not.
bool multiplies_bytes() {
  const Target target = active_target();
  return target == Target::avx512vnni || target == Target::amx;
}

struct Results {
  std::vector<std::uint32_t> forward;
  std::vector<std::uint32_t> backward;
  std::vector<std::uint32_t> weight_update;
};

class Case {
 public:
  Case(const Layer& layer, std::int64_t planes, double density)
      : layer_(layer),
        spikes_(layer, planes, density, 1),
        weight_(random_floats(layer.geometry.weights(), -1, 1, 2)),
        gradients_(random_floats(layer.images * layer.geometry.out_features(), -1, 1, 3)) {}

  Results run(Kernel kernel) const {
    const Geometry& geometry = layer_.geometry;
    Floats currents(gradients_.size());
    Floats grad_inputs(size(layer_.images * geometry.in_features()));
    Floats grad_weight(weight_.size());
    forward(geometry, spikes_.view(), 0.5F, weight_.data(), nullptr, currents.data(), kernel);
    backward(geometry, gradients_.data(), layer_.images, weight_.data(), nullptr,
             grad_inputs.data(), kernel);
    weight_update(geometry, spikes_.view(), 0.5F, gradients_.data(), grad_weight.data(), kernel);
    return {bits_of(currents), bits_of(grad_inputs), bits_of(grad_weight)};
  }

  Kernel forward_kernel() const {
    return resolved(Kernel::fastest, Product::forward, layer_.geometry, spikes_.view());
  }
  Kernel weight_kernel() const {
    return resolved(Kernel::fastest, Product::weight_update, layer_.geometry, spikes_.view());
  }

 private:
  Layer layer_;
  Spikes spikes_;
  Floats weight_;
  Floats gradients_;
};

const Layer convolution = {"", {64, 16, 16, 64, 3, 3, 1, 1, 1, 1}, 8};

TEST(Fastest, IsDigitsOrAutoBitForBit) {
  std::vector<Layer> all = layers();
  all.push_back(convolution);
  for (const Layer& layer : all) {
    for (double density : {0.02, 0.5}) {
      const Case each(layer, layer.name.empty() ? 1 : 2, density);
      const auto compare = [&] {
        SCOPED_TRACE(layer.name);
        const Results found = each.run(Kernel::fastest);
        const Results digits = each.run(Kernel::digits);
        const Results others = each.run(Kernel::automatic);
        EXPECT_TRUE(found.forward ==
                    (each.forward_kernel() == Kernel::digits ? digits.forward : others.forward));
        EXPECT_TRUE(
            found.weight_update ==
            (each.weight_kernel() == Kernel::digits ? digits.weight_update : others.weight_update));
        EXPECT_TRUE(found.backward == digits.backward || found.backward == others.backward);
        if (multiplies_bytes()) return;
        EXPECT_TRUE(found.forward == others.forward);
        EXPECT_TRUE(found.backward == others.backward);
        EXPECT_TRUE(found.weight_update == others.weight_update);
      };
      on_each_target(compare, Target::baseline);  // the reference would take most of the time
      if (testing::Test::HasFailure()) return;
    }
  }
}

/// Of many outputs, so that events have little to gather for each.
const Layer wide = {"", {64, 16, 16, 256, 3, 3, 1, 1, 1, 1}, 8};

TEST(Fastest, DigitsPayOnTilesWhereSpikesAreMany) {
#ifdef H2LEARN_AMX_TARGET
  const std::vector<Target> targets = available_targets();
  if (std::find(targets.begin(), targets.end(), Target::amx) == targets.end()) {
    GTEST_SKIP() << "no AMX here";
  }
  const ForcedTarget forced(Target::amx);
  EXPECT_EQ(Case(wide, 1, 0.5).forward_kernel(), Kernel::digits);
  EXPECT_EQ(Case(wide, 1, 0.002).forward_kernel(), Kernel::automatic);
  // One row would pay for packing all weights; few outputs and channels leave tiles empty.
  EXPECT_EQ(Case({"", {512, 1, 1, 512}, 1}, 1, 0.5).forward_kernel(), Kernel::automatic);
  EXPECT_EQ(Case({"", {2, 16, 16, 64, 3, 3}, 8}, 1, 0.5).forward_kernel(), Kernel::automatic);
  EXPECT_FALSE(digits_may_pay(Product::forward, wide.geometry, 64, 9)) << "planes";
  EXPECT_FALSE(digits_pay(Product::forward, wide.geometry, 64, 0.5, 0.01)) << "others";
#else
  GTEST_SKIP() << "built without AMX";
#endif
}

TEST(Fastest, OnlyItIsResolved) {
  const Spikes spikes(convolution, 1, 0.5, 4);
  on_each_target([&] {
    for (Kernel kernel : {Kernel::automatic, Kernel::event, Kernel::dense, Kernel::lut,
                          Kernel::digits, Kernel::sampled}) {
      EXPECT_EQ(resolved(kernel, Product::forward, convolution.geometry, spikes.view()), kernel);
    }
  });
}

}  // namespace
}  // namespace h2learn::test
