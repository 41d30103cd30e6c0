#include "h2learn/fused_forward.hpp"

#include <omp.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <stdexcept>
#include <string>

#include "forward_product.hpp"
#include "fused_parts.hpp"
#include "h2learn/memory.hpp"
#include "kernels/soma.hpp"
#include "synapse_checks.hpp"

namespace h2learn {
namespace {

/// Bytes of currents at a time, for each thread: few enough to be in a cache still when the neurons
/// read them, and enough for threads to wait for each other seldom.
constexpr std::int64_t currents_bytes = std::int64_t{1} << 23;

/// And rows of the product at least: every part reads all weights. They are more than the few
/// images of a linear layer that reads its weights in place, so that such a layer is one part.
/// (Walking reads them in place, too, whatever the images, and packs them for each part.)
constexpr std::int64_t least_rows = 4 * few_images;

/// Samples that go through synapses and neurons together.
struct Part {
  std::int64_t first;
  std::int64_t samples;
};

/// Samples of a part, so that parts are of nearly one size; `steps` are those of the currents.
std::int64_t samples_at_once(const Geometry& geometry, std::int64_t steps, std::int64_t batch) {
  if (steps < 1 || batch < 1) return 1;  // nothing to do, or refused
  const std::int64_t threads = omp_get_max_threads();
  const auto current_bytes = static_cast<std::int64_t>(sizeof(float));
  const std::int64_t fitting =
      threads * currents_bytes / (steps * geometry.out_features() * current_bytes);
  const std::int64_t row_samples = steps * geometry.out_positions();
  const std::int64_t needed = (threads * least_rows + row_samples - 1) / row_samples;
  const std::int64_t most = std::max({fitting, needed, std::int64_t{1}});
  const std::int64_t parts = (batch + most - 1) / most;
  return (batch + parts - 1) / parts;
}

/// The part's rows of from[blocks, batch, row], side by side.
template <typename T>
void copy_rows(const T* from, std::int64_t blocks, std::int64_t batch, std::int64_t row,
               const Part& part, T* to) {
  const std::int64_t count = part.samples * row;
  for (std::int64_t block = 0; block < blocks; ++block) {
    std::memcpy(to + block * count, from + (block * batch + part.first) * row,
                static_cast<std::size_t>(count) * sizeof(T));
  }
}

void scale_currents(const Synapses& synapses, std::int64_t rows, float* currents) {
  if (synapses.gain == nullptr) return;
  const std::int64_t channels = synapses.geometry.out_channels;
  constexpr std::int64_t parallel_from = std::int64_t{1} << 16;
#pragma omp parallel for schedule(static) if (rows * channels >= parallel_from)
  for (std::int64_t row = 0; row < rows; ++row) {
    float* const values = currents + row * channels;
    for (std::int64_t n = 0; n < channels; ++n) {
      values[n] = values[n] * synapses.gain[n] + synapses.offset[n];
    }
  }
}

/// The first current of the batch that is not finite, of those seen.
struct Fault {
  std::int64_t index = -1;
  float value = 0;

  void look(const float* currents, std::int64_t steps, std::int64_t batch, std::int64_t features,
            const Part& part) {
    const std::int64_t count = part.samples * features;
    for (std::int64_t t = 0; t < steps; ++t) {
      const std::int64_t found = first_not_finite(currents + t * count, count);
      if (found < 0) continue;
      const std::int64_t place = (t * batch + part.first) * features + found;
      if (index < 0 || place < index) *this = {place, currents[t * count + found]};
      return;
    }
  }
};

/// Everything after the checks. `steps` are those of the currents: 1 where they repeat.
/// compute(part, scratch, currents) makes a part's currents [steps, samples, features], with
/// `scratch_bytes` bytes a sample of scratch memory where the part is not the whole batch.
template <typename Compute>
void run(const Synapses& synapses, const Neurons& neurons, std::int64_t steps, std::int64_t samples,
         std::int64_t scratch_bytes, Compute compute) {
  const Geometry& geometry = synapses.geometry;
  const std::int64_t features = geometry.out_features();
  const std::int64_t batch = neurons.batch;
  if (batch == 0) return;
  const SomaKernels& kernels = soma_kernels();
  SomaPlan plan = make_plan(neurons.options, {neurons.steps, batch, features});
  const std::int64_t most = std::min(samples, batch);
  constexpr std::int64_t line = 64;
  const std::int64_t currents_size =
      (steps * most * features * static_cast<std::int64_t>(sizeof(float)) + line - 1) / line * line;
  const Block memory(currents_size + (most == batch ? 0 : most * scratch_bytes));
  auto* const currents = static_cast<float*>(memory.data());
  std::byte* const scratch = static_cast<std::byte*>(memory.data()) + currents_size;
  const auto at = [](auto* values, std::int64_t offset) {
    return values == nullptr ? nullptr : values + offset;
  };
  bool finite = true;
  Fault fault;
  for (std::int64_t first = 0; first < batch; first += most) {
    const Part part = {first, std::min(most, batch - first)};
    compute(part, scratch, currents);
    scale_currents(synapses, steps * part.samples * geometry.out_positions(), currents);
    plan.shape.batch = part.samples;
    plan.currents_step = steps == 1 ? 0 : part.samples * features;
    const std::int64_t state = first * features;
    const std::int64_t word = first * plan.words;
    if (!kernels.forward(plan, currents, at(neurons.initial, state), neurons.spikes + word,
                         at(neurons.mask, word), at(neurons.membrane, state),
                         at(neurons.last, state))) {
      finite = false;
      fault.look(currents, steps, batch, features, part);
    }
  }
  if (finite) return;
  if (fault.index >= 0) refuse_not_finite("currents", fault.value, fault.index);
  const std::int64_t index = first_not_finite(neurons.initial, batch * features);
  refuse_not_finite("initial", neurons.initial[index], index);
}

void require_neurons(const Synapses& synapses, const Neurons& neurons, const char* name,
                     std::int64_t images, bool repeated) {
  const std::int64_t channels = synapses.geometry.out_channels;
  if ((synapses.gain == nullptr) != (synapses.offset == nullptr)) {
    throw std::invalid_argument("gain and offset must be given together");
  }
  require_finite("gain", synapses.gain, channels);
  require_finite("offset", synapses.offset, channels);
  require_soma(neurons.options, {neurons.steps, neurons.batch, synapses.geometry.out_features()},
               neurons.spikes, neurons.mask);
  if (images == neurons.steps * neurons.batch || (repeated && images == neurons.batch)) return;
  throw std::invalid_argument(std::string(name) + " must be steps * batch = " +
                              std::to_string(neurons.steps * neurons.batch) +
                              (repeated ? " or batch" : "") + ", got " + std::to_string(images));
}

/// Timesteps whose currents differ: 1 where the images are the same at every step.
std::int64_t steps_of(const Neurons& neurons, std::int64_t images) {
  return images == neurons.batch ? 1 : neurons.steps;
}

}  // namespace

void fused_forward(const Synapses& synapses, const PackedView& inputs, float scale,
                   const Neurons& neurons) {
  synapses.geometry.validate();
  fused_forward_in_parts(synapses, inputs, scale, neurons,
                         samples_at_once(synapses.geometry, neurons.steps, neurons.batch));
}

void fused_forward(const Synapses& synapses, const float* inputs, std::int64_t images,
                   const Neurons& neurons) {
  synapses.geometry.validate();
  const std::int64_t steps = steps_of(neurons, images);
  fused_forward_in_parts(synapses, inputs, images, neurons,
                         samples_at_once(synapses.geometry, steps, neurons.batch));
}

void fused_forward_in_parts(const Synapses& synapses, const PackedView& inputs, float scale,
                            const Neurons& neurons, std::int64_t samples) {
  ForwardProduct product(synapses.geometry, inputs, scale, synapses.weight, synapses.bias,
                         synapses.kernel, synapses.lut);
  require_neurons(synapses, neurons, "rows", inputs.rows, false);
  const std::int64_t words = inputs.words_per_row();
  const std::int64_t blocks = inputs.planes * neurons.steps;
  const auto compute = [&](const Part& part, std::byte* scratch, float* currents) {
    PackedView view = inputs;
    if (part.samples != neurons.batch) {
      auto* const copied = reinterpret_cast<std::uint64_t*>(scratch);
      copy_rows(inputs.words, blocks, neurons.batch, words, part, copied);
      view.words = copied;
      view.rows = neurons.steps * part.samples;
    }
    product.compute(view, currents);
  };
  run(synapses, neurons, neurons.steps, samples,
      blocks * words * static_cast<std::int64_t>(sizeof(std::uint64_t)), compute);
}

void fused_forward_in_parts(const Synapses& synapses, const float* inputs, std::int64_t images,
                            const Neurons& neurons, std::int64_t samples) {
  ForwardProduct product(synapses.geometry, inputs, images, synapses.weight, synapses.bias,
                         synapses.kernel);
  require_neurons(synapses, neurons, "images", images, true);
  const std::int64_t features = synapses.geometry.in_features();
  const std::int64_t steps = steps_of(neurons, images);
  const auto compute = [&](const Part& part, std::byte* scratch, float* currents) {
    const float* values = inputs;
    if (part.samples != neurons.batch) {
      auto* const copied = reinterpret_cast<float*>(scratch);
      copy_rows(inputs, steps, neurons.batch, features, part, copied);
      values = copied;
    }
    product.compute(values, steps * part.samples, currents);
  };
  run(synapses, neurons, steps, samples,
      steps * features * static_cast<std::int64_t>(sizeof(float)), compute);
}

}  // namespace h2learn
