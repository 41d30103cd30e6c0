// The soma's public functions: check the arguments, choose the instruction set, add up the sums.
#include "h2learn/soma.hpp"

#include <cfloat>
#include <cmath>
#include <cstdio>
#include <limits>
#include <numbers>
#include <stdexcept>
#include <string>
#include <vector>

#include "h2learn/spikes.hpp"
#include "kernels/soma.hpp"
#include "reference/soma.hpp"

namespace h2learn {
namespace {

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.9g", value);
  return text;
}

[[noreturn]] void refuse(const std::string& name, const std::string& allowed, double value) {
  throw std::invalid_argument(name + " must be " + allowed + ", got " + number(value));
}

void require_pointer(const char* name, const void* pointer, const char* when) {
  if (pointer == nullptr) {
    throw std::invalid_argument(std::string(name) + " must be given " + when + ", got null");
  }
}

void validate(const SomaShape& shape) {
  const auto require_at_least = [](const char* name, std::int64_t value, std::int64_t least) {
    if (value < least) {
      throw std::invalid_argument(std::string(name) + " must be at least " + std::to_string(least) +
                                  ", got " + std::to_string(value));
    }
  };
  require_at_least("steps (T)", shape.steps, 1);
  require_at_least("batch", shape.batch, 0);
  require_at_least("features", shape.features, 0);
}

void require_finite_values(const char* name, const float* values, std::int64_t count) {
  const std::int64_t index = first_not_finite(values, count);
  if (index >= 0) refuse_not_finite(name, values[index], index);
}

double sum(const std::vector<double>& values) {
  double total = 0.0;
  for (double value : values) total += value;
  return total;
}

/// The surrogate's height at its centre, before the triangle's slope or the bump's shape: the
/// factor that makes its area `scale`.
double peak(const SomaOptions& options) {
  const double width = options.width;
  switch (options.surrogate) {
    case Surrogate::rect:
      return options.scale / (2.0 * width);
    case Surrogate::atan:
      return options.scale / (std::numbers::pi * width);
    case Surrogate::triangle:
    case Surrogate::sigmoid:
      return options.scale / width;
  }
  return 0.0;
}

}  // namespace

void SomaOptions::validate() const {
  if (!(decay >= 0.0F && decay <= 1.0F)) refuse("decay", "between 0 and 1", decay);
  if (!(threshold > 0.0F && std::isfinite(threshold))) {
    refuse("threshold", "finite and greater than 0", threshold);
  }
  if (!(width > 0.0F && std::isfinite(width))) {
    refuse("width", "finite and greater than 0", width);
  }
  if (!std::isfinite(scale)) refuse("scale", "finite", scale);
  // The kernels multiply by 1 / width and by the bump's height: both must exist as floats.
  if (width < FLT_MIN) refuse("width", "at least 1.2e-38", width);
  if (!(std::fabs(peak(*this)) <= FLT_MAX)) refuse("scale / width", "within float32", peak(*this));
}

bool SomaOptions::needs_membrane() const {
  const bool reset_reads_membrane = reset == Reset::hard && !detach_reset;
  return surrogate != Surrogate::rect || reset_reads_membrane;
}

SomaPlan make_plan(const SomaOptions& options, const SomaShape& shape) {
  SomaPlan plan;
  plan.options = options;
  plan.shape = shape;
  plan.words = words_for(shape.features);
  plan.words_step = shape.batch * plan.words;
  plan.values_step = shape.batch * shape.features;
  plan.currents_step = plan.values_step;
  plan.attached = !options.detach_reset;
  plan.gain = options.decay_input ? 1.0F - options.decay : 1.0F;
  // Floats have a predecessor: u >= threshold is u > the float just below the threshold.
  plan.spike_above = options.inclusive
                         ? std::nextafter(options.threshold, -std::numeric_limits<float>::max())
                         : options.threshold;
  const double width = options.width;
  plan.peak = static_cast<float>(peak(options));
  plan.inverse_width = static_cast<float>(1.0 / width);
  plan.steepness = static_cast<float>(std::numbers::log2e / width);
  // half_high keeps 16 bits, so that its product with n <= 125 fits a float's 24.
  const double half = std::numbers::ln2 * width;
  int exponent = 0;
  const double fraction = std::frexp(half, &exponent);
  plan.half_high =
      static_cast<float>(std::ldexp(std::floor(std::ldexp(fraction, 16)), exponent - 16));
  plan.half_low = static_cast<float>(half - plan.half_high);
  return plan;
}

const SomaKernels& soma_kernels() {
  static constexpr SomaKernels scalar = {&reference::soma_forward, &reference::soma_backward};
  const Target target = active_target();
  return target == Target::scalar ? scalar : detail::pick_soma(target);
}

std::int64_t first_not_finite(const float* values, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    if (!std::isfinite(values[i])) return i;
  }
  return -1;
}

void refuse_not_finite(const char* name, float value, std::int64_t index) {
  throw std::invalid_argument(std::string(name) + " must be finite, got " + number(value) +
                              " at flat index " + std::to_string(index));
}

void require_soma(const SomaOptions& options, const SomaShape& shape, const std::uint64_t* spikes,
                  const std::uint64_t* mask) {
  options.validate();
  validate(shape);
  if (mask != nullptr && !is_compact(options.surrogate)) {
    throw std::invalid_argument(
        "mask must be null with the atan and sigmoid surrogates: they are zero nowhere");
  }
  if (shape.batch * shape.features != 0) require_pointer("spikes", spikes, "always");
}

void soma_forward(const SomaOptions& options, const SomaShape& shape, const float* currents,
                  const float* initial, std::uint64_t* spikes, std::uint64_t* mask, float* membrane,
                  float* last) {
  require_soma(options, shape, spikes, mask);
  const std::int64_t states = shape.batch * shape.features;
  if (states == 0) return;
  require_pointer("currents", currents, "always");
  const SomaPlan plan = make_plan(options, shape);
  if (soma_kernels().forward(plan, currents, initial, spikes, mask, membrane, last)) return;
  require_finite_values("currents", currents, shape.steps * states);
  if (initial != nullptr) require_finite_values("initial", initial, states);
}

void require_pool(const PoolGeometry& pool, const SomaShape& shape) {
  pool.validate();
  if (pool.in_features() != shape.features) {
    throw std::invalid_argument("pool must have in_height * in_width * channels = features = " +
                                std::to_string(shape.features) + ", got " +
                                std::to_string(pool.in_features()));
  }
}

void soma_backward(const SomaOptions& options, const SomaShape& shape, const SomaGradients& g) {
  options.validate();
  validate(shape);
  if (g.mask != nullptr && !is_compact(options.surrogate)) {
    throw std::invalid_argument(
        "mask must be null with the atan and sigmoid surrogates: they are zero nowhere");
  }
  if (g.pool != nullptr) require_pool(*g.pool, shape);
  if (g.grad_decay != nullptr) *g.grad_decay = 0.0;
  if (g.grad_threshold != nullptr) *g.grad_threshold = 0.0;
  if (shape.batch * shape.features == 0) return;
  require_pointer("grad_spikes", g.grad_spikes, "always");
  require_pointer("spikes", g.spikes, "always");
  require_pointer("grad_currents", g.grad_currents, "always");
  if (options.needs_membrane()) {
    require_pointer("membrane", g.membrane,
                    "unless the surrogate is rect and the reset is soft or detached");
  }
  if (g.membrane == nullptr) require_pointer("mask", g.mask, "when membrane is not");
  if (g.grad_decay != nullptr) {
    require_pointer("membrane", g.membrane, "for the gradient of decay");
    if (options.decay_input) {
      require_pointer("currents", g.currents, "for the gradient of decay with decay_input");
    }
  }
  const SomaPlan plan = make_plan(options, shape);
  const auto blocks = static_cast<std::size_t>(shape.batch * plan.words);
  std::vector<double> decay_sums(g.grad_decay != nullptr ? blocks : 0);
  std::vector<double> threshold_sums(g.grad_threshold != nullptr ? blocks : 0);
  double* const decay_out = g.grad_decay != nullptr ? decay_sums.data() : nullptr;
  double* const threshold_out = g.grad_threshold != nullptr ? threshold_sums.data() : nullptr;
  soma_kernels().backward(plan, g, decay_out, threshold_out);
  if (g.grad_decay != nullptr) *g.grad_decay = sum(decay_sums);
  if (g.grad_threshold != nullptr) *g.grad_threshold = sum(threshold_sums);
}

}  // namespace h2learn
