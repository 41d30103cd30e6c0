// Weights from torch's order into panels, and the weight gradient's sums back into torch's order.
#include "kernels/synapse_pack.hpp"

#include "kernels/synapse_panels.hpp"
#include "kernels/transpose.hpp"
#include "summation.hpp"

namespace h2learn {
namespace {

PanelLayout panel_layout(const WeightShape& shape, PackFor use) {
  switch (use) {
    case PackFor::backward:
      return {shape.taps * shape.outputs, shape.channels, sum_block};
    case PackFor::tables:
      return {shape.taps * shape.channels, shape.outputs, shape.taps * shape.channels};
    default:
      return {shape.taps * shape.channels, shape.outputs, sum_block};
  }
}

/// All ones in lanes that are infinite or not a number.
H2LEARN_INLINE Ints not_finite(Floats value) { return value - value != Floats{}; }

H2LEARN_INLINE bool any(Ints mask) { return bits_of_mask(mask) != 0; }

/// The term that element e = channel * taps + tap of an output's weights is: tap * channels +
/// channel. Steps through ascending e without dividing.
class TermOfElement {
 public:
  TermOfElement(const WeightShape& shape, std::int64_t element)
      : shape_(shape), channel_(element / shape.taps), tap_(element % shape.taps) {}
  std::int64_t term() const { return tap_ * shape_.channels + channel_; }
  void advance() {
    if (++tap_ == shape_.taps) {
      tap_ = 0;
      ++channel_;
    }
  }

 private:
  const WeightShape& shape_;
  std::int64_t channel_;
  std::int64_t tap_;
};

/// Weights below which a second thread costs more than it saves.
constexpr std::int64_t parallel_weights = std::int64_t{1} << 15;

H2LEARN_INLINE std::int64_t weights_of(const WeightShape& shape) {
  return shape.groups * shape.outputs * shape.channels * shape.taps;
}

/// Elements that one thread packs at a time of one vector of outputs.
constexpr std::int64_t element_chunk = 1024;

/// tile[e] = element e of each of `outputs` rows, `stride` apart, of which `count` elements are
/// left; zeros beyond. Returns all ones in lanes that met a number that is not finite.
H2LEARN_INLINE Ints load_elements(const float* rows, std::int64_t stride, std::int64_t outputs,
                                  std::int64_t count, Floats* tile) {
  Ints flaws = {};
  for (int i = 0; i < lanes; ++i) {
    tile[i] = i < outputs ? load_first(rows + i * stride, count) : Floats{};
    flaws |= not_finite(tile[i]);
  }
  transpose(tile);
  return flaws;
}

/// Columns are outputs: `lanes` outputs x `lanes` elements are transposed in registers.
bool pack_outputs(const WeightShape& shape, const PanelLayout& layout, const float* weight,
                  float* panels) {
  const std::int64_t elements = layout.length;
  const std::int64_t column_vectors = layout.padded() / lanes;
  const std::int64_t chunks = blocks_of(elements, element_chunk);
  int bad = 0;
#pragma omp parallel for collapse(2) schedule(static) \
    reduction(| : bad) if (weights_of(shape) > parallel_weights)
  for (std::int64_t vector = 0; vector < shape.groups * column_vectors; ++vector) {
    for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
      const std::int64_t group = vector / column_vectors;
      const std::int64_t column = vector % column_vectors * lanes;
      const std::int64_t outputs = least(lanes, shape.outputs - column);
      const float* const rows = weight + (group * shape.outputs + column) * elements;
      const std::int64_t end = least((chunk + 1) * element_chunk, elements);
      const PanelColumn to(layout, group, column);
      TermOfElement place(shape, chunk * element_chunk);
      Ints flaws = {};
      for (std::int64_t element = chunk * element_chunk; element < end; element += lanes) {
        Floats tile[lanes];
        flaws |= load_elements(rows + element, elements, outputs, end - element, tile);
        if (shape.taps == 1) {  // elements are terms, and a vector's are of one block
          float* const first = panels + to.element(element);
          for (int i = 0; i < lanes && element + i < end; ++i) {
            store(first + i * to.width(), tile[i]);
          }
          continue;
        }
        for (int i = 0; i < lanes && element + i < end; ++i, place.advance()) {
          store(panels + to.element(place.term()), tile[i]);
        }
      }
      bad |= static_cast<int>(any(flaws));
    }
  }
  return bad == 0;
}

/// Columns are channels: an output's weights of one tap, `taps` apart in memory, become one row.
bool pack_channels(const WeightShape& shape, const PanelLayout& layout, const float* weight,
                   float* panels) {
  int bad = 0;
#pragma omp parallel for schedule(static) \
    reduction(| : bad) if (weights_of(shape) > parallel_weights)
  for (std::int64_t output = 0; output < shape.groups * shape.outputs; ++output) {
    const std::int64_t group = output / shape.outputs;
    const float* const from = weight + output * shape.channels * shape.taps;
    Ints flaws = {};
    for (std::int64_t tap = 0; tap < shape.taps; ++tap) {
      const std::int64_t term = tap * shape.outputs + output % shape.outputs;
      for (std::int64_t channel = 0; channel < layout.padded(); channel += lanes) {
        const std::int64_t count = least(lanes, shape.channels - channel);
        Floats row = {};
        if (shape.taps == 1) {
          row = load_first(from + channel, count);
        } else {
          for (int i = 0; i < count; ++i) row[i] = from[(channel + i) * shape.taps + tap];
        }
        flaws |= not_finite(row);
        store(panels + layout.element(group, term, channel), row);
      }
    }
    bad |= static_cast<int>(any(flaws));
  }
  return bad == 0;
}

/// For Method::sampled: where an element's term may lie beside the next output's of its tap, a
/// vector of them is stored at once.
bool pack_sampled(const WeightShape& shape, const float* weight, float* packed) {
  const std::int64_t length = shape.taps * shape.outputs;
  const std::int64_t blocks = blocks_of(length, dot_block);
  const std::int64_t elements = shape.channels * shape.taps;
  const std::int64_t vectors = blocks_of(shape.outputs, lanes);
  const std::int64_t chunks = blocks_of(elements, element_chunk);
  const auto place = [&](std::int64_t group, std::int64_t channel, std::int64_t term) {
    return packed + ((group * blocks + term / dot_block) * shape.channels + channel) * dot_block +
           term % dot_block;
  };
  const std::int64_t tail = round_up(length, dot_lanes) - length;
  for (std::int64_t c = 0; tail != 0 && c < shape.groups * shape.channels; ++c) {
    float* const end = place(c / shape.channels, c % shape.channels, length - 1) + 1;
    for (std::int64_t i = 0; i < tail; ++i) end[i] = 0;
  }
  int bad = 0;
#pragma omp parallel for collapse(2) schedule(static) \
    reduction(| : bad) if (weights_of(shape) > parallel_weights)
  for (std::int64_t vector = 0; vector < shape.groups * vectors; ++vector) {
    for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
      const std::int64_t group = vector / vectors;
      const std::int64_t output = vector % vectors * lanes;
      const std::int64_t outputs = least(lanes, shape.outputs - output);
      const float* const rows = weight + (group * shape.outputs + output) * elements;
      const std::int64_t end = least((chunk + 1) * element_chunk, elements);
      std::int64_t channel = chunk * element_chunk / shape.taps;
      std::int64_t tap = chunk * element_chunk % shape.taps;
      Ints flaws = {};
      for (std::int64_t element = chunk * element_chunk; element < end; element += lanes) {
        Floats tile[lanes];
        flaws |= load_elements(rows + element, elements, outputs, end - element, tile);
        for (int i = 0; i < lanes && element + i < end; ++i) {
          const std::int64_t term = tap * shape.outputs + output;
          if (outputs == lanes && term % dot_block + lanes <= dot_block) {
            store(place(group, channel, term), tile[i]);
          } else {
            for (int n = 0; n < outputs; ++n) *place(group, channel, term + n) = tile[i][n];
          }
          if (++tap == shape.taps) {
            tap = 0;
            ++channel;
          }
        }
      }
      bad |= static_cast<int>(any(flaws));
    }
  }
  return bad == 0;
}

void clear_zero_rows(const WeightShape& shape, const PanelLayout& layout, float* panels) {
  for (std::int64_t group = 0; group < shape.groups; ++group) {
    for (std::int64_t term = 0; term < layout.length; term += layout.block) {
      const std::int64_t depth = layout.depth(term);
      for (std::int64_t column = 0; column < layout.padded(); column += panel_columns) {
        const std::int64_t width = layout.panel_width(column);
        float* const zeros = panels + layout.panel(group, term, column) + depth * width;
        for (std::int64_t i = 0; i < width; ++i) zeros[i] = 0;
      }
    }
  }
}

}  // namespace

namespace H2LEARN_TARGET {

float largest_magnitude(const float* values, std::int64_t count) {
  constexpr std::int64_t piece = std::int64_t{1} << 14;
  // Without their signs, floats are in the order of their bits, and NaNs are above all.
  std::int32_t largest = 0;
#pragma omp parallel for schedule(static) reduction(max : largest) if (count > parallel_weights)
  for (std::int64_t begin = 0; begin < count; begin += piece) {
    const std::int64_t end = least(begin + piece, count);
    Ints magnitudes = {};
    for (std::int64_t i = begin; i < end; i += lanes) {
      const Ints bits = reinterpret_cast<Ints>(load_first(values + i, end - i)) & INT32_MAX;
      magnitudes = bits > magnitudes ? bits : magnitudes;
    }
    for (int i = 0; i < lanes; ++i) {
      if (magnitudes[i] > largest) largest = magnitudes[i];
    }
  }
  return __builtin_bit_cast(float, largest);
}

std::int64_t packed_size(const WeightShape& shape, PackFor use) {
  if (use == PackFor::sampled) {
    return shape.groups * shape.channels * round_up(shape.taps * shape.outputs, dot_block);
  }
  return shape.groups * panel_layout(shape, use).group_floats();
}

bool pack_weights(const WeightShape& shape, PackFor use, const float* weight, float* panels) {
  if (use == PackFor::sampled) return pack_sampled(shape, weight, panels);
  const PanelLayout layout = panel_layout(shape, use);
  clear_zero_rows(shape, layout, panels);
  return use == PackFor::backward ? pack_channels(shape, layout, weight, panels)
                                  : pack_outputs(shape, layout, weight, panels);
}

void unpack_gradient(const WeightShape& shape, const float* sums, std::int64_t stride, float scale,
                     float* grad_weight) {
  const std::int64_t elements = shape.taps * shape.channels;
  const std::int64_t column_vectors = blocks_of(shape.outputs, lanes);
  const std::int64_t chunks = blocks_of(elements, element_chunk);
#pragma omp parallel for collapse(2) schedule(static) if (weights_of(shape) > parallel_weights)
  for (std::int64_t vector = 0; vector < shape.groups * column_vectors; ++vector) {
    for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
      const std::int64_t group = vector / column_vectors;
      const std::int64_t column = vector % column_vectors * lanes;
      const std::int64_t outputs = least(lanes, shape.outputs - column);
      float* const rows = grad_weight + (group * shape.outputs + column) * elements;
      const float* const from = sums + group * elements * stride + column;
      const std::int64_t end = least((chunk + 1) * element_chunk, elements);
      TermOfElement place(shape, chunk * element_chunk);
      for (std::int64_t element = chunk * element_chunk; element < end; element += lanes) {
        Floats tile[lanes] = {};
        for (int i = 0; i < lanes && element + i < end; ++i, place.advance()) {
          tile[i] = load(from + place.term() * stride) * scale;
        }
        transpose(tile);
        for (int i = 0; i < outputs; ++i) {
          store_first(rows + i * elements + element, tile[i], end - element);
        }
      }
    }
  }
}

void unpack_task(const float* sums, std::int64_t stride, std::int64_t terms, std::int64_t outputs,
                 float scale, float* to, std::int64_t to_stride) {
  for (std::int64_t column = 0; column < outputs; column += lanes) {
    for (std::int64_t term = 0; term < terms; term += lanes) {
      Floats tile[lanes] = {};
      for (int i = 0; i < lanes && term + i < terms; ++i) {
        tile[i] = load(sums + (term + i) * stride + column) * scale;
      }
      transpose(tile);
      for (int i = 0; i < lanes && column + i < outputs; ++i) {
        store_first(to + (column + i) * to_stride + term, tile[i], terms - term);
      }
    }
  }
}

}  // namespace H2LEARN_TARGET
}  // namespace h2learn
