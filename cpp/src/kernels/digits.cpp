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
#include "scratch.hpp"

namespace h2learn {
namespace {

// ---- Packing

constexpr std::int64_t packed_chunk = 256;

/// One output's weights, to words[length / 4][16 columns][4] at its column.
void pack_column(const float* weight, std::int64_t fan_in, double scale, std::uint32_t offset,
                 const std::int32_t* places, std::uint32_t* words) {
  std::uint32_t numbers[packed_chunk];
  for (std::int64_t begin = 0; begin < fan_in; begin += packed_chunk) {
    const std::int64_t count = least(packed_chunk, fan_in - begin);
    for (std::int64_t i = 0; i < count; ++i) {
      numbers[i] = digits_word(weight[begin + i], scale, offset);
    }
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t place = places[begin + i];
      words[(place >> 2) * (4 * digits_panel_columns) + (place & 3)] = numbers[i];
    }
  }
}

// ---- The product

/// Windows of a task: many enough to use a panel often, few enough for their bytes to stay near.
constexpr std::int64_t most_task_windows = 512;
constexpr std::int64_t least_task_windows = 32;
constexpr std::int64_t most_task_bytes = 256 * 1024;
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

struct Task {
  std::int64_t group;
  std::int64_t first_image;
  std::int64_t images;
  std::int64_t first_row;
  std::int64_t rows;
  std::int64_t first_panel;
  std::int64_t panels;
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

Lines lines_of(const Windows& windows, std::int64_t images, std::int64_t rows,
               std::int64_t tile_rows) {
  const std::int64_t row_bytes = padded_row_bytes(windows);
  const std::int64_t image_bytes = padded_image_rows(windows, rows) * row_bytes;
  const std::int64_t step = windows.stride_width * windows.channels;
  const std::int64_t row_step = windows.stride_height * row_bytes;
  const std::int64_t width = windows.width;
  if (rows * width == 1) return {1, images, images, images, image_bytes, images, 0, 0};
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
  const std::int64_t image_bytes = padded_image_rows(windows, rows) * padded_row_bytes(windows);
  return images * image_bytes + tile_windows * lines.step + 2 * bytes_slack;
}

Cut cut(const DigitsProduct& product, std::int64_t threads) {
  const GatheredRows& rows = product.rows;
  const std::int64_t width = rows.windows.width;
  const std::int64_t height = rows.windows.height;
  const std::int64_t share = threads == 1
                                 ? most_task_windows
                                 : rows.images * rows.positions / (threads * tasks_per_thread);
  const std::int64_t wanted = least(most(share, least_task_windows), most_task_windows);
  Cut shape = {};
  shape.images = 1;
  shape.rows = height;
  if (wanted >= rows.positions) {
    const std::int64_t image_bytes =
        padded_image_rows(rows.windows, height) * padded_row_bytes(rows.windows);
    shape.images = most(least(wanted / rows.positions, most_task_bytes / image_bytes), 1);
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

template <int digits>
void finish_tile(const DigitsProduct& product, const Task& task, const Lines& lines,
                 const TilePlace& tile, std::int64_t panel, const std::int32_t* sums) {
  const std::int64_t all_columns = product.panels.groups * product.panels.columns;
  const std::int64_t in_group = panel * digits_panel_columns;
  const std::int64_t column = task.group * product.panels.columns + in_group;
  const std::int64_t columns = least(digits_panel_columns, product.panels.columns - in_group);
  const Windows& windows = product.rows.windows;
  const std::int64_t windows_of_line = task.images * task.rows * windows.width / lines.count;
  // The last panel's factors may end before its columns do.
  double factors[digits_panel_columns] = {};
  for (std::int64_t n = 0; n < columns; ++n) factors[n] = product.factors[column + n];
  const float* const bias = product.bias == nullptr ? nullptr : product.bias + column;
  const std::int64_t first_window = task.first_image * product.rows.positions +
                                    task.first_row * windows.width + tile.line * windows_of_line;
  std::int64_t window = first_window + tile.first / lines.unit * lines.valid;
  std::int64_t inside = tile.first % lines.unit;
  window += least(inside, lines.valid);
  for (std::int64_t r = 0; r < tile.count; ++r) {
    if (inside < lines.valid) {
      finish_window<digits>(sums + r * digits_panel_columns, factors, bias, columns,
                            product.out + window * all_columns + column);
      ++window;
    }
    if (++inside == lines.unit) inside = 0;
  }
}

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
  const std::int64_t image_bytes =
      padded_image_rows(windows, task.rows) * padded_row_bytes(windows);
  for (std::int64_t i = 0; i < task.images; ++i) {
    copy_image(product.rows, task.group, task.first_image + i, task.first_row, task.rows,
               bytes + i * image_bytes);
  }
  const std::int64_t line_tiles = blocks_of(lines.length, tile_windows);
  alignas(64) TileSums sums[2];
  for (std::int64_t p = task.first_panel; p < task.first_panel + task.panels; ++p) {
    const std::int8_t* const panel =
        product.panels.bytes +
        (task.group * product.panels.panels() + p) * product.panels.panel_bytes();
    const std::int64_t all_tiles = lines.count * line_tiles;
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
        sum_by_tiles(product, rows, count, panel, sums);
      } else
#endif
      {
        for (std::int64_t i = 0; i < count; ++i) {
          sum_tile_by_vectors(product, rows[i], panel, sums[i]);
        }
      }
      for (std::int64_t i = 0; i < count; ++i) {
        if (product.panels.digits == 3) {
          finish_tile<3>(product, task, lines, place[i], p, sums[i]);
        } else {
          finish_tile<4>(product, task, lines, place[i], p, sums[i]);
        }
      }
    }
  }
}

void pack(const DigitsPanels& to, std::int64_t fan_in, const float* weight, const double* scales,
          const std::int32_t* places) {
  const std::uint32_t offset = to.digits == 3 ? 0x00808080 : 0x80808080;
  const std::int64_t words = to.digit_bytes();
  const int threads = to.size() < digits_parallel_from ? 1 : omp_get_max_threads();
  auto* const memory = static_cast<std::uint32_t*>(scratch(
      ScratchSlot::operands, static_cast<std::size_t>(threads * words) * sizeof(std::uint32_t)));
#pragma omp parallel for schedule(static) num_threads(threads)
  for (std::int64_t p = 0; p < to.groups * to.panels(); ++p) {
    std::uint32_t* const mine = memory + omp_get_thread_num() * words;
    // Places that no weight takes are zeros, for the windows' bytes there may be anything.
    __builtin_memset(mine, 0, static_cast<std::size_t>(words) * sizeof(std::uint32_t));
    const std::int64_t first = p % to.panels() * digits_panel_columns;
    const std::int64_t columns = least(digits_panel_columns, to.columns - first);
    for (std::int64_t n = 0; n < columns; ++n) {
      const std::int64_t output = p / to.panels() * to.columns + first + n;
      pack_column(weight + output * fan_in, fan_in, scales[output], offset, places, mine + 4 * n);
    }
    std::int8_t* const panel = to.bytes + p * to.panel_bytes();
    for (int d = 0; d < to.digits; ++d) store_digit(mine, words, d, panel + d * words);
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
