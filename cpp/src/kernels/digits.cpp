// The forward product by digits: weights into panels of digits, images into bytes, integer sums of
// tiles, and the currents that they make.
//
// A task is some rows of windows, or whole images, times panels of one group. Its part of the
// images is copied once as padded bytes; tiles of 16 neighbouring windows read it in place, panel
// after panel, so that a panel is used for the whole task while it is in cache.
#include "kernels/digits.hpp"

#include <omp.h>

#include "kernels/digits_amx.hpp"
#include "kernels/digits_bytes.hpp"
#include "kernels/digits_outer.hpp"
#include "kernels/digits_pack.hpp"
#include "kernels/digits_tile.hpp"
#include "kernels/streaming.hpp"
#include "kernels/transpose.hpp"
#include "scratch.hpp"

namespace h2learn {
namespace {

// ---- Packing

/// The weights of up to `lanes` outputs, as words [place][columns of a panel] at their columns.
H2LEARN_INLINE void place_words(const float* weight, std::int64_t fan_in, const double* scales,
                                std::int64_t outputs, const std::int32_t* places,
                                std::int32_t* words) {
  for (std::int64_t begin = 0; begin < fan_in; begin += lanes) {
    const std::int64_t count = least(lanes, fan_in - begin);
    Floats rows[lanes] = {};
    for (std::int64_t n = 0; n < outputs; ++n) {
      const Floats weights = load_first(weight + n * fan_in + begin, count);
      rows[n] = reinterpret_cast<Floats>(digits_words(weights, scales[n]));
    }
    transpose(rows);
    for (std::int64_t i = 0; i < count; ++i) {
      store(reinterpret_cast<float*>(words + places[begin + i] * digits_panel_columns), rows[i]);
    }
  }
}

/// Words of a panel to its planes of digits.
H2LEARN_INLINE void store_digits(const DigitsPanels& to, const std::int32_t* words,
                                 std::int8_t* panel) {
  for (std::int64_t place = 0; place < to.length; place += 4) {
    const std::int32_t* const four = words + place * digits_panel_columns;
    for (std::int64_t column = 0; column < digits_panel_columns; column += lanes) {
      Ints of_digit[4];
      for (int i = 0; i < 4; ++i) {
        of_digit[i] =
            *reinterpret_cast<const UnalignedInts*>(four + i * digits_panel_columns + column);
      }
      exchange_bytes(of_digit);
      std::int8_t* const plane = panel + place * digits_panel_columns + 4 * column;
      for (int d = 0; d < number_digits; ++d) {
        *reinterpret_cast<UnalignedInts*>(plane + d * to.digit_bytes()) = of_digit[d];
      }
    }
  }
}

// ---- The product

/// Windows of a task: many enough to use a panel often, few enough for their bytes to stay in the
/// second-level cache.
constexpr std::int64_t most_task_windows = 512;
constexpr std::int64_t least_task_windows = 32;
constexpr std::int64_t most_task_bytes = 1024 * 1024;
constexpr std::int64_t tasks_per_thread = 4;

/// How windows and panels are shared out: whole images, or rows of windows of one image.
struct Cut {
  std::int64_t images;       ///< of a task
  std::int64_t rows;         ///< of windows, of each of a task's images
  std::int64_t image_tasks;  ///< tasks of one image, when it has several; else 1
  std::int64_t row_tasks;
  std::int64_t panels;  ///< of a task
  std::int64_t panel_tasks;
};

/// A task's windows as lines in which they lie a constant step apart. A line may run on through
/// what is no window (from the end of a row to the next one's start) when that fills tiles better:
/// element v of a line is a window where v % unit < valid.
struct Lines {
  std::int64_t count;
  std::int64_t length;
  std::int64_t unit;
  std::int64_t valid;
  std::int64_t step;       ///< bytes from one element to the next
  std::int64_t per_image;  ///< lines of one image
  std::int64_t line_bytes;
  std::int64_t image_bytes;
};

/// From one image of a task to the next: whole lines of the cache, since tiles load the windows of
/// linear layers a third more slowly where they begin between two.
std::int64_t task_image_bytes(const Windows& windows, std::int64_t rows) {
  constexpr std::int64_t cache_line = 64;
  return round_up(padded_image_rows(windows, rows) * padded_row_bytes(windows), cache_line);
}

Lines lines_of(const Windows& windows, std::int64_t images, std::int64_t rows,
               std::int64_t tile_rows) {
  const std::int64_t row_bytes = padded_row_bytes(windows);
  const std::int64_t image_bytes = task_image_bytes(windows, rows);
  const std::int64_t step = windows.stride_width * windows.channels;
  const std::int64_t row_step = windows.stride_height * row_bytes;
  const std::int64_t width = windows.width;
  // One window alone has none beside it: tiles read it in all their rows.
  const std::int64_t image_step = images > 1 ? image_bytes : 0;
  if (rows * width == 1) return {1, images, images, images, image_step, images, 0, 0};
  if (width == 1) return {images, rows, rows, rows, row_step, 1, 0, image_bytes};
  if (row_step % step == 0) {
    const std::int64_t unit = row_step / step;
    const std::int64_t length = (rows - 1) * unit + width;
    if (round_up(length, tile_rows) < rows * round_up(width, tile_rows)) {
      return {images, length, unit, width, step, 1, 0, image_bytes};
    }
  }
  return {images * rows, width, width, width, step, rows, row_step, image_bytes};
}

/// Bytes of a task's images, with what tiles and copies may read or write behind them.
std::int64_t task_bytes(const Windows& windows, std::int64_t images, std::int64_t rows) {
  const Lines lines = lines_of(windows, images, rows, tile_windows);
  return images * task_image_bytes(windows, rows) + tile_windows * lines.step + 2 * bytes_slack;
}

Cut cut(const DigitsProduct& product, std::int64_t threads) {
  const GatheredRows& rows = product.rows;
  const std::int64_t width = rows.windows.width;
  const std::int64_t height = rows.windows.height;
  // Threads share panels rather than windows where panels come from beyond the second-level cache.
  const std::int64_t row_parts = product.panels.size() > most_task_bytes ? 1 : tasks_per_thread;
  const std::int64_t share =
      threads == 1 ? most_task_windows : rows.images * rows.positions / (threads * row_parts);
  const std::int64_t wanted = least(most(share, least_task_windows), most_task_windows);
  Cut shape = {};
  shape.images = 1;
  shape.rows = height;
  if (wanted >= rows.positions) {
    const std::int64_t image_bytes = task_image_bytes(rows.windows, height);
    const std::int64_t most_images =
        most(least(wanted / rows.positions, most_task_bytes / image_bytes), 1);
    // Tasks of nearly one size, and a linear layer's of whole pairs of tiles.
    const std::int64_t even = blocks_of(rows.images, blocks_of(rows.images, most_images));
    shape.images = rows.positions == 1 ? round_up(even, 2 * tile_windows) : even;
  } else {
    shape.rows = blocks_of(height, blocks_of(height, most(wanted / width, 1)));
  }
  shape.image_tasks = blocks_of(height, shape.rows);
  shape.row_tasks = blocks_of(rows.images, shape.images) * shape.image_tasks;
  const std::int64_t panels = product.panels.panels();
  const std::int64_t tasks = rows.groups * shape.row_tasks;
  const std::int64_t parts = threads == 1 ? 1 : blocks_of(threads * tasks_per_thread, tasks);
  shape.panels = blocks_of(panels, least(parts, panels));
  shape.panel_tasks = blocks_of(panels, shape.panels);
  return shape;
}

Task task_of(const DigitsProduct& product, const Cut& shape, std::int64_t number) {
  const std::int64_t panel = number % shape.panel_tasks * shape.panels;
  const std::int64_t row_task = number / shape.panel_tasks % shape.row_tasks;
  const std::int64_t image = row_task / shape.image_tasks * shape.images;
  const std::int64_t row = row_task % shape.image_tasks * shape.rows;
  return {number / shape.panel_tasks / shape.row_tasks,         image,
          least(shape.images, product.rows.images - image),     row,
          least(shape.rows, product.rows.windows.height - row), panel,
          least(shape.panels, product.panels.panels() - panel)};
}

/// Where a tile's windows go, and how many they are.
struct TilePlace {
  std::int64_t line;
  std::int64_t first;  ///< element of the line
  std::int64_t count;
};

/// A panel's columns of the currents.
struct PanelColumns {
  std::int64_t first;
  std::int64_t count;
  bool has_bias;
  // The last panel's may end before its columns do.
  float bias[digits_panel_columns];
  double factors[digits_panel_columns];
};

PanelColumns columns_of(const DigitsProduct& product, std::int64_t group, std::int64_t panel) {
  const std::int64_t in_group = panel * digits_panel_columns;
  PanelColumns columns = {};
  columns.first = group * product.panels.columns + in_group;
  columns.count = least(digits_panel_columns, product.panels.columns - in_group);
  columns.has_bias = product.bias != nullptr;
  for (std::int64_t n = 0; n < columns.count; ++n) {
    columns.factors[n] = product.factors[columns.first + n];
    if (columns.has_bias) columns.bias[n] = product.bias[columns.first + n];
  }
  return columns;
}

constexpr int half_lanes = lanes / 2;
typedef float HalfFloats __attribute__((vector_size(vector_bytes / 2)));
typedef std::int32_t UnalignedHalfInts
    __attribute__((vector_size(vector_bytes / 2), aligned(4), may_alias));
typedef double Doubles __attribute__((vector_size(vector_bytes)));
typedef double UnalignedDoubles __attribute__((vector_size(vector_bytes), aligned(8), may_alias));

/// Half a vector of integers, converted while they are loaded: it takes no shuffle. (GCC makes two
/// halves of __builtin_convertvector.)
H2LEARN_INLINE Doubles load_doubles(const std::int32_t* from) {
#if defined(__AVX512F__)
  // The mask of all lanes is for GCC, whose plain conversion begins with an uninitialised vector.
  const __m256i integers = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return _mm512_maskz_cvtepi32_pd(0xff, integers);
#else
  return __builtin_convertvector(*reinterpret_cast<const UnalignedHalfInts*>(from), Doubles);
#endif
}

H2LEARN_INLINE Floats join(HalfFloats low, HalfFloats high) {
#if defined(__AVX512F__)
  return _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
#else
  Floats both;
  __builtin_memcpy(&both, &low, sizeof low);
  __builtin_memcpy(reinterpret_cast<char*>(&both) + sizeof low, &high, sizeof high);
  return both;
#endif
}

/// Sums of half a vector of columns, digit by digit, to currents without bias.
H2LEARN_INLINE HalfFloats currents_of(const std::int32_t* sums, const double* factors) {
  const auto sum = [&](int d) { return load_doubles(sums + d * tile_sums); };
  // Each half is exact in a double's 53 bits, and so is 2^16 times one: only their sum is
  // rounded, to what an exact sum would be rounded to.
  const Doubles low = sum(0) + 256.0 * sum(1);
  const Doubles high = sum(2) + 256.0 * sum(3);
  const Doubles currents =
      (low + 65536.0 * high) * *reinterpret_cast<const UnalignedDoubles*>(factors);
  return __builtin_convertvector(currents, HalfFloats);
}

/// Sums of one window to the currents of one panel's columns.
H2LEARN_INLINE void finish_window(const std::int32_t* sums, const PanelColumns& columns,
                                  bool streaming, float* out) {
  for (int n = 0; n < digits_panel_columns; n += lanes) {
    if (n >= columns.count) break;
    Floats currents = join(currents_of(sums + n, columns.factors + n),
                           currents_of(sums + n + half_lanes, columns.factors + n + half_lanes));
    if (columns.has_bias) currents += load(columns.bias + n);
    if (streaming) {
      put(out + n, currents, true);
    } else {
      store_first(out + n, currents, columns.count - n);
    }
  }
}

/// Whether currents go past the caches. They are written a panel's columns at a time, which are too
/// few for a processor to see that it need not read the line. A thread's part of a fused layer
/// (fused_forward.cpp) is read again at once, and stays.
bool streams(const DigitsProduct& product) {
  constexpr std::int64_t from_floats = std::int64_t{1} << 21;  // such a part, for each thread
  const std::int64_t row = product.panels.groups * product.panels.columns;
  return product.rows.images * product.rows.positions * row > from_floats * omp_get_max_threads() &&
         product.panels.columns % digits_panel_columns == 0 && aligned_for_streaming(product.out);
}

/// Makes currents of a pair of tiles' sums, some windows at a time: AMX's tiles multiply on their
/// own, and what vectors do between its steps costs nothing.
class Finish {
 public:
  Finish(const DigitsProduct& product, const Task& task, const Lines& lines)
      : row_(product.panels.groups * product.panels.columns),
        out_(product.out + (task.first_image * product.rows.positions +
                            task.first_row * product.rows.windows.width) *
                               row_),
        streaming_(streams(product)),
        lines_(lines),
        windows_of_line_(task.images * task.rows * product.rows.windows.width / lines.count) {}

  /// Nothing of the tiles before may be left.
  H2LEARN_INLINE void begin(const PanelColumns& columns, const TilePlace* tiles, std::int64_t count,
                            const TileSums* sums) {
    columns_ = columns;
    for (std::int64_t i = 0; i < count; ++i) tiles_[i] = tiles[i];
    all_sums_ = sums;
    count_ = count;
    tile_ = 0;
    enter();
  }

  /// The next `rows` rows of the tiles, or all that are left.
  H2LEARN_INLINE void advance(std::int64_t rows) {
    for (; rows > 0 && tile_ < count_; --rows) {
      if (inside_ < lines_.valid) {
        finish_window(sums_, columns_, streaming_, to_);
        to_ += row_;
      }
      if (++inside_ == lines_.unit) inside_ = 0;
      sums_ += digits_panel_columns;
      if (sums_ == end_) {
        ++tile_;
        enter();
      }
    }
  }

  H2LEARN_INLINE void rest() { advance(2 * tile_windows); }

 private:
  H2LEARN_INLINE void enter() {
    if (tile_ == count_) return;
    const TilePlace& tile = tiles_[tile_];
    inside_ = tile.first % lines_.unit;
    const std::int64_t window = tile.line * windows_of_line_ +
                                tile.first / lines_.unit * lines_.valid +
                                least(inside_, lines_.valid);
    to_ = out_ + window * row_ + columns_.first;
    sums_ = all_sums_[tile_];
    end_ = sums_ + tile.count * digits_panel_columns;
  }

  std::int64_t row_;  ///< floats of the currents of a window
  float* out_;        ///< of the task's first window
  bool streaming_;
  Lines lines_;
  std::int64_t windows_of_line_;
  PanelColumns columns_ = {};
  TilePlace tiles_[2] = {};
  const TileSums* all_sums_ = nullptr;
  std::int64_t count_ = 0;
  std::int64_t tile_ = 0;
  std::int64_t inside_ = 0;
  const std::int32_t* sums_ = nullptr;
  const std::int32_t* end_ = nullptr;
  float* to_ = nullptr;
};

/// Whether windows are packed for AMX's tiles of 64 bytes; where they are not, vectors do it.
bool by_tiles(const DigitsProduct& product) {
#if defined(__AMX_INT8__)
  return product.run_length % tile_bytes == 0;
#else
  (void)product;
  return false;
#endif
}

void run_task(const DigitsProduct& product, const Task& task, std::uint8_t* bytes) {
  const Windows& windows = product.rows.windows;
  const bool tiles = by_tiles(product);
  const Lines lines =
      lines_of(windows, task.images, task.rows, tiles ? tile_windows : register_rows);
  const std::int64_t image_bytes = task_image_bytes(windows, task.rows);
  for (std::int64_t i = 0; i < task.images; ++i) {
    copy_image(product.rows, task.group, task.first_image + i, task.first_row, task.rows,
               bytes + i * image_bytes);
  }
  const std::int64_t line_tiles = blocks_of(lines.length, tile_windows);
  const std::int64_t all_tiles = lines.count * line_tiles;
  // Sums of one pair are finished while those of the next are made.
  alignas(64) TileSums sums[2][2];
  bool odd = false;
  Finish finish(product, task, lines);
  for (std::int64_t p = task.first_panel; p < task.first_panel + task.panels; ++p) {
    const std::int8_t* const panel =
        product.panels.bytes +
        (task.group * product.panels.panels() + p) * product.panels.panel_bytes();
    const PanelColumns columns = columns_of(product, task.group, p);
    for (std::int64_t t = 0; t < all_tiles; t += 2) {
      const std::int64_t count = least(2, all_tiles - t);
      TilePlace place[2];
      TileRows rows[2];
      for (std::int64_t i = 0; i < count; ++i) {
        const std::int64_t line = (t + i) / line_tiles;
        const std::int64_t first = (t + i) % line_tiles * tile_windows;
        place[i] = {line, first, least(tile_windows, lines.length - first)};
        rows[i] = {bytes + line / lines.per_image * lines.image_bytes +
                       line % lines.per_image * lines.line_bytes + first * lines.step,
                   lines.step, place[i].count};
      }
#if defined(__AMX_INT8__)
      if (tiles) {
        const std::int64_t steps = product.panels.length / tile_bytes * count;
        const std::int64_t at_once = blocks_of(2 * tile_windows, steps);
        sum_by_tiles(product, rows, count, panel, odd, sums[odd], [&] { finish.advance(at_once); });
        finish.rest();
      } else
#endif
      {
        finish.rest();
        for (std::int64_t i = 0; i < count; ++i) {
          sum_tile_by_vectors(product, rows[i], panel, sums[odd][i]);
        }
      }
      finish.begin(columns, place, count, sums[odd]);
      odd = !odd;
    }
  }
  finish.rest();
}

void pack(const DigitsPanels& to, std::int64_t fan_in, const float* weight, const double* scales,
          const std::int32_t* places) {
  const std::int64_t words = to.digit_bytes();
  const int threads = to.size() < digits_parallel_from ? 1 : omp_get_max_threads();
  auto* const memory = static_cast<std::int32_t*>(scratch(
      ScratchSlot::operands, static_cast<std::size_t>(threads * words) * sizeof(std::int32_t)));
#pragma omp parallel num_threads(threads)
  {
    std::int32_t* const mine = memory + omp_get_thread_num() * words;
    // Places that no weight takes are zeros, for the windows' bytes there may be anything.
    if (to.length > fan_in) {
      __builtin_memset(mine, 0, static_cast<std::size_t>(words) * sizeof(std::int32_t));
    }
#pragma omp for schedule(static)
    for (std::int64_t p = 0; p < to.groups * to.panels(); ++p) {
      const std::int64_t first = p % to.panels() * digits_panel_columns;
      const std::int64_t columns = least(digits_panel_columns, to.columns - first);
      for (std::int64_t column = 0; column < digits_panel_columns; column += lanes) {
        const std::int64_t output = p / to.panels() * to.columns + first + column;
        place_words(weight + output * fan_in, fan_in, scales + output,
                    least(lanes, columns - column), places, mine + column);
      }
      store_digits(to, mine, to.bytes + p * to.panel_bytes());
    }
  }
}

void product(const DigitsProduct& product) {
  const GatheredRows& rows = product.rows;
  const std::int64_t work =
      rows.images * rows.positions * rows.groups * product.panels.columns * product.panels.length;
  const int threads = work < digits_parallel_from ? 1 : omp_get_max_threads();
  const Cut shape = cut(product, threads);
  const auto bytes = round_up(task_bytes(rows.windows, shape.images, shape.rows), 64);
  auto* const memory = static_cast<std::uint8_t*>(
      scratch(ScratchSlot::operands, static_cast<std::size_t>(threads * bytes)));
#pragma omp parallel num_threads(threads)
  {
    std::uint8_t* const mine = memory + omp_get_thread_num() * bytes;
#if defined(__AMX_INT8__)
    if (by_tiles(product)) configure_tiles();
#endif
#pragma omp for schedule(dynamic)
    for (std::int64_t t = 0; t < rows.groups * shape.row_tasks * shape.panel_tasks; ++t) {
      run_task(product, task_of(product, shape, t), mine);
      finish_streaming();
    }
#if defined(__AMX_INT8__)
    if (by_tiles(product)) release_tiles();
#endif
  }
}

}  // namespace

namespace H2LEARN_TARGET {

#if defined(__AMX_INT8__)
constexpr std::int64_t run_step = tile_bytes;
#else
constexpr std::int64_t run_step = 4;
#endif

extern const DigitsKernels digits_kernels = {
    run_step, pack, product, measure_outer, add_outer, finish_outer, &backward_kernels};

}  // namespace H2LEARN_TARGET
}  // namespace h2learn
