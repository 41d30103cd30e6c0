#include "reference/soma.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "h2learn/spikes.hpp"
#include "reference/pooling.hpp"

namespace h2learn::reference {
namespace {

/// exp(-|v| / width); see SomaPlan.
float decaying_exponential(const SomaPlan& plan, float v) {
  const float magnitude = std::fabs(v);
  const float halvings = magnitude * plan.steepness;
  if (!(halvings < most_halvings)) return 0.0F;
  const float shifted = halvings + round_to_integer;
  const float n = shifted - round_to_integer;
  const float r = ((magnitude - n * plan.half_high) - n * plan.half_low) * plan.inverse_width;
  float e = 1.0F / 720.0F;
  for (float inverse_factorial :
       {-1.0F / 120.0F, 1.0F / 24.0F, -1.0F / 6.0F, 1.0F / 2.0F, -1.0F, 1.0F}) {
    e = e * r + inverse_factorial;
  }
  const auto exponent = std::bit_cast<std::uint32_t>(shifted) << 23;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(e) - exponent);
}

struct Neuron {
  std::int64_t b = 0;
  std::int64_t f = 0;
};

/// One neuron's view of the tensors: where its value, its word and its bit lie at timestep t.
struct Column {
  const SomaPlan& plan;
  Neuron neuron = {};

  std::int64_t state() const { return neuron.b * plan.shape.features + neuron.f; }
  std::int64_t value(std::int64_t t) const { return t * plan.values_step + state(); }
  std::int64_t current(std::int64_t t) const { return t * plan.currents_step + state(); }
  std::int64_t word(std::int64_t t) const {
    return t * plan.words_step + neuron.b * plan.words + neuron.f / word_bits;
  }
  bool bit(const std::uint64_t* words, std::int64_t t) const {
    return ((words[word(t)] >> (neuron.f % word_bits)) & 1U) != 0;
  }
  void set(std::uint64_t* words, std::int64_t t) const {
    words[word(t)] |= std::uint64_t{1} << (neuron.f % word_bits);
  }
};

float after_reset(const SomaOptions& options, float u, bool spike) {
  if (!spike) return u;
  return options.reset == Reset::hard ? 0.0F : u - options.threshold;
}

bool neuron_forward(const Column& column, const float* currents, const float* initial,
                    std::uint64_t* spikes, std::uint64_t* mask, float* membrane, float* last) {
  const SomaOptions& options = column.plan.options;
  float h = initial != nullptr ? initial[column.state()] : 0.0F;
  bool finite = std::isfinite(h);
  for (std::int64_t t = 0; t < column.plan.shape.steps; ++t) {
    const float x = currents[column.current(t)];
    finite = finite && std::isfinite(x);
    const float u = options.decay * h + column.plan.gain * x;
    const bool spike = options.inclusive ? u >= options.threshold : u > options.threshold;
    if (spike) column.set(spikes, t);
    if (mask != nullptr && std::fabs(u - options.threshold) < options.width) column.set(mask, t);
    if (membrane != nullptr) membrane[column.value(t)] = u;
    h = after_reset(options, u, spike);
  }
  if (last != nullptr) last[column.state()] = h;
  return finite;
}

/// The sums of one neuron over its timesteps.
struct Sums {
  double decay = 0.0;
  double threshold = 0.0;
};

/// h_(t-1), which the forward pass did not keep: from u and s of the step before.
float membrane_before(const Column& column, const SomaGradients& g, std::int64_t t) {
  if (t == 0) return g.initial != nullptr ? g.initial[column.state()] : 0.0F;
  return after_reset(column.plan.options, g.membrane[column.value(t - 1)],
                     column.bit(g.spikes, t - 1));
}

Sums neuron_backward(const Column& column, const SomaGradients& g, bool want_decay) {
  const SomaPlan& plan = column.plan;
  const SomaOptions& options = plan.options;
  const bool hard = options.reset == Reset::hard;
  Sums sums;
  float carried = g.grad_last != nullptr ? g.grad_last[column.state()] : 0.0F;
  for (std::int64_t t = plan.shape.steps - 1; t >= 0; --t) {
    const bool spike = column.bit(g.spikes, t);
    const float u = g.membrane != nullptr ? g.membrane[column.value(t)] : 0.0F;
    const float v = u - options.threshold;
    const bool inside = g.mask != nullptr               ? column.bit(g.mask, t)
                        : is_compact(options.surrogate) ? std::fabs(v) < options.width
                                                        : true;
    float through_spike = 0.0F;
    if (inside) {
      const float phi = options.surrogate == Surrogate::rect ? plan.peak : surrogate(plan, v);
      float at_spike = g.grad_spikes[column.value(t)];
      if (plan.attached) at_spike -= carried * (hard ? u : options.threshold);
      through_spike = phi * at_spike;
    }
    const float past_reset = hard && spike ? 0.0F : carried;
    const float grad_u = through_spike + past_reset;
    g.grad_currents[column.value(t)] = plan.gain * grad_u;
    if (want_decay) {
      sums.decay += static_cast<double>(grad_u) * membrane_before(column, g, t);
      if (options.decay_input) {
        sums.decay -= static_cast<double>(grad_u) * g.currents[column.value(t)];
      }
    }
    sums.threshold -= through_spike;
    if (!hard && spike) sums.threshold -= carried;
    carried = options.decay * grad_u;
  }
  if (g.grad_initial != nullptr) g.grad_initial[column.state()] = carried;
  return sums;
}

/// Where no pooling lies between.
void unpooled_backward(const SomaPlan& plan, const SomaGradients& g, double* decay_sums,
                       double* threshold_sums) {
  for (std::int64_t b = 0; b < plan.shape.batch; ++b) {
    for (std::int64_t w = 0; w < plan.words; ++w) {
      Sums block;
      const std::int64_t end = std::min((w + 1) * word_bits, plan.shape.features);
      for (std::int64_t f = w * word_bits; f < end; ++f) {
        const Column column{plan, {b, f}};
        const Sums sums = neuron_backward(column, g, decay_sums != nullptr);
        block.decay += sums.decay;
        block.threshold += sums.threshold;
      }
      if (decay_sums != nullptr) decay_sums[b * plan.words + w] = block.decay;
      if (threshold_sums != nullptr) threshold_sums[b * plan.words + w] = block.threshold;
    }
  }
}

}  // namespace

float surrogate(const SomaPlan& plan, float v) {
  switch (plan.options.surrogate) {
    case Surrogate::rect:
      return std::fabs(v) < plan.options.width ? plan.peak : 0.0F;
    case Surrogate::triangle: {
      if (!(std::fabs(v) < plan.options.width)) return 0.0F;
      return plan.peak * std::max(0.0F, 1.0F - std::fabs(v) * plan.inverse_width);
    }
    case Surrogate::atan: {
      const float z = v * plan.inverse_width;
      return plan.peak / (1.0F + z * z);
    }
    case Surrogate::sigmoid: {
      const float e = decaying_exponential(plan, v);
      const float d = 1.0F + e;
      return plan.peak * (e / (d * d));
    }
  }
  return 0.0F;
}

bool soma_forward(const SomaPlan& plan, const float* currents, const float* initial,
                  std::uint64_t* spikes, std::uint64_t* mask, float* membrane, float* last) {
  const std::int64_t words = plan.shape.batch * plan.words;
  for (std::int64_t t = 0; t < plan.shape.steps; ++t) {
    std::fill_n(spikes + t * plan.words_step, words, std::uint64_t{0});
    if (mask != nullptr) std::fill_n(mask + t * plan.words_step, words, std::uint64_t{0});
  }
  bool finite = true;
  for (std::int64_t b = 0; b < plan.shape.batch; ++b) {
    for (std::int64_t f = 0; f < plan.shape.features; ++f) {
      const Column column{plan, {b, f}};
      finite &= neuron_forward(column, currents, initial, spikes, mask, membrane, last);
    }
  }
  return finite;
}

void soma_backward(const SomaPlan& plan, const SomaGradients& g, double* decay_sums,
                   double* threshold_sums) {
  SomaGradients unpooled = g;
  std::vector<float> at_spikes;
  if (g.pool != nullptr) {
    const std::int64_t rows = plan.shape.steps * plan.shape.batch;
    at_spikes.resize(static_cast<std::size_t>(rows * plan.shape.features));
    reference::average_pool_backward(*g.pool, g.grad_spikes, rows, at_spikes.data());
    unpooled.grad_spikes = at_spikes.data();
  }
  unpooled_backward(plan, unpooled, decay_sums, threshold_sums);
}

}  // namespace h2learn::reference
