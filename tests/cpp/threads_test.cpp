// Whole training steps in several threads at once, as several threads of Python train models of
// their own: results are those of the step alone. Under the preset `tsan` this is where every
// kernel, the pool, the scratch memory and the choice of target meet ThreadSanitizer.
#include <array>
#include <atomic>
#include <latch>
#include <thread>

#include "h2learn/backward.hpp"
#include "h2learn/forward.hpp"
#include "h2learn/fused_forward.hpp"
#include "h2learn/memory.hpp"
#include "h2learn/pooling.hpp"
#include "h2learn/soma.hpp"
#include "h2learn/weight_update.hpp"
#include "kernels/synapse.hpp"
#include "support.hpp"
#include "synapse_plan.hpp"

namespace h2learn::test {
namespace {

// Without `fastest`, which may give other bits on another target.
constexpr std::array kernels = {Kernel::automatic, Kernel::event,  Kernel::dense,
                                Kernel::lut,       Kernel::digits, Kernel::sampled};

/// Memory of the pool.
template <typename T>
class Tensor {
 public:
  explicit Tensor(std::int64_t count)
      : count_(count), block_(count * static_cast<std::int64_t>(sizeof(T))) {}
  T* data() const { return static_cast<T*>(block_.data()); }
  void append_to(std::string& bytes) const {
    bytes.append(static_cast<const char*>(block_.data()), size(count_) * sizeof(T));
  }

 private:
  std::int64_t count_;
  Block block_;
};

/// Weights that all threads share, of a convolution with so few outputs that its panels are kept.
const Geometry shared = {8, 10, 10, 16, 3, 3, 1, 1, 1, 1};
const Floats shared_weight = random_floats(shared.weights(), -0.3F, 0.4F, 99);

/// Convolution, neurons, pooling and a linear layer, so large that every kernel that has threads
/// uses them; the first two also as one; a linear layer of few spikes; and one of shared weights.
struct Network {
  SomaShape neurons = {8, 3, 20 * 20 * 16};
  std::int64_t images = neurons.steps * neurons.batch;
  Geometry conv = {8, 20, 20, 16, 3, 3, 1, 1, 1, 1};
  PoolGeometry pool = {16, 20, 20};
  Geometry linear = {10 * 10 * 16, 1, 1, 64};
  Geometry walked = {512, 1, 1, 64};
  std::int64_t walked_images = 2 * few_images;
  std::int64_t shared_images = 4;
  SomaOptions options;
  Floats inputs;
  Words needed;
  Floats conv_weight;
  Floats conv_bias;
  Floats linear_weight;
  Floats linear_bias;
  Words few_spikes;
  Floats walked_weight;
  Words shared_spikes;

  explicit Network(unsigned seed)
      : inputs(random_binary(images * conv.in_features(), 0.2, seed)),
        needed(random_words(images, conv.in_features(), 0.2, seed + 1)),
        conv_weight(random_floats(conv.weights(), -0.3F, 0.4F, seed + 2)),
        conv_bias(random_floats(conv.out_channels, -0.1F, 0.1F, seed + 3)),
        linear_weight(random_floats(linear.weights(), -0.1F, 0.1F, seed + 4)),
        linear_bias(random_floats(linear.out_channels, -0.1F, 0.1F, seed + 5)),
        few_spikes(random_words(walked_images, walked.in_features(), 0.01, seed + 6)),
        walked_weight(random_floats(walked.weights(), -0.3F, 0.4F, seed + 7)),
        shared_spikes(random_words(shared_images, shared.in_features(), 0.2, seed + 8)) {}

  /// Every result of one step, byte by byte. The scores are their own gradients.
  std::string train(Kernel kernel) const {
    const std::int64_t input_words = images * words_for(conv.in_features());
    const std::int64_t spike_words = images * words_for(conv.out_features());
    const std::int64_t pooled_words = images * words_for(pool.out_features());
    const Tensor<std::uint64_t> words(input_words);
    const Tensor<float> currents(images * conv.out_features());
    const Tensor<std::uint64_t> fired(spike_words);
    const Tensor<std::uint64_t> mask(spike_words);
    const Tensor<float> membrane(images * conv.out_features());
    const Tensor<std::uint64_t> counts(pool.planes() * pooled_words);
    const Tensor<std::uint64_t> maxima(pooled_words);
    const Tensor<float> scores(images * linear.out_features());
    const Tensor<std::uint64_t> fused(spike_words);
    const Tensor<float> of_few(walked_images * walked.out_features());
    const Tensor<float> of_shared(shared_images * shared.out_features());

    pack(inputs.data(), images, conv.in_features(), words.data());
    const PackedView spikes = {words.data(), 1, images, conv.in_features()};
    forward(conv, spikes, 1, conv_weight.data(), conv_bias.data(), currents.data(), kernel);
    soma_forward(options, neurons, currents.data(), nullptr, fired.data(), mask.data(),
                 membrane.data(), nullptr);
    Synapses synapses = {conv, conv_weight.data(), conv_bias.data(), kernel};
    Neurons together = {options, neurons.steps, neurons.batch};
    together.spikes = fused.data();
    fused_forward(synapses, spikes, 1, together);
    forward(walked, {few_spikes.data(), 1, walked_images, walked.in_features()}, 1,
            walked_weight.data(), nullptr, of_few.data(), kernel);
    forward(shared, {shared_spikes.data(), 1, shared_images, shared.in_features()}, 1,
            shared_weight.data(), nullptr, of_shared.data(), kernel);
    const PackedView emitted = {fired.data(), 1, images, conv.out_features()};
    count_pool(pool, emitted, counts.data());
    max_pool(pool, emitted, maxima.data());
    const PackedView averages = {counts.data(), pool.planes(), images, pool.out_features()};
    forward(linear, averages, 0.25F, linear_weight.data(), linear_bias.data(), scores.data(),
            kernel);

    const Tensor<float> linear_update(linear.weights());
    const Tensor<float> linear_bias_update(linear.out_channels);
    const Tensor<float> grad_pooled(images * linear.in_features());
    const Tensor<float> grad_spikes(images * conv.out_features());
    const Tensor<float> grad_maxima(images * conv.out_features());
    const Tensor<float> grad_currents(images * conv.out_features());
    const Tensor<float> conv_update(conv.weights());
    const Tensor<float> conv_bias_update(conv.out_channels);
    const Tensor<float> grad_inputs(images * conv.in_features());
    const Tensor<double> grad_decay(1);
    const Tensor<double> grad_threshold(1);

    weight_update(linear, averages, 0.25F, scores.data(), linear_update.data(), kernel);
    bias_update(scores.data(), images, linear.out_channels, linear_bias_update.data());
    backward(linear, scores.data(), images, linear_weight.data(), nullptr, grad_pooled.data(),
             kernel);
    average_pool_backward(pool, grad_pooled.data(), images, grad_spikes.data());
    max_pool_backward(pool, emitted, grad_pooled.data(), grad_maxima.data());
    SomaGradients g;
    g.grad_spikes = grad_spikes.data();
    g.spikes = fired.data();
    g.mask = mask.data();
    g.membrane = membrane.data();
    g.grad_currents = grad_currents.data();
    g.grad_decay = grad_decay.data();
    g.grad_threshold = grad_threshold.data();
    soma_backward(options, neurons, g);
    weight_update(conv, spikes, 1, grad_currents.data(), conv_update.data(), kernel);
    bias_update(grad_currents.data(), images * conv.out_positions(), conv.out_channels,
                conv_bias_update.data());
    backward(conv, grad_currents.data(), images, conv_weight.data(), needed.data(),
             grad_inputs.data(), kernel);

    std::string bytes = std::to_string(popcount(emitted));
    for (const auto* words_of : {&words, &fired, &mask, &counts, &maxima, &fused}) {
      words_of->append_to(bytes);
    }
    for (const auto* floats :
         {&currents, &membrane, &scores, &linear_update, &linear_bias_update, &grad_pooled,
          &grad_spikes, &grad_maxima, &grad_currents, &conv_update, &conv_bias_update, &grad_inputs,
          &of_few, &of_shared}) {
      floats->append_to(bytes);
    }
    grad_decay.append_to(bytes);
    grad_threshold.append_to(bytes);
    return bytes;
  }
};

/// Changes the target again and again, among those that round alike, until it is destroyed.
class RestlessTarget {
 public:
  RestlessTarget()
      : thread_([this] {
          while (!stop_) {
            for (Target target : available_targets()) {
              if (target != Target::baseline) set_target(target_name(target));
              std::this_thread::yield();
            }
          }
        }) {}
  ~RestlessTarget() {
    stop_ = true;
    thread_.join();
    set_target("auto");
  }
  RestlessTarget(const RestlessTarget&) = delete;
  RestlessTarget& operator=(const RestlessTarget&) = delete;

 private:
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

TEST(SeveralThreads, TrainAsTheyWouldAlone) {
  constexpr std::size_t count = 2;
  std::vector<Network> networks;
  for (unsigned seed = 0; seed < count; ++seed) networks.emplace_back(100 * seed);
  const Network& one = networks[0];
  const GatherPlan plan(one.walked, GatherPlan::Rows::windows);
  const PackedView few = {one.few_spikes.data(), 1, one.walked_images, one.walked.in_features()};
  on_each_target(
      [&] {
        EXPECT_EQ(detail::pick_synapse_kernels(active_target())
                      .choose_product(plan.of_spikes(few), one.walked.out_channels, Method::event),
                  Choice::walk);
      },
      Target::baseline);
  std::array<std::array<std::string, kernels.size()>, count> together;
  {
    const RestlessTarget restless;
    std::latch ready(count);
    std::vector<std::thread> threads;
    for (std::size_t t = 0; t < count; ++t) {
      threads.emplace_back([&, t] {
        const Threads two(2);
        ready.arrive_and_wait();
        for (std::size_t k = 0; k < kernels.size(); ++k) {
          const std::size_t other = (k + t) % kernels.size();  // not all in the same kernel
          together[t][other] = networks[t].train(kernels[other]);
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  for (std::size_t t = 0; t < count; ++t) {
    for (std::size_t k = 0; k < kernels.size(); ++k) {
      EXPECT_TRUE(together[t][k] == networks[t].train(kernels[k]))
          << "thread " << t << ", kernel " << k;
    }
  }
  EXPECT_EQ(memory_statistics().in_use, 0);
  EXPECT_GT(memory_statistics().weights, 0);  // kept, of those that are shared
}

TEST(SeveralThreads, ATargetThatIsSetStaysSet) {
  // The first to ask for the target chooses it; whoever sets one meanwhile has the last word.
  std::latch ready(2);
  std::thread asks([&] {
    ready.arrive_and_wait();
    active_target();
  });
  ready.arrive_and_wait();
  set_target("scalar");
  asks.join();
  EXPECT_EQ(active_target(), Target::scalar);
  set_target("auto");
}

}  // namespace
}  // namespace h2learn::test
