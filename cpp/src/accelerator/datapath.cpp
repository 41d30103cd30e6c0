#include "h2learn/accelerator/datapath.hpp"

#include <omp.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <vector>

#include "synapse_checks.hpp"

namespace h2learn::accelerator {
namespace {

using std::int64_t;
using std::uint64_t;

/// Output channels that are computed side by side, each as if it were alone.
constexpr int64_t lanes = 16;
struct alignas(64) Lanes {
  std::array<float, lanes> value = {};
};

/// Table indices of a layer are made for as many images at a time as fit this many elements.
constexpr int64_t index_room = 4 << 20;
/// Positions that share the building of tables in one thread.
constexpr int64_t stretch = 1024;

using Index = std::uint16_t;
constexpr int64_t most_inputs = 12;

std::size_t size(int64_t count) { return static_cast<std::size_t>(count); }
int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// Rounds to a precision that is known when it is compiled: a value, or all lanes.
template <Precision precision>
struct Round {
  float operator()(float value) const { return round_to(precision, value); }

  void operator()(Lanes& lane) const {
    for (float& value : lane.value) value = round_to(precision, value);
  }
};

/// The same without a branch, so that lanes go side by side: most of the time of building tables.
template <>
inline void Round<Precision::fp16>::operator()(Lanes& lane) const {
  constexpr std::uint32_t infinity = 0x7f800000;
  for (float& value : lane.value) {
    const auto pattern = std::bit_cast<std::uint32_t>(value);
    const std::uint32_t magnitude = pattern & 0x7fffffff;
    // Added to the magnitude, 2^13 times its power of two pushes out the bits that fp16 lacks;
    // 2^-1 is for subnormals, which are multiples of 2^-24.
    const std::uint32_t exponent = (magnitude & infinity) + (13U << 23);
    const float pushed =
        std::bit_cast<float>(exponent < 0x3f000000 ? std::uint32_t{0x3f000000} : exponent);
    const auto rounded =
        std::bit_cast<std::uint32_t>((std::bit_cast<float>(magnitude) + pushed) - pushed);
    const std::uint32_t beyond = magnitude > infinity ? magnitude : infinity;
    const std::uint32_t result = magnitude >= 0x477ff000 ? beyond : rounded;  // 65520
    value = std::bit_cast<float>(result | (pattern & 0x80000000));
  }
}

/// Calls body(round) with the precision's own type.
template <typename Body>
void with_precision(Precision precision, Body body) {
  switch (precision) {
    case Precision::fp32:
      return body(Round<Precision::fp32>());
    case Precision::fp16:
      return body(Round<Precision::fp16>());
    case Precision::bf16:
      return body(Round<Precision::bf16>());
  }
}

void add(Lanes& sum, const Lanes& term) {
  for (std::size_t i = 0; i < lanes; ++i) sum.value[i] += term.value[i];
}

void add_scaled(Lanes& sum, float factor, const Lanes& term) {
  for (std::size_t i = 0; i < lanes; ++i) sum.value[i] += factor * term.value[i];
}

/// The tables of one tile for `lanes` columns, and the tree that adds what is read from them.
class Tables {
 public:
  /// Room for the tables of `terms` terms, or of a whole tile if that is less.
  Tables(const TableArray& array, int64_t terms)
      : inputs_(array.inputs), entries_(int64_t{1} << array.inputs), stored_(array.tables) {
    const int64_t most = std::min(array.rows, ceil_div(terms, array.inputs));
    bank_.resize(size(most * entries_));
    level_.resize(size(ceil_div(most, 2)));
  }

  /// From `count` terms, rounded already: `inputs` of them a table.
  template <typename Round>
  void build(const Lanes* terms, int64_t count, Round round) {
    tables_ = ceil_div(count, inputs_);
    for (int64_t table = 0; table < tables_; ++table) {
      const Lanes* const own = terms + table * inputs_;
      const int64_t bits = std::min(inputs_, count - table * inputs_);
      Lanes* const bank = bank_.data() + table * entries_;
      bank[0] = {};
      for (unsigned entry = 1; entry < 1U << bits; ++entry) {
        // A table grows by lowest bits, and its entries are written; an adder without a table
        // comes to the highest bit last, and what it holds is an fp32 sum.
        const unsigned bit = stored_ ? entry & (~entry + 1) : std::bit_floor(entry);
        Lanes sum = bank[entry ^ bit];
        add(sum, own[std::countr_zero(bit)]);
        if (stored_) round(sum);
        bank[entry] = sum;
      }
    }
  }

  /// What comes out of the tree for one index a table. A tree is filled up with zeros to a power of
  /// two; adding zero changes no accumulator, so an odd sum passes to the next level as it is.
  const Lanes& read(const Index* index) {
    int64_t sums = 0;
    for (int64_t table = 0; table < tables_; table += 2, ++sums) {
      Lanes& sum = level_[size(sums)];
      sum = bank_[size(table * entries_ + index[table])];
      if (table + 1 < tables_) add(sum, bank_[size((table + 1) * entries_ + index[table + 1])]);
    }
    while (sums > 1) {
      const int64_t below = sums;
      sums = 0;
      for (int64_t i = 0; i < below; i += 2, ++sums) {
        Lanes sum = level_[size(i)];
        if (i + 1 < below) add(sum, level_[size(i + 1)]);
        level_[size(sums)] = sum;
      }
    }
    return level_.front();
  }

 private:
  int64_t inputs_;
  int64_t entries_;
  bool stored_;
  int64_t tables_ = 0;
  std::vector<Lanes> bank_;   ///< [table][entry]
  std::vector<Lanes> level_;  ///< of the tree
};

bool all_zero(const Index* index, int64_t count) {
  Index any = 0;
  for (int64_t i = 0; i < count; ++i) any = static_cast<Index>(any | index[i]);
  return any == 0;
}

/// The lowest `count` bits, 1 to 64.
uint64_t low_bits(int64_t count) { return ~uint64_t{0} >> (64 - count); }

/// `count` bits, 1 to 64, from bit `first` on; touches only words that hold them.
uint64_t read_bits(const uint64_t* words, int64_t first, int64_t count) {
  const uint64_t* const word = words + first / 64;
  const int64_t shift = first % 64;
  uint64_t value = *word >> shift;
  if (shift + count > 64) value |= word[1] << (64 - shift);
  return value & low_bits(count);
}

/// Which bits an output position reads: those of its fan-in, k = tap * channels + c ascending.
class FanIn {
 public:
  explicit FanIn(const Geometry& geometry)
      : geometry_(geometry), input_of_output_(geometry.input_of_output()) {}

  /// Calls body(k, count, bits) for runs of up to 64 bits that are not all zero.
  template <typename Body>
  void for_each_run(const uint64_t* row, int64_t position, int64_t group, Body body) const {
    const int64_t channels = geometry_.channels_per_group();
    const int64_t taps = geometry_.taps();
    for (int64_t tap = 0; tap < taps; ++tap) {
      const int64_t input = input_of_output_[size(position * taps + tap)];
      if (input < 0) continue;
      const int64_t first = input * geometry_.in_channels + group * channels;
      for (int64_t c = 0; c < channels; c += 64) {
        const int64_t count = std::min<int64_t>(64, channels - c);
        const uint64_t bits = read_bits(row, first + c, count);
        if (bits != 0) body(tap * channels + c, bits);
      }
    }
  }

  /// Calls body(k) for every bit that is set, k ascending.
  template <typename Body>
  void for_each_spike(const uint64_t* row, int64_t position, int64_t group, Body body) const {
    for_each_run(row, position, group, [&](int64_t k, uint64_t bits) {
      for (; bits != 0; bits &= bits - 1) body(k + std::countr_zero(bits));
    });
  }

  /// Where torch's order keeps the weight of fan-in index k.
  int64_t weight_index(int64_t output, int64_t k) const {
    const int64_t channels = geometry_.channels_per_group();
    return (output * channels + k % channels) * geometry_.taps() + k / channels;
  }

 private:
  const Geometry& geometry_;
  std::vector<std::int32_t> input_of_output_;
};

/// Consecutive output channels, at most `lanes`.
struct Columns {
  int64_t first;
  int64_t count;
};

std::vector<Columns> cut_columns(int64_t first, int64_t count) {
  std::vector<Columns> blocks;
  for (int64_t c = 0; c < count; c += lanes) {
    blocks.push_back({first + c, std::min(lanes, count - c)});
  }
  return blocks;
}

std::vector<float> weights_of_planes(const PlaneInputs& inputs) {
  std::vector<float> weights(size(inputs.bits.planes));
  for (std::size_t p = 0; p < weights.size(); ++p) {
    weights[p] = inputs.plane_weights != nullptr ? inputs.plane_weights[p]
                                                 : std::ldexp(1.0F, static_cast<int>(p));
  }
  return weights;
}

void require_range(const char* name, int64_t value, int64_t least, int64_t most) {
  if (value < least || value > most) {
    throw std::invalid_argument(std::string(name) + " must be " + std::to_string(least) + " to " +
                                std::to_string(most) + ", got " + std::to_string(value));
  }
}

void require_inputs(const Geometry& geometry, const PlaneInputs& inputs) {
  geometry.validate();
  require_spikes(geometry, inputs.bits);
  require_finite("plane_weights", inputs.plane_weights, inputs.bits.planes);
  require_finite("scale", inputs.scale);
}

/// Each thread's own, made before the threads start: what throws must throw outside of them.
template <typename T>
std::vector<T> for_each_thread(const T& value) {
  return std::vector<T>(size(std::max(1, omp_get_max_threads())), value);
}

std::size_t this_thread() { return static_cast<std::size_t>(omp_get_thread_num()); }

// ---- forward

/// One group's forward pass over a run of images: indices first, then column by column.
class ForwardPass {
 public:
  ForwardPass(const Geometry& geometry, const PlaneInputs& inputs, const TableArray& array)
      : geometry_(geometry),
        inputs_(inputs),
        array_(array),
        fan_in_(geometry),
        plane_weights_(weights_of_planes(inputs)),
        tables_(ceil_div(geometry.fan_in(), array.inputs)),
        tables_of_thread_(for_each_thread(Tables(array, geometry.fan_in()))),
        psums_(for_each_thread(std::vector<Lanes>(size(stretch)))) {}

  template <typename Round>
  void run(const float* weight, const float* bias, float* currents, Round round) {
    const int64_t per_image = geometry_.out_positions() * inputs_.bits.planes * tables_;
    const int64_t most = std::clamp<int64_t>(index_room / per_image, 1, inputs_.bits.rows);
    indices_.resize(size(most * per_image));
    for (int64_t group = 0; group < geometry_.groups; ++group) {
      const int64_t outputs = geometry_.outputs_per_group();
      const std::vector<Columns> blocks = cut_columns(group * outputs, outputs);
      const std::vector<Lanes> terms = rounded_weights(blocks, weight, round);
      for (int64_t image = 0; image < inputs_.bits.rows; image += most) {
        first_ = image * geometry_.out_positions();
        count_ = std::min(most, inputs_.bits.rows - image) * geometry_.out_positions();
        make_indices(group);
        run_columns(blocks, terms, bias, currents, round);
      }
    }
  }

 private:
  /// [block][k]
  template <typename Round>
  std::vector<Lanes> rounded_weights(const std::vector<Columns>& blocks, const float* weight,
                                     Round round) const {
    const int64_t fan_in = geometry_.fan_in();
    std::vector<Lanes> terms(blocks.size() * size(fan_in));
    for (std::size_t b = 0; b < blocks.size(); ++b) {
      for (int64_t k = 0; k < fan_in; ++k) {
        for (int64_t i = 0; i < blocks[b].count; ++i) {
          terms[b * size(fan_in) + size(k)].value[size(i)] =
              round(weight[fan_in_.weight_index(blocks[b].first + i, k)]);
        }
      }
    }
    return terms;
  }

  Index* indices_of(int64_t m, int64_t plane) {
    return indices_.data() + (m * inputs_.bits.planes + plane) * tables_;
  }

  void make_indices(int64_t group) {
    const int64_t positions = geometry_.out_positions();
#pragma omp parallel for schedule(static)
    for (int64_t m = 0; m < count_; ++m) {
      const int64_t image = (first_ + m) / positions;
      const int64_t position = (first_ + m) % positions;
      for (int64_t plane = 0; plane < inputs_.bits.planes; ++plane) {
        Index* const index = indices_of(m, plane);
        std::fill_n(index, tables_, Index{0});
        fan_in_.for_each_spike(inputs_.bits.row(plane, image), position, group, [&](int64_t k) {
          Index& own = index[k / array_.inputs];
          own = static_cast<Index>(own | 1U << (k % array_.inputs));
        });
      }
    }
  }

  template <typename Round>
  void run_columns(const std::vector<Columns>& blocks, const std::vector<Lanes>& terms,
                   const float* bias, float* currents, Round round) {
    const auto count = static_cast<int64_t>(blocks.size());
    const int64_t stretches = ceil_div(count_, stretch);
#pragma omp parallel for collapse(2) schedule(dynamic)
    for (int64_t s = 0; s < stretches; ++s) {
      for (int64_t b = 0; b < count; ++b) {
        const int64_t begin = s * stretch;
        run_stretch(begin, std::min(stretch, count_ - begin), blocks[size(b)],
                    terms.data() + b * geometry_.fan_in(), bias, currents, round);
      }
    }
  }

  template <typename Round>
  void run_stretch(int64_t begin, int64_t count, Columns columns, const Lanes* terms,
                   const float* bias, float* currents, Round round) {
    Tables& tables = tables_of_thread_[this_thread()];
    std::vector<Lanes>& psums = psums_[this_thread()];
    std::fill_n(psums.begin(), count, Lanes{});
    for (int64_t first = 0; first < tables_; first += array_.rows) {
      const int64_t rows = std::min(array_.rows, tables_ - first);
      const int64_t k = first * array_.inputs;
      tables.build(terms + k, std::min(rows * array_.inputs, geometry_.fan_in() - k), round);
      for (int64_t m = 0; m < count; ++m) {
        for (int64_t plane = 0; plane < inputs_.bits.planes; ++plane) {
          const Index* const index = indices_of(begin + m, plane) + first;
          if (all_zero(index, rows)) continue;
          add_scaled(psums[size(m)], plane_weights_[size(plane)], tables.read(index));
        }
      }
    }
    for (int64_t m = 0; m < count; ++m) {
      float* const out = currents + (first_ + begin + m) * geometry_.out_channels + columns.first;
      for (int64_t i = 0; i < columns.count; ++i) {
        const float current = inputs_.scale * psums[size(m)].value[size(i)];
        out[i] = bias == nullptr ? current : current + bias[columns.first + i];
      }
    }
  }

  const Geometry& geometry_;
  const PlaneInputs& inputs_;
  TableArray array_;
  FanIn fan_in_;
  std::vector<float> plane_weights_;
  int64_t tables_;              ///< of the whole fan-in
  std::vector<Index> indices_;  ///< [position][plane][table]
  int64_t first_ = 0;           ///< position, counted over all images
  int64_t count_ = 0;
  std::vector<Tables> tables_of_thread_;
  std::vector<std::vector<Lanes>> psums_;
};

// ---- backward

/// A gradient that is not zero: its row of the weights, and its value.
struct Term {
  int64_t row;
  float gradient;
};

template <typename Round>
void run_backward(const Geometry& g, const float* grad_currents, int64_t images,
                  const float* weight, const uint64_t* mask, float* grad_inputs, Round round) {
  const int64_t channels = g.channels_per_group();
  const int64_t outputs = g.outputs_per_group();
  const int64_t reductions = g.taps() * outputs;
  const int64_t blocks = ceil_div(channels, lanes);
  // rows[group][tap * outputs + n][block of channels]: what a gradient is multiplied with.
  std::vector<Lanes> rows(size(g.groups * reductions * blocks));
  for (int64_t n = 0; n < g.out_channels; ++n) {
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t tap = 0; tap < g.taps(); ++tap) {
        const int64_t row = n / outputs * reductions + tap * outputs + n % outputs;
        rows[size(row * blocks + c / lanes)].value[size(c % lanes)] =
            round(weight[(n * channels + c) * g.taps() + tap]);
      }
    }
  }
  std::vector<float> gradients(size(images * g.out_features()));
  for (std::size_t i = 0; i < gradients.size(); ++i) gradients[i] = round(grad_currents[i]);
  const std::vector<std::int32_t> output_of_input = g.output_of_input();
  const int64_t mask_words = words_for(g.in_features());
  auto terms_of_thread = for_each_thread(std::vector<Term>(size(reductions)));

#pragma omp parallel for schedule(dynamic, 16)
  for (int64_t item = 0; item < images * g.in_positions(); ++item) {
    const int64_t image = item / g.in_positions();
    const int64_t position = item % g.in_positions();
    std::vector<Term>& terms = terms_of_thread[this_thread()];
    for (int64_t group = 0; group < g.groups; ++group) {
      std::size_t count = 0;
      for (int64_t tap = 0; tap < g.taps(); ++tap) {
        const int64_t output = output_of_input[size(position * g.taps() + tap)];
        if (output < 0) continue;
        const int64_t first =
            (image * g.out_positions() + output) * g.out_channels + group * outputs;
        for (int64_t n = 0; n < outputs; ++n) {
          const float gradient = gradients[size(first + n)];
          if (gradient != 0) terms[count++] = {group * reductions + tap * outputs + n, gradient};
        }
      }
      for (int64_t block = 0; block < blocks; ++block) {
        const int64_t width = std::min(lanes, channels - block * lanes);
        const int64_t feature = position * g.in_channels + group * channels + block * lanes;
        const uint64_t needed = mask == nullptr
                                    ? low_bits(width)
                                    : read_bits(mask + image * mask_words, feature, width);
        Lanes psum;
        for (std::size_t t = 0; needed != 0 && t < count; ++t) {
          add_scaled(psum, terms[t].gradient, rows[size(terms[t].row * blocks + block)]);
        }
        round(psum);
        float* const out = grad_inputs + image * g.in_features() + feature;
        for (int64_t i = 0; i < width; ++i) {
          out[i] = (needed >> i & 1) != 0 ? psum.value[size(i)] : 0.0F;
        }
      }
    }
  }
}

// ---- weight update

/// Row tiles in the engine's order: tile i is `positions` from ends[i - 1] to ends[i]. A position
/// is row * out_positions + output position.
struct RowTiles {
  std::vector<int64_t> positions;
  std::vector<int64_t> ends;

  int64_t count() const { return static_cast<int64_t>(ends.size()); }
  int64_t begin(int64_t tile) const { return tile == 0 ? 0 : ends[size(tile - 1)]; }
  int64_t end(int64_t tile) const { return ends[size(tile)]; }
};

/// Rows (images) of each block of the update engine, in its order.
std::vector<std::vector<int64_t>> blocks_of_images(int64_t timesteps, int64_t samples,
                                                   int64_t parts, int64_t most) {
  std::vector<std::vector<int64_t>> blocks;
  parts = std::min(parts, samples);
  int64_t first = 0;
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t count = samples / parts + (part < samples % parts ? 1 : 0);
    for (int64_t i = 0; i < count * timesteps; ++i) {
      const int64_t image = count * timesteps - 1 - i;
      if (i % most == 0) blocks.emplace_back();
      blocks.back().push_back(image % timesteps * samples + first + image / timesteps);
    }
    first += count;
  }
  return blocks;
}

/// `wanted(position)`: whether the position takes part.
template <typename Wanted>
RowTiles cut_tiles(const std::vector<std::vector<int64_t>>& blocks, int64_t out_positions,
                   int64_t tile, Wanted wanted) {
  RowTiles tiles;
  for (const std::vector<int64_t>& block : blocks) {
    int64_t in_block = 0;
    for (const int64_t row : block) {
      for (int64_t position = 0; position < out_positions; ++position) {
        const int64_t m = row * out_positions + position;
        if (!wanted(m)) continue;
        if (in_block > 0 && in_block % tile == 0) {
          tiles.ends.push_back(static_cast<int64_t>(tiles.positions.size()));
        }
        tiles.positions.push_back(m);
        ++in_block;
      }
    }
    if (in_block > 0) tiles.ends.push_back(static_cast<int64_t>(tiles.positions.size()));
  }
  return tiles;
}

class UpdatePass {
 public:
  UpdatePass(const Geometry& geometry, const PlaneInputs& inputs, const float* grad_currents,
             const UpdateArray& array)
      : geometry_(geometry),
        inputs_(inputs),
        grad_currents_(grad_currents),
        array_(array),
        fan_in_(geometry),
        plane_weights_(weights_of_planes(inputs)),
        tables_of_thread_(
            for_each_thread(Tables(array, inputs.bits.rows * geometry.out_positions()))),
        terms_of_thread_(for_each_thread(std::vector<Lanes>(size(array.rows * array.inputs)))) {}

  template <typename Round>
  void run(const std::vector<std::vector<int64_t>>& blocks, float* grad_weight, Round round) {
    const int64_t outputs = geometry_.outputs_per_group();
    const int64_t width = array_.compact ? std::min(array_.columns, outputs) : outputs;
    RowTiles tiles;
    if (!array_.compact) tiles = cut(blocks, [](int64_t) { return true; });
    for (int64_t group = 0; group < geometry_.groups; ++group) {
      for (int64_t column = 0; column < outputs; column += width) {
        const int64_t first = group * outputs + column;
        const int64_t count = std::min(width, outputs - column);
        if (array_.compact) {
          tiles = cut(blocks, [&](int64_t m) {
            const float* const gradients = grad_currents_ + m * geometry_.out_channels + first;
            return std::any_of(gradients, gradients + count,
                               [&](float gradient) { return round(gradient) != 0; });
          });
        }
        run_columns(group, cut_columns(first, count), tiles, grad_weight, round);
      }
    }
  }

 private:
  template <typename Wanted>
  RowTiles cut(const std::vector<std::vector<int64_t>>& blocks, Wanted wanted) const {
    return cut_tiles(blocks, geometry_.out_positions(), array_.rows * array_.inputs, wanted);
  }

  template <typename Round>
  void run_columns(int64_t group, const std::vector<Columns>& blocks, const RowTiles& tiles,
                   float* grad_weight, Round round) {
    const int64_t fan_in = geometry_.fan_in();
    std::vector<Lanes> accumulators(blocks.size() * size(fan_in));
    const int64_t per_tile = inputs_.bits.planes * fan_in * array_.rows;
    const int64_t most = std::max<int64_t>(1, index_room / per_tile);
    indices_.resize(size(std::min(most, tiles.count()) * per_tile));

    // With fewer blocks of columns than threads, these share out the inputs.
    const auto column_blocks = static_cast<int64_t>(blocks.size());
    const int64_t shares = std::min(fan_in, ceil_div(omp_get_max_threads(), column_blocks));
    for (int64_t first = 0; first < tiles.count(); first += most) {
      const int64_t last = std::min(first + most, tiles.count());
      make_indices(group, tiles, first, last);
#pragma omp parallel for collapse(2) schedule(dynamic)
      for (int64_t b = 0; b < column_blocks; ++b) {
        for (int64_t share = 0; share < shares; ++share) {
          run_block(blocks[size(b)], tiles, first, last, fan_in * share / shares,
                    fan_in * (share + 1) / shares, accumulators.data() + b * fan_in, round);
        }
      }
    }
    for (std::size_t b = 0; b < blocks.size(); ++b) {
      for (int64_t k = 0; k < fan_in; ++k) {
        for (int64_t i = 0; i < blocks[b].count; ++i) {
          grad_weight[fan_in_.weight_index(blocks[b].first + i, k)] =
              inputs_.scale * accumulators[b * size(fan_in) + size(k)].value[size(i)];
        }
      }
    }
  }

  Index* indices_of(int64_t tile, int64_t k, int64_t plane) {
    return indices_.data() +
           ((tile * geometry_.fan_in() + k) * inputs_.bits.planes + plane) * array_.rows;
  }

  void make_indices(int64_t group, const RowTiles& tiles, int64_t first, int64_t last) {
    const int64_t positions = geometry_.out_positions();
    const int64_t fan_in = geometry_.fan_in();
#pragma omp parallel for schedule(dynamic)
    for (int64_t tile = first; tile < last; ++tile) {
      std::fill_n(indices_of(tile - first, 0, 0), inputs_.bits.planes * fan_in * array_.rows,
                  Index{0});
      for (int64_t at = tiles.begin(tile); at < tiles.end(tile); ++at) {
        const int64_t m = tiles.positions[size(at)];
        const int64_t table = (at - tiles.begin(tile)) / array_.inputs;
        const unsigned bit = 1U << (at - tiles.begin(tile)) % array_.inputs;
        for (int64_t plane = 0; plane < inputs_.bits.planes; ++plane) {
          fan_in_.for_each_spike(inputs_.bits.row(plane, m / positions), m % positions, group,
                                 [&](int64_t k) {
                                   Index& own = indices_of(tile - first, k, plane)[table];
                                   own = static_cast<Index>(own | bit);
                                 });
        }
      }
    }
  }

  template <typename Round>
  void run_block(Columns columns, const RowTiles& tiles, int64_t first, int64_t last,
                 int64_t k_begin, int64_t k_end, Lanes* accumulators, Round round) {
    Tables& tables = tables_of_thread_[this_thread()];
    std::vector<Lanes>& terms = terms_of_thread_[this_thread()];
    for (int64_t tile = first; tile < last; ++tile) {
      const int64_t count = tiles.end(tile) - tiles.begin(tile);
      for (int64_t at = 0; at < count; ++at) {
        const float* const gradients =
            grad_currents_ +
            tiles.positions[size(tiles.begin(tile) + at)] * geometry_.out_channels + columns.first;
        Lanes term;
        for (int64_t i = 0; i < columns.count; ++i) term.value[size(i)] = round(gradients[i]);
        terms[size(at)] = term;
      }
      tables.build(terms.data(), count, round);
      for (int64_t k = k_begin; k < k_end; ++k) {
        for (int64_t plane = 0; plane < inputs_.bits.planes; ++plane) {
          const Index* const index = indices_of(tile - first, k, plane);
          if (all_zero(index, array_.rows)) continue;
          add_scaled(accumulators[k], plane_weights_[size(plane)], tables.read(index));
        }
      }
    }
  }

  const Geometry& geometry_;
  const PlaneInputs& inputs_;
  const float* grad_currents_;
  UpdateArray array_;
  FanIn fan_in_;
  std::vector<float> plane_weights_;
  std::vector<Index> indices_;  ///< [tile][k][plane][table]
  std::vector<Tables> tables_of_thread_;
  std::vector<std::vector<Lanes>> terms_of_thread_;
};

void require_array_shape(const TableArray& array) {
  require_range("rows", array.rows, 1, 1024);
  require_range("inputs", array.inputs, 1, most_inputs);
}

}  // namespace

void hardware_forward(const Geometry& geometry, const PlaneInputs& inputs, const float* weight,
                      const float* bias, float* currents, Precision precision,
                      const TableArray& array) {
  require_inputs(geometry, inputs);
  require_array_shape(array);
  require_array("weight", weight, geometry.weights());
  require_finite("weight", weight, geometry.weights());
  require_finite("bias", bias, geometry.out_channels);
  require_array("currents", currents, inputs.bits.rows * geometry.out_features());
  if (inputs.bits.rows == 0) return;
  with_precision(precision, [&](auto round) {
    ForwardPass(geometry, inputs, array).run(weight, bias, currents, round);
  });
}

void hardware_backward(const Geometry& geometry, const float* grad_currents, std::int64_t images,
                       const float* weight, const std::uint64_t* mask, float* grad_inputs,
                       Precision precision) {
  geometry.validate();
  require_images("images", images);
  require_array("grad_currents", grad_currents, images * geometry.out_features());
  require_array("weight", weight, geometry.weights());
  require_finite("weight", weight, geometry.weights());
  require_array("grad_inputs", grad_inputs, images * geometry.in_features());
  with_precision(precision, [&](auto round) {
    run_backward(geometry, grad_currents, images, weight, mask, grad_inputs, round);
  });
}

void hardware_update(const Geometry& geometry, const PlaneInputs& inputs,
                     const float* grad_currents, std::int64_t timesteps, std::int64_t samples,
                     float* grad_weight, Precision precision, const UpdateArray& array) {
  require_inputs(geometry, inputs);
  require_array_shape(array);
  require_range("columns", array.columns, 1, 1024);
  require_range("parts", array.parts, 1, 1 << 16);
  const int64_t rows = inputs.bits.rows;
  if (timesteps < 0 || samples < 0 || timesteps * samples != rows) {
    throw std::invalid_argument("timesteps * samples must be the inputs' " + std::to_string(rows) +
                                " rows, got " + std::to_string(timesteps) + " * " +
                                std::to_string(samples));
  }
  const int64_t image_bytes = inputs.bits.planes * ceil_div(geometry.in_features(), 8);
  const int64_t most = array.spikes_bytes / 2 / image_bytes;
  if (most < 1) {
    throw std::invalid_argument("update.spikes_bytes = " + std::to_string(array.spikes_bytes) +
                                " is too small: the inputs of one image take " +
                                std::to_string(image_bytes) +
                                " bytes and must fit half of the buffer, so at least " +
                                std::to_string(2 * image_bytes) + " are needed");
  }
  require_array("grad_currents", grad_currents, rows * geometry.out_features());
  require_array("grad_weight", grad_weight, geometry.weights());
  const std::vector<std::vector<int64_t>> blocks =
      rows == 0 ? std::vector<std::vector<int64_t>>{}
                : blocks_of_images(timesteps, samples, array.parts, most);
  with_precision(precision, [&](auto round) {
    UpdatePass(geometry, inputs, grad_currents, array).run(blocks, grad_weight, round);
  });
}

}  // namespace h2learn::accelerator
