// Neuron dynamics over T, forward and backward, fused: the soma's work.
//
// Forward, t = 1..T, from the membrane h_0 (zero, or given) left by the step before:
//     u_t = decay * h_(t-1) + gain * x_t        gain = 1, or (1 - decay) with decay_input
//     s_t = 1 if u_t > threshold else 0         (>= when inclusive)
//     h_t = u_t * (1 - s_t)                     hard reset
//           u_t - threshold * s_t               soft reset
// rounded after each operation, never fused: round(round(decay * h) + round(gain * x)). (With
// gain 1 the second product is exact.) Every target keeps to this, so spikes are the same bits.
//
// Backward, t = T..1, with the gradient gs_t at the spikes and H_T at h_T (zero, or given):
//     phi_t = surrogate(u_t - threshold)
//     G_t   = gs_t + H_t * dh/ds                dh/ds = -u_t (hard), -threshold (soft);
//                                               0 when detach_reset
//     U_t   = phi_t * G_t + H_t * dh/du         dh/du = 1 - s_t (hard), 1 (soft)
//     grad x_t = gain * U_t,   H_(t-1) = decay * U_t,   grad h_0 = H_0
//     grad decay     = sum U_t * h_(t-1)        minus sum U_t * x_t with decay_input
//     grad threshold = - sum phi_t * G_t        and, soft reset, minus sum H_t * s_t
//                                               (that term is part of the reset: kept also
//                                               when detach_reset, which detaches s_t alone)
// With the default options this is STBP as the first author of H2Learn publishes it.
#pragma once

#include <cstdint>

#include "h2learn/pooling.hpp"

namespace h2learn {

enum class Reset { hard, soft };

/// Unit-area bumps v -> phi(v), v = u - threshold, of the given width, times scale.
enum class Surrogate {
  rect,      ///< 1 / (2 width) where |v| < width, else 0
  triangle,  ///< max(0, 1 - |v| / width) / width
  atan,      ///< 1 / (pi width) / (1 + (v / width)^2)
  sigmoid,   ///< sigma(v / width) * (1 - sigma(v / width)) / width
};

/// True for the surrogates that are exactly zero outside |v| < width: only they give a mask.
constexpr bool is_compact(Surrogate surrogate) {
  return surrogate == Surrogate::rect || surrogate == Surrogate::triangle;
}

struct SomaOptions {
  float decay = 0.25F;
  float threshold = 0.25F;
  bool inclusive = false;  ///< spike at u >= threshold instead of u > threshold
  Reset reset = Reset::hard;
  bool detach_reset = false;  ///< no gradient through s_t in the reset
  bool decay_input = false;   ///< x_t enters times (1 - decay)
  Surrogate surrogate = Surrogate::rect;
  float width = 0.5F;
  float scale = 1.0F;

  /// Throws std::invalid_argument, naming field, value and what is allowed.
  void validate() const;

  /// True when the backward pass needs u_t itself and not only the spike and mask bits:
  /// unless the surrogate is rect, and the reset is detached or soft.
  bool needs_membrane() const;
};

/// steps = T, batch = B, features = elements of one image (channels-last).
struct SomaShape {
  std::int64_t steps = 0;
  std::int64_t batch = 0;
  std::int64_t features = 0;
};

/// currents[T, B, F] -> spikes[T, B, words_for(F)], and where not null
///   mask[T, B, words_for(F)]   bit = surrogate not zero (compact surrogates; |v| < width)
///   membrane[T, B, F]          u_t
///   last[B, F]                 h_T
/// `initial[B, F]` (null: zeros) is h_0.
void soma_forward(const SomaOptions& options, const SomaShape& shape, const float* currents,
                  const float* initial, std::uint64_t* spikes, std::uint64_t* mask, float* membrane,
                  float* last);

/// What the backward pass reads and writes; every pointer but grad_spikes, spikes and
/// grad_currents may be null. With `pool` the result is that of average_pool_backward() followed by
/// this, bit for bit, and what the former makes is never stored.
struct SomaGradients {
  const float* grad_spikes = nullptr;     ///< [T, B, F]; not read where mask is given and 0
  const PoolGeometry* pool = nullptr;     ///< then grad_spikes are of its averages, [T, B, F_out]
  const float* grad_last = nullptr;       ///< [B, F]
  const std::uint64_t* spikes = nullptr;  ///< [T, B, W]
  const std::uint64_t* mask = nullptr;    ///< [T, B, W]; needed when membrane is null
  const float* membrane = nullptr;        ///< [T, B, F]; needed when options.needs_membrane()
  const float* currents = nullptr;        ///< [T, B, F]; needed for grad_decay + decay_input
  const float* initial = nullptr;         ///< [B, F]; h_0, needed for grad_decay if it was given
  float* grad_currents = nullptr;         ///< [T, B, F]
  float* grad_initial = nullptr;          ///< [B, F]
  double* grad_decay = nullptr;           ///< one value; needs membrane
  double* grad_threshold = nullptr;       ///< one value
};

/// Throws std::invalid_argument where the pooling is not of such neurons.
void require_pool(const PoolGeometry& pool, const SomaShape& shape);

void soma_backward(const SomaOptions& options, const SomaShape& shape, const SomaGradients& g);

}  // namespace h2learn
