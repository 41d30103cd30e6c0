// The soma, vectorised. Neurons are computed in blocks of 64 of one image, one word of spikes a
// timestep. The unit of work is a chunk of neighbouring blocks, which goes through all timesteps
// together while their membranes (backward: their carried gradients) stay in the nearest cache:
// each timestep of each tensor is then read as one stretch of memory that the hardware's
// prefetchers follow, where block by block it would be as many streams as there are timesteps,
// often a power of two apart. Chunks are independent, so threads share them out and nothing depends
// on how. Operations and their order are those of reference/soma.cpp, lane by lane.
#include "kernels/soma.hpp"

#include <cstring>

#include "kernels/average_windows.hpp"
#include "kernels/lane_mask.hpp"
#include "kernels/streaming.hpp"

namespace h2learn::H2LEARN_TARGET {
namespace {

constexpr int block = 64;
constexpr int vectors = block / lanes;

/// Below this many neuron-steps a second thread costs more than it saves.
constexpr std::int64_t parallel_from = std::int64_t{1} << 16;

std::int64_t neuron_steps(const SomaPlan& plan) {
  return plan.shape.batch * plan.words * block * plan.shape.steps;
}

/// Blocks of a chunk at most: two pages of floats for each tensor and timestep. With one, a Zen 3's
/// memory delivers less (bench/soma_bench.cpp).
constexpr std::int64_t chunk_blocks = 32;

/// Where a block's values lie.
struct Place {
  std::int64_t state;       ///< of its first neuron in [B, F]
  std::int64_t word;        ///< in [B, W]
  std::int64_t state_step;  ///< from one timestep to the next
  std::int64_t word_step;
  std::int64_t current_step;
  std::int64_t neurons;  ///< 64, or what is left of the row

  H2LEARN_INLINE std::int64_t value(std::int64_t t) const { return t * state_step + state; }
  H2LEARN_INLINE std::int64_t current(std::int64_t t) const { return t * current_step + state; }
  H2LEARN_INLINE std::int64_t bits(std::int64_t t) const { return t * word_step + word; }
  H2LEARN_INLINE std::uint64_t valid() const { return ~std::uint64_t{0} >> (block - neurons); }
};

/// Neighbouring blocks of one image.
struct Chunk {
  std::int64_t image;
  std::int64_t first;   ///< block of the image
  std::int64_t blocks;  ///< at most chunk_blocks
  std::int64_t whole;   ///< of them have 64 neurons: all, or all but the last

  /// Chunks of an image.
  static std::int64_t of_image(const SomaPlan& plan) {
    return (plan.words + chunk_blocks - 1) / chunk_blocks;
  }

  Chunk(const SomaPlan& plan, std::int64_t index)
      : image(index / of_image(plan)), first(index % of_image(plan) * chunk_blocks) {
    const std::int64_t left = plan.words - first;
    blocks = left < chunk_blocks ? left : chunk_blocks;
    const std::int64_t neurons = plan.shape.features - first * block;
    whole = neurons / block < blocks ? neurons / block : blocks;
  }

  H2LEARN_INLINE Place place(const SomaPlan& plan, std::int64_t i) const {
    return place(plan, i, i < whole ? block : plan.shape.features - (first + i) * block);
  }

  /// Of a block with so many neurons: a constant leaves no trace of the others.
  H2LEARN_INLINE Place place(const SomaPlan& plan, std::int64_t i, std::int64_t neurons) const {
    return {image * plan.shape.features + (first + i) * block,
            image * plan.words + first + i,
            plan.values_step,
            plan.words_step,
            plan.currents_step,
            neurons};
  }
};

/// What a chunk's neurons carry from one timestep to the next.
struct State {
  alignas(64) float values[chunk_blocks][block];
};

/// A block's values as 64 readable or writable floats even where the row has fewer left: whole
/// blocks are used in place, the rest pass through this buffer, with zeros behind.
struct Window {
  alignas(64) float buffer[block];

  H2LEARN_INLINE const float* read(const float* from, std::int64_t neurons) {
    return neurons == block ? from : copy_in(from, neurons);
  }
  H2LEARN_INLINE float* target(float* to, std::int64_t neurons) {
    return neurons == block ? to : buffer;
  }
  H2LEARN_INLINE void write(float* to, std::int64_t neurons) const {
    if (neurons != block) copy_out(to, neurons);
  }

 private:
  [[gnu::noinline]] const float* copy_in(const float* from, std::int64_t neurons) noexcept {
    std::memset(buffer, 0, sizeof buffer);
    std::memcpy(buffer, from, static_cast<std::size_t>(neurons) * sizeof(float));
    return buffer;
  }
  [[gnu::noinline]] void copy_out(float* to, std::int64_t neurons) const noexcept {
    std::memcpy(to, buffer, static_cast<std::size_t>(neurons) * sizeof(float));
  }
};

void read_state(const SomaPlan& plan, const Chunk& chunk, const float* from, State& state) {
  std::memset(state.values, 0, sizeof state.values);
  if (from == nullptr) return;
  for (std::int64_t i = 0; i < chunk.blocks; ++i) {
    const Place place = chunk.place(plan, i);
    std::memcpy(state.values[i], from + place.state,
                static_cast<std::size_t>(place.neurons) * sizeof(float));
  }
}

void write_state(const SomaPlan& plan, const Chunk& chunk, const State& state, float* to) {
  for (std::int64_t i = 0; i < chunk.blocks; ++i) {
    const Place place = chunk.place(plan, i);
    std::memcpy(to + place.state, state.values[i],
                static_cast<std::size_t>(place.neurons) * sizeof(float));
  }
}

/// Asks for a block's values at the timestep that follows in the chunk: by the time the chunk
/// comes to them they have arrived. (The hardware follows a stretch, but not into the next one.)
H2LEARN_INLINE void prefetch(const float* values, std::int64_t index) {
  constexpr int line = 16;
  for (int i = 0; i < block; i += line) __builtin_prefetch(values + index + i);
}

/// Whether this block's rows of `to` can be streamed: whole, and aligned as the stores demand.
H2LEARN_INLINE bool streams(const SomaPlan& plan, const Place& place, const float* to) {
  const std::int64_t values = plan.shape.steps * place.state_step;
  return values * static_cast<std::int64_t>(sizeof(float)) >= stream_from_bytes &&
         place.neurons == block && place.state_step % lanes == 0 &&
         aligned_for_streaming(to + place.state);
}

struct Forward {
  const float* currents;
  const float* initial;
  std::uint64_t* spikes;
  std::uint64_t* mask;
  float* membrane;
  float* last;
};

/// Where an input is not finite, one of these sums is not a number: zero times a value is not a
/// number then, and stays so. Several sums, since each waits for its last addition.
struct Poison {
  static constexpr int count = vectors < 4 ? vectors : 4;
  Floats sums[count] = {};

  H2LEARN_INLINE void add(int i, Floats value) { sums[i % count] += value * Floats{}; }
  H2LEARN_INLINE void add(const Poison& other) {
    for (int i = 0; i < count; ++i) sums[i] += other.sums[i];
  }
  H2LEARN_INLINE bool none() const {
    Floats total = {};
    for (const Floats sum : sums) total += sum;
    return bits_of(equal(total, total)) == bits_of(equal(Floats{}, Floats{}));
  }
};

/// One timestep of one block.
template <Reset reset>
H2LEARN_INLINE void forward_step(const SomaPlan& plan, const Forward& io, const Place& place,
                                 std::int64_t t, float* state, Poison& poison) {
  const Floats decay = broadcast(plan.options.decay);
  const Floats gain = broadcast(plan.gain);
  const Floats threshold = broadcast(plan.options.threshold);
  const Floats spike_above = broadcast(plan.spike_above);
  const Floats width = broadcast(plan.options.width);
  const Floats zero = {};
  const bool streaming = io.membrane != nullptr && streams(plan, place, io.membrane);
  Window incoming;
  Window outgoing;
  const float* const x = incoming.read(io.currents + place.current(t), place.neurons);
  prefetch(io.currents, place.current(t + 1));
  if (io.membrane != nullptr && !streaming) prefetch(io.membrane, place.value(t + 1));
  float* const u_out = io.membrane == nullptr
                           ? nullptr
                           : outgoing.target(io.membrane + place.value(t), place.neurons);
  LaneMask spikes[vectors];
  LaneMask inside[vectors];
  H2LEARN_UNROLL
  for (int i = 0; i < vectors; ++i) {
    const Floats current = load(x + i * lanes);
    poison.add(i, current);
    const Floats u = decay * load(state + i * lanes) + gain * current;
    spikes[i] = greater(u, spike_above);
    inside[i] = less(magnitude(u - threshold), width);
    if (u_out != nullptr) put(u_out + i * lanes, u, streaming);
    store(state + i * lanes, pick(spikes[i], reset == Reset::hard ? zero : u - threshold, u));
  }
  io.spikes[place.bits(t)] = word_of(spikes);
  if (io.mask != nullptr) io.mask[place.bits(t)] = word_of(inside) & place.valid();
  if (io.membrane != nullptr) outgoing.write(io.membrane + place.value(t), place.neurons);
}

/// The same of a row's last neurons, where they are fewer than 64.
template <Reset reset>
[[gnu::noinline]] void forward_part(const SomaPlan& plan, const Forward& io, const Place& place,
                                    std::int64_t t, float* state, Poison& poison) noexcept {
  forward_step<reset>(plan, io, place, t, state, poison);
}

template <Reset reset>
bool forward_chunk(const SomaPlan& plan, const Forward& io, std::int64_t index) noexcept {
  const Chunk chunk(plan, index);
  State state;
  read_state(plan, chunk, io.initial, state);
  Poison poison;
  for (std::int64_t i = 0; i < chunk.blocks; ++i) {
    for (int v = 0; v < vectors; ++v) poison.add(v, load(state.values[i] + v * lanes));
  }
  // Copies that no store can reach, so that what is read of them stays in registers.
  const SomaPlan own_plan = plan;
  const Forward own_io = io;
  for (std::int64_t t = 0; t < own_plan.shape.steps; ++t) {
    for (std::int64_t i = 0; i < chunk.whole; ++i) {
      const Place place = chunk.place(own_plan, i, block);
      forward_step<reset>(own_plan, own_io, place, t, state.values[i], poison);
    }
    for (std::int64_t i = chunk.whole; i < chunk.blocks; ++i) {
      Poison part;
      forward_part<reset>(plan, io, chunk.place(plan, i), t, state.values[i], part);
      poison.add(part);
    }
  }
  if (io.last != nullptr) write_state(plan, chunk, state, io.last);
  return poison.none();
}

bool forward(const SomaPlan& plan, const float* currents, const float* initial,
             std::uint64_t* spikes, std::uint64_t* mask, float* membrane, float* last) {
  const Forward io{currents, initial, spikes, mask, membrane, last};
  const auto run =
      plan.options.reset == Reset::hard ? &forward_chunk<Reset::hard> : &forward_chunk<Reset::soft>;
  const std::int64_t chunks = plan.shape.batch * Chunk::of_image(plan);
  bool finite = true;
#pragma omp parallel if (neuron_steps(plan) >= parallel_from)
  {
    bool all_finite = true;
#pragma omp for schedule(static) nowait
    for (std::int64_t i = 0; i < chunks; ++i) all_finite = run(plan, io, i) && all_finite;
    if (!all_finite) {
#pragma omp atomic write
      finite = false;
    }
    finish_streaming();
  }
  return finite;
}

/// exp(-|v| / width); see SomaPlan.
H2LEARN_INLINE Floats decaying_exponential(const SomaPlan& plan, Floats v) {
  const Floats distance = magnitude(v);
  const Floats halvings = distance * broadcast(plan.steepness);
  const Floats shifted = halvings + broadcast(round_to_integer);
  const Floats n = shifted - broadcast(round_to_integer);
  const Floats r = ((distance - n * broadcast(plan.half_high)) - n * broadcast(plan.half_low)) *
                   broadcast(plan.inverse_width);
  Floats e = broadcast(1.0F / 720.0F);
  e = e * r + broadcast(-1.0F / 120.0F);
  e = e * r + broadcast(1.0F / 24.0F);
  e = e * r + broadcast(-1.0F / 6.0F);
  e = e * r + broadcast(1.0F / 2.0F);
  e = e * r + broadcast(-1.0F);
  e = e * r + broadcast(1.0F);
  const Ints exponent = reinterpret_cast<Ints>(shifted) << 23;
  const Floats scaled = reinterpret_cast<Floats>(reinterpret_cast<Ints>(e) - exponent);
  return pick(less(halvings, broadcast(most_halvings)), scaled, Floats{});
}

/// phi(v); for the compact surrogates only where |v| < width, which the caller sees to.
template <Surrogate surrogate>
H2LEARN_INLINE Floats bump(const SomaPlan& plan, Floats v) {
  const Floats peak = broadcast(plan.peak);
  const Floats one = broadcast(1.0F);
  if constexpr (surrogate == Surrogate::triangle) {
    const Floats height = one - magnitude(v) * broadcast(plan.inverse_width);
    return peak * pick(greater(height, Floats{}), height, Floats{});
  } else if constexpr (surrogate == Surrogate::atan) {
    const Floats z = v * broadcast(plan.inverse_width);
    return peak / (one + z * z);
  } else if constexpr (surrogate == Surrogate::sigmoid) {
    const Floats e = decaying_exponential(plan, v);
    const Floats d = one + e;
    return peak * (e / (d * d));
  } else {
    return peak;
  }
}

/// The values of one block and timestep that the gradients of decay and threshold are made of.
/// Only touched when one of them is wanted.
struct Terms {
  alignas(64) float through_spike[block];
  alignas(64) float reset_spike[block];  ///< soft reset: H_t where s_t = 1
  alignas(64) float grad_u[block];
};

/// A block's sums for these gradients, one of each a neuron.
struct Sums {
  alignas(64) double decay[block];
  alignas(64) double threshold[block];
};

/// h_(t-1) of the block's neurons.
H2LEARN_INLINE void membrane_before(const SomaPlan& plan, const SomaGradients& g,
                                    const Place& place, std::int64_t t, float (&h)[block]) {
  Window window;
  if (t == 0) {
    std::memset(h, 0, sizeof h);
    if (g.initial == nullptr) return;
    std::memcpy(h, window.read(g.initial + place.state, place.neurons), sizeof h);
    return;
  }
  const float* const u = window.read(g.membrane + place.value(t - 1), place.neurons);
  const std::uint64_t spikes = g.spikes[place.bits(t - 1)];
  const Floats threshold = broadcast(plan.options.threshold);
  for (int i = 0; i < vectors; ++i) {
    const Floats value = load(u + i * lanes);
    const Floats reset = plan.options.reset == Reset::hard ? Floats{} : value - threshold;
    store(h + i * lanes, pick(lanes_from(spikes, i * lanes), reset, value));
  }
}

[[gnu::noinline]] void add_to_sums(const SomaPlan& plan, const SomaGradients& g, const Place& place,
                                   std::int64_t t, bool want_decay, const Terms& terms,
                                   Sums& sums) noexcept {
  for (int i = 0; i < block; ++i) sums.threshold[i] -= terms.through_spike[i];
  if (plan.options.reset == Reset::soft) {
    for (int i = 0; i < block; ++i) sums.threshold[i] -= terms.reset_spike[i];
  }
  if (!want_decay) return;
  alignas(64) float h[block];
  membrane_before(plan, g, place, t, h);
  for (int i = 0; i < block; ++i) {
    sums.decay[i] += static_cast<double>(terms.grad_u[i]) * static_cast<double>(h[i]);
  }
  if (!plan.options.decay_input) return;
  Window window;
  const float* const x = window.read(g.currents + place.value(t), place.neurons);
  for (int i = 0; i < block; ++i) {
    sums.decay[i] -= static_cast<double>(terms.grad_u[i]) * static_cast<double>(x[i]);
  }
}

H2LEARN_INLINE double total(const double (&values)[block], std::int64_t neurons) {
  double result = 0.0;
  for (std::int64_t i = 0; i < neurons; ++i) result += values[i];
  return result;
}

H2LEARN_INLINE std::uint64_t bits_inside(const SomaPlan& plan, const float* u) {
  const Floats threshold = broadcast(plan.options.threshold);
  const Floats width = broadcast(plan.options.width);
  LaneMask inside[vectors];
  H2LEARN_UNROLL
  for (int i = 0; i < vectors; ++i) {
    inside[i] = less(magnitude(load(u + i * lanes) - threshold), width);
  }
  return word_of(inside);
}

/// A chunk's gradients at the spikes, one timestep after the other: where they are, or from those
/// behind average pooling, spread into a buffer that stays in the nearest cache.
class AtSpikes {
 public:
  // cppcheck-suppress uninitMemberVar ; the buffer is filled before it is read
  AtSpikes(const SomaPlan& plan, const SomaGradients& g, const Chunk& chunk)
      : windows_(g.pool == nullptr ? PoolGeometry{} : *g.pool),
        pooled_(g.pool != nullptr),
        values_(g.grad_spikes) {
    const std::int64_t neuron = chunk.first * block;
    if (!pooled_) {
      values_ += chunk.image * plan.shape.features + neuron;
      step_ = plan.values_step;
      return;
    }
    values_ += chunk.image * windows_.features();
    step_ = plan.shape.batch * windows_.features();
    find_pieces(*g.pool, neuron, plan.shape.features - neuron);
  }

  /// From the chunk's first neuron on.
  H2LEARN_INLINE const float* at(std::int64_t t) {
    const float* const values = values_ + t * step_;
    return pooled_ ? spread(values) : values;
  }

 private:
  static constexpr std::int64_t most = chunk_blocks * block;

  /// Neighbouring channels of one position.
  struct Piece {
    Holders rows;
    Holders columns;
    std::int32_t channel;
    std::int32_t count;
  };

  void find_pieces(const PoolGeometry& pool, std::int64_t neuron, std::int64_t left) {
    left = left < most ? left : most;
    std::int64_t position = neuron / pool.channels;
    std::int64_t channel = neuron % pool.channels;
    for (; left > 0; ++position, channel = 0) {
      const std::int64_t channels = pool.channels - channel;
      const std::int64_t count = channels < left ? channels : left;
      pieces_[count_++] = {windows_.of_row(position / pool.in_width),
                           windows_.of_column(position % pool.in_width),
                           static_cast<std::int32_t>(channel), static_cast<std::int32_t>(count)};
      left -= count;
    }
  }

  [[gnu::noinline]] const float* spread(const float* gradients) noexcept {
    const AverageWindows windows = windows_;  // which no store can reach
    float* to = buffer_;
    for (std::int64_t i = 0; i < count_; ++i) {
      const Piece& piece = pieces_[i];
      windows.spread(piece.rows, piece.columns, gradients, piece.channel, piece.count, to);
      to += piece.count;
    }
    return buffer_;
  }

  AverageWindows windows_;
  bool pooled_;
  const float* values_;
  std::int64_t step_;
  std::int64_t count_ = 0;
  Piece pieces_[most];
  alignas(64) float buffer_[most];
};

/// One timestep of one block.
template <Surrogate surrogate, Reset reset, bool attached>
H2LEARN_INLINE void backward_step(const SomaPlan& plan, const SomaGradients& g, const Place& place,
                                  std::int64_t t, const float* at_spikes, float* state,
                                  Terms* terms) {
  // With the mask at hand, this is all that the membrane itself is needed for.
  const bool reads_membrane =
      surrogate != Surrogate::rect || g.mask == nullptr || (reset == Reset::hard && attached);
  const Floats decay = broadcast(plan.options.decay);
  const Floats gain = broadcast(plan.gain);
  const Floats threshold = broadcast(plan.options.threshold);
  const Floats zero = {};
  const bool streaming = streams(plan, place, g.grad_currents);
  Window incoming;
  Window membranes;
  Window outgoing;
  if (g.pool == nullptr) prefetch(g.grad_spikes, place.value(t - 1));
  if (!streaming) prefetch(g.grad_currents, place.value(t - 1));
  if (reads_membrane) prefetch(g.membrane, place.value(t - 1));
  const float* const grad_spikes = incoming.read(at_spikes, place.neurons);
  const float* u = nullptr;
  if (reads_membrane) u = membranes.read(g.membrane + place.value(t), place.neurons);
  float* const grad_currents = outgoing.target(g.grad_currents + place.value(t), place.neurons);
  const std::uint64_t spikes = g.spikes[place.bits(t)];
  std::uint64_t inside = ~std::uint64_t{0};
  if constexpr (is_compact(surrogate)) {
    inside = g.mask != nullptr ? g.mask[place.bits(t)] : bits_inside(plan, u);
  }
  H2LEARN_UNROLL
  for (int i = 0; i < vectors; ++i) {
    const Floats carried = load(state + i * lanes);
    const LaneMask spike = lanes_from(spikes, i * lanes);
    Floats membrane = {};
    if (reads_membrane) membrane = load(u + i * lanes);
    Floats at_spike = load(grad_spikes + i * lanes);
    if constexpr (attached) at_spike -= carried * (reset == Reset::hard ? membrane : threshold);
    Floats through_spike = bump<surrogate>(plan, membrane - threshold) * at_spike;
    if constexpr (is_compact(surrogate)) {
      through_spike = pick(lanes_from(inside, i * lanes), through_spike, zero);
    }
    const Floats past_reset = reset == Reset::hard ? pick(spike, zero, carried) : carried;
    const Floats grad_u = through_spike + past_reset;
    put(grad_currents + i * lanes, gain * grad_u, streaming);
    if (terms != nullptr) {
      store(terms->through_spike + i * lanes, through_spike);
      store(terms->reset_spike + i * lanes, pick(spike, carried, zero));
      store(terms->grad_u + i * lanes, grad_u);
    }
    store(state + i * lanes, decay * grad_u);
  }
  outgoing.write(g.grad_currents + place.value(t), place.neurons);
}

/// The same where more is to be done than to write the gradients of 64 currents.
template <Surrogate surrogate, Reset reset, bool attached>
[[gnu::noinline]] void backward_part(const SomaPlan& plan, const SomaGradients& g,
                                     const Place& place, std::int64_t t, const float* at_spikes,
                                     float* state, Terms* terms) noexcept {
  backward_step<surrogate, reset, attached>(plan, g, place, t, at_spikes, state, terms);
}

template <Surrogate surrogate, Reset reset, bool attached>
void backward_chunk(const SomaPlan& plan, const SomaGradients& g, std::int64_t index,
                    double* decay_sums, double* threshold_sums) noexcept {
  const bool wants_sums = decay_sums != nullptr || threshold_sums != nullptr;
  const Chunk chunk(plan, index);
  State state;
  read_state(plan, chunk, g.grad_last, state);
  Terms terms;
  Sums sums[chunk_blocks];
  for (std::int64_t i = 0; wants_sums && i < chunk.blocks; ++i) sums[i] = {};
  AtSpikes at_spikes(plan, g, chunk);
  // As in the forward pass.
  const SomaPlan own_plan = plan;
  const SomaGradients own = g;
  const std::int64_t whole = wants_sums ? 0 : chunk.whole;
  for (std::int64_t t = own_plan.shape.steps - 1; t >= 0; --t) {
    const float* const at = at_spikes.at(t);
    for (std::int64_t i = 0; i < whole; ++i) {
      const Place place = chunk.place(own_plan, i, block);
      backward_step<surrogate, reset, attached>(own_plan, own, place, t, at + i * block,
                                                state.values[i], nullptr);
    }
    for (std::int64_t i = whole; i < chunk.blocks; ++i) {
      const Place place = chunk.place(plan, i);
      Terms* const wanted = wants_sums ? &terms : nullptr;
      backward_part<surrogate, reset, attached>(plan, g, place, t, at + i * block, state.values[i],
                                                wanted);
      if (wanted != nullptr) {
        add_to_sums(plan, g, place, t, decay_sums != nullptr, *wanted, sums[i]);
      }
    }
  }
  if (g.grad_initial != nullptr) write_state(plan, chunk, state, g.grad_initial);
  for (std::int64_t i = 0; wants_sums && i < chunk.blocks; ++i) {
    const Place place = chunk.place(plan, i);
    if (decay_sums != nullptr) decay_sums[place.word] = total(sums[i].decay, place.neurons);
    if (threshold_sums != nullptr) {
      threshold_sums[place.word] = total(sums[i].threshold, place.neurons);
    }
  }
}

using BackwardChunk = void (*)(const SomaPlan&, const SomaGradients&, std::int64_t, double*,
                               double*) noexcept;

template <Surrogate surrogate, Reset reset>
BackwardChunk choose(const SomaPlan& plan) {
  return plan.attached ? &backward_chunk<surrogate, reset, true>
                       : &backward_chunk<surrogate, reset, false>;
}

template <Surrogate surrogate>
BackwardChunk choose(const SomaPlan& plan) {
  return plan.options.reset == Reset::hard ? choose<surrogate, Reset::hard>(plan)
                                           : choose<surrogate, Reset::soft>(plan);
}

BackwardChunk choose(const SomaPlan& plan) {
  switch (plan.options.surrogate) {
    case Surrogate::triangle:
      return choose<Surrogate::triangle>(plan);
    case Surrogate::atan:
      return choose<Surrogate::atan>(plan);
    case Surrogate::sigmoid:
      return choose<Surrogate::sigmoid>(plan);
    default:
      return choose<Surrogate::rect>(plan);
  }
}

void backward(const SomaPlan& plan, const SomaGradients& g, double* decay_sums,
              double* threshold_sums) {
  const BackwardChunk run = choose(plan);
  const std::int64_t chunks = plan.shape.batch * Chunk::of_image(plan);
#pragma omp parallel if (neuron_steps(plan) >= parallel_from)
  {
#pragma omp for schedule(static) nowait
    for (std::int64_t i = 0; i < chunks; ++i) run(plan, g, i, decay_sums, threshold_sums);
    finish_streaming();
  }
}

}  // namespace

extern const SomaKernels soma = {&forward, &backward};

}  // namespace h2learn::H2LEARN_TARGET
