// The soma's tests: one call as a value, and its equations in double precision, written from
// soma.hpp without a look at any implementation. In a namespace of their own: other tests have
// layers, too.
#pragma once

#include <cmath>
#include <limits>
#include <numbers>

#include "h2learn/soma.hpp"
#include "support.hpp"

namespace h2learn::test::soma {

/// Inputs of one layer. Empty vectors stand for null pointers.
struct Layer {
  SomaOptions options;
  SomaShape shape;
  Floats currents;
  Floats initial;
  Floats grad_spikes;
  Floats grad_last;

  std::int64_t states() const { return shape.batch * shape.features; }
  std::int64_t values() const { return shape.steps * states(); }
  std::int64_t words() const { return shape.steps * shape.batch * words_for(shape.features); }
  bool compact() const { return is_compact(options.surrogate); }
};

/// Currents that make neurons fire, stay silent and fall below zero; with state, if wanted.
inline Layer random_layer(const SomaOptions& options, const SomaShape& shape, bool with_state,
                          unsigned seed) {
  Layer layer{options, shape, {}, {}, {}, {}};
  layer.currents = random_floats(layer.values(), -0.6F, 0.9F, seed);
  layer.grad_spikes = random_floats(layer.values(), -1.0F, 1.0F, seed + 1);
  if (with_state) {
    layer.initial = random_floats(layer.states(), -0.5F, 0.5F, seed + 2);
    layer.grad_last = random_floats(layer.states(), -1.0F, 1.0F, seed + 3);
  }
  return layer;
}

inline const float* or_null(const Floats& values) {
  return values.empty() ? nullptr : values.data();
}

struct Activity {
  Words spikes;
  Words mask;
  Floats membrane;
  Floats last;

  bool operator==(const Activity& other) const {
    return spikes == other.spikes && mask == other.mask &&
           bits_of(membrane) == bits_of(other.membrane) && bits_of(last) == bits_of(other.last);
  }
};

/// The forward pass with every output there is.
inline Activity run_forward(const Layer& layer) {
  Activity a;
  a.spikes.assign(size(layer.words()), ~std::uint64_t{0});
  if (layer.compact()) a.mask.assign(size(layer.words()), ~std::uint64_t{0});
  a.membrane.assign(size(layer.values()), -7.0F);
  a.last.assign(size(layer.states()), -7.0F);
  soma_forward(layer.options, layer.shape, layer.currents.data(), or_null(layer.initial),
               a.spikes.data(), a.mask.empty() ? nullptr : a.mask.data(), a.membrane.data(),
               a.last.data());
  return a;
}

struct Gradients {
  Floats currents;
  Floats initial;
  double decay = 0.0;
  double threshold = 0.0;

  bool operator==(const Gradients& other) const {
    return bits_of(currents) == bits_of(other.currents) &&
           bits_of(initial) == bits_of(other.initial) && decay == other.decay &&
           threshold == other.threshold;
  }
};

/// What the backward pass is given besides the gradients.
struct Saved {
  bool mask = true;
  bool membrane = true;
  bool sums = true;
};

inline Gradients run_backward(const Layer& layer, const Activity& activity, Saved saved = {},
                              const PoolGeometry* pool = nullptr) {
  Gradients result;
  result.currents.assign(size(layer.values()), -7.0F);
  result.initial.assign(size(layer.states()), -7.0F);
  SomaGradients g;
  g.grad_spikes = layer.grad_spikes.data();
  g.pool = pool;
  g.grad_last = or_null(layer.grad_last);
  g.spikes = activity.spikes.data();
  if (saved.mask && layer.compact()) g.mask = activity.mask.data();
  if (saved.membrane) g.membrane = activity.membrane.data();
  g.currents = layer.currents.data();
  g.initial = or_null(layer.initial);
  g.grad_currents = result.currents.data();
  g.grad_initial = result.initial.data();
  if (saved.sums) {
    g.grad_decay = &result.decay;
    g.grad_threshold = &result.threshold;
  }
  soma_backward(layer.options, layer.shape, g);
  return result;
}

/// The bump in double precision, of unit area times scale.
inline double bump(const SomaOptions& o, double v) {
  const double w = o.width;
  const double z = v / w;
  switch (o.surrogate) {
    case Surrogate::rect:
      return std::fabs(v) < w ? o.scale / (2.0 * w) : 0.0;
    case Surrogate::triangle:
      return o.scale * std::fmax(0.0, 1.0 - std::fabs(z)) / w;
    case Surrogate::atan:
      return o.scale / (std::numbers::pi * w) / (1.0 + z * z);
    case Surrogate::sigmoid: {
      // sigma(z) * sigma(-z): 1 - sigma(z) would lose all its digits for large z.
      return o.scale / (1.0 + std::exp(-z)) / (1.0 + std::exp(z)) / w;
    }
  }
  return std::numeric_limits<double>::quiet_NaN();
}

/// The gradients by the equations of soma.hpp in double, for given spikes.
struct Exact {
  std::vector<double> currents;
  std::vector<double> initial;
  double decay = 0.0;
  double threshold = 0.0;
  double decay_terms = 0.0;  ///< sums of the magnitudes of what is added up
  double threshold_terms = 0.0;
};

inline Exact exact_backward(const Layer& layer, const Words& spikes) {
  const SomaOptions& o = layer.options;
  const std::int64_t steps = layer.shape.steps;
  const double gain = o.decay_input ? 1.0 - o.decay : 1.0;
  Exact exact;
  exact.currents.resize(size(layer.values()));
  exact.initial.resize(size(layer.states()));
  const auto add = [](double& sum, double& terms, double term) {
    sum += term;
    terms += std::fabs(term);
  };
  for (std::int64_t i = 0; i < layer.states(); ++i) {
    const auto at = [&](std::int64_t t) { return size(t * layer.states() + i); };
    const auto spiked = [&](std::int64_t t) {
      return bit(spikes, t * layer.shape.batch + i / layer.shape.features, layer.shape.features,
                 i % layer.shape.features);
    };
    std::vector<double> u(size(steps));
    std::vector<double> h(size(steps + 1));
    h[0] = layer.initial.empty() ? 0.0 : layer.initial[size(i)];
    for (std::int64_t t = 0; t < steps; ++t) {
      const double s = spiked(t) ? 1.0 : 0.0;
      u[size(t)] = o.decay * h[size(t)] + gain * layer.currents[at(t)];
      h[size(t + 1)] =
          o.reset == Reset::hard ? u[size(t)] * (1.0 - s) : u[size(t)] - o.threshold * s;
    }
    double at_h = layer.grad_last.empty() ? 0.0 : layer.grad_last[size(i)];
    for (std::int64_t t = steps - 1; t >= 0; --t) {
      const double s = spiked(t) ? 1.0 : 0.0;
      const double phi = bump(o, u[size(t)] - o.threshold);
      const double dh_ds = o.detach_reset           ? 0.0
                           : o.reset == Reset::hard ? -u[size(t)]
                                                    : -static_cast<double>(o.threshold);
      const double dh_du = o.reset == Reset::hard ? 1.0 - s : 1.0;
      const double at_s = layer.grad_spikes[at(t)] + at_h * dh_ds;
      const double at_u = phi * at_s + at_h * dh_du;
      exact.currents[at(t)] = gain * at_u;
      add(exact.decay, exact.decay_terms, at_u * h[size(t)]);
      if (o.decay_input) add(exact.decay, exact.decay_terms, -at_u * layer.currents[at(t)]);
      add(exact.threshold, exact.threshold_terms, -phi * at_s);
      if (o.reset == Reset::soft) add(exact.threshold, exact.threshold_terms, -at_h * s);
      at_h = o.decay * at_u;
    }
    exact.initial[size(i)] = at_h;
  }
  return exact;
}

/// Norm of the difference over norm of the exact values.
inline double relative_error(const Floats& values, const std::vector<double>& exact) {
  double difference = 0.0;
  double norm = 0.0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    difference += (values[i] - exact[i]) * (values[i] - exact[i]);
    norm += exact[i] * exact[i];
  }
  return std::sqrt(difference / norm);
}

/// Every combination of the options that are not numbers.
inline std::vector<SomaOptions> all_options() {
  std::vector<SomaOptions> all;
  for (Surrogate surrogate :
       {Surrogate::rect, Surrogate::triangle, Surrogate::atan, Surrogate::sigmoid}) {
    for (unsigned flags = 0; flags < 16; ++flags) {
      SomaOptions options;
      options.decay = 0.4F;
      options.threshold = 0.3F;
      options.surrogate = surrogate;
      options.width = 0.35F;
      options.scale = 1.2F;
      options.reset = (flags & 1U) != 0 ? Reset::soft : Reset::hard;
      options.detach_reset = (flags & 2U) != 0;
      options.decay_input = (flags & 4U) != 0;
      options.inclusive = (flags & 8U) != 0;
      all.push_back(options);
    }
  }
  return all;
}

inline std::string describe(const SomaOptions& o) {
  constexpr const char* names[] = {"rect", "triangle", "atan", "sigmoid"};
  return std::string(names[static_cast<int>(o.surrogate)]) +
         (o.reset == Reset::hard ? ", hard" : ", soft") + (o.detach_reset ? ", detached" : "") +
         (o.decay_input ? ", decayed input" : "") + (o.inclusive ? ", inclusive" : "");
}

}  // namespace h2learn::test::soma
