// The forward and the backward product: rows gathered from the images times packed weights.
//
// A task is a block of rows times a chunk of columns of one group. Block after block of fan-in is
// gathered, prepared for the kernel that suits it, and multiplied with every panel, several blocks
// at a time where they are lists (KeptBlocks). Rows that are windows are not gathered where
// multiplying them in place pays, listing their inputs for all taps, or scattering their bits. The
// sums stay in the thread's own memory until they are finished.
#include "kernels/synapse_product.hpp"

#include "kernels/synapse_counts.hpp"
#include "kernels/synapse_depthwise.hpp"
#include "kernels/synapse_kept.hpp"
#include "kernels/synapse_panels.hpp"
#include "kernels/synapse_sampled.hpp"
#include "kernels/synapse_scatter.hpp"
#include "kernels/synapse_tables.hpp"
#include "kernels/synapse_taps.hpp"
#include "kernels/synapse_walk.hpp"
#include "kernels/synapse_window.hpp"
#include "kernels/synapse_workspace.hpp"
#include "scratch.hpp"

namespace h2learn {
namespace {

/// Rows of a task: enough to use a panel often once it is near, few enough for their lists and
/// their expanded bits to stay in the second-level cache.
constexpr std::int64_t task_rows = few_images;

/// Tasks a thread should find, so that it does not wait long for the others, as long as they
/// have rows enough to be worth it.
constexpr std::int64_t tasks_per_thread = 4;
constexpr std::int64_t least_task_rows = 32;

/// Columns of a task. Where it keeps its lists (KeptBlocks) there are more than the least, as long
/// as these have no more than near_weights: each task lists its rows anew.
constexpr std::int64_t least_task_columns = 16 * panel_columns;
constexpr std::int64_t most_task_columns = 8 * least_task_columns;

/// Rows of a task of Method::sampled: a block of its columns' weights is fetched for so many.
constexpr std::int64_t sampled_rows = 20 * dot_rows;

/// Weights that a cache may hold until the next rows need them.
constexpr std::int64_t near_weights = std::int64_t{1} << 19;

/// Blocks of bits gathered at a time.
constexpr std::int64_t gathered_blocks = 8;

/// How the rows of a product are shared out.
struct Cut {
  std::int64_t images;       ///< of a task, when it has whole images; else 1
  std::int64_t image_tasks;  ///< tasks of one image, when it has several; else 1
  std::int64_t image_rows;   ///< rows of an image that are not the last task's
  std::int64_t task_rows;    ///< at most
  std::int64_t row_tasks;
  std::int64_t task_columns;  ///< at most
  std::int64_t column_tasks;
  std::int64_t sums_stride;  ///< from one row of a task's sums to the next
};

struct ProductMemory {
  std::uint64_t* bits;  ///< [gathered_blocks][rows][block_words], or rows of one table tile
  float* values;        ///< [rows][sum_block]
  float* padded;        ///< [images][padded rows][padded row]
  float* block;         ///< the sums of one block: [rows][panel_columns], scattered, or
                        ///< [rows][sums_stride], of taps, where a block has several
  PreparedRows prepared;
  TableScratch tables;
  bool far;  ///< PreparedRows::far
  TapLists taps;
  NeededRows* needed;  ///< of each tile of dot_rows rows
  float* panels;       ///< of one block and the task's columns, where weights are read in place
  float* sums;         ///< [rows][sums_stride]
  float* plane_sums;   ///< the same, of one plane of several, where tables make them
};

/// Whether lists of several blocks are kept until all columns have been through them.
bool keeps_blocks(const GatherProduct& product) {
  return product.choice == Choice::gather && product.panels != nullptr &&
         (product.method == Method::event || product.method == Method::by_density);
}

/// Floats of the padded copies of a task's images.
std::int64_t padded_size(const Windows& windows, const Cut& shape) {
  const std::int64_t window_rows = shape.image_rows / windows.width;
  return shape.images * padded_rows(windows, window_rows) * padded_row(windows) + lanes;
}

ProductMemory carve(const GatherProduct& product, const Cut& shape, Carver& carver) {
  const std::int64_t rows = shape.task_rows;
  ProductMemory memory = {};
  memory.sums = carver.take<float>(rows * shape.sums_stride);
  memory.far = product.panels != nullptr && product.rows.length * product.columns > near_weights;
  if (product.method == Method::tables) {
    if (product.rows.planes > 1) memory.plane_sums = carver.take<float>(rows * shape.sums_stride);
    const std::int64_t tile =
        least(product.tables.inputs * product.tables.rows, product.rows.length);
    memory.bits = carver.take<std::uint64_t>(rows * blocks_of(tile, 64));
    memory.tables.index = carver.take<std::uint16_t>(rows * blocks_of(tile, product.tables.inputs));
    memory.tables.table =
        carver.take<float>((std::int64_t{1} << product.tables.inputs) * panel_columns);
    memory.tables.levels = carver.take<float>(max_tree_levels * rows * panel_columns);
    return memory;
  }
  if (product.method == Method::sampled) {
    memory.values = carver.take<float>(dot_rows * dot_block);
    memory.needed = carver.take<NeededRows>(blocks_of(rows, dot_rows));
    return memory;
  }
  if (product.choice == Choice::windows) {
    memory.padded = carver.take<float>(padded_size(product.rows.windows, shape));
  }
  if (product.choice == Choice::taps) {
    if (tap_chunk(product.rows.windows.channels) < sum_block) {
      memory.block = carver.take<float>(rows * shape.sums_stride);
    }
    memory.taps = carve_taps(carver, product.rows, shape.images,
                             shape.image_rows / product.rows.windows.width);
    return memory;
  }
  if (product.choice == Choice::scatter) memory.block = carver.take<float>(rows * panel_columns);
  if (product.panels == nullptr) {
    memory.panels = carver.take<float>((sum_block + 1) * shape.task_columns);
  }
  const std::int64_t kept = keeps_blocks(product) ? blocks_of(product.rows.length, sum_block) : 1;
  memory.prepared = carve_rows(carver, rows, is_bits(product.rows), product.method, kept);
  memory.prepared.far = memory.far;
  if (is_bits(product.rows)) {
    memory.bits = carver.take<std::uint64_t>(gathered_blocks * rows * block_words);
  } else {
    memory.values = carver.take<float>(rows * sum_block + lanes);
  }
  return memory;
}

/// What one task computes.
struct Task {
  std::int64_t first_row;
  std::int64_t rows;
  std::int64_t group;
  std::int64_t first_column;  ///< of the group
  std::int64_t columns;       ///< padded to whole vectors
  std::int64_t stride;        ///< Cut::sums_stride
};

/// The rows of windows of a task that has whole ones.
Band band_of(const GatherProduct& product, const Task& task) {
  const std::int64_t image_rows = product.rows.positions;
  const std::int64_t width = product.rows.windows.width;
  return {task.first_row / image_rows, blocks_of(task.rows, image_rows),
          task.first_row % image_rows / width, least(task.rows, image_rows) / width};
}

/// Rows of a task that are whole rows of windows, of one or several images.
void sum_windows(const GatherProduct& product, const PanelLayout& layout, const Task& task,
                 ProductMemory& memory, float* sums) {
  const Windows& windows = product.rows.windows;
  const auto [first_image, images, first, rows] = band_of(product, task);
  const std::int64_t row_floats = padded_row(windows);
  const std::int64_t image_floats = padded_rows(windows, rows) * row_floats;
  for (std::int64_t i = 0; i < images; ++i) {
    copy_padded(product.rows, task.group, first_image + i, first, rows,
                memory.padded + i * image_floats);
  }
  for (std::int64_t term = 0; term < product.rows.length; term += sum_block) {
    for (std::int64_t column = 0; column < task.columns; column += panel_columns) {
      const float* const panel =
          product.panels + layout.panel(task.group, term, task.first_column + column);
      for (std::int64_t r = 0; r < images * rows; ++r) {
        const float* const origin =
            memory.padded + r / rows * image_floats + r % rows * windows.stride_height * row_floats;
        float* const to = sums + r * windows.width * task.stride + column;
        visit_rounding(product.rounds_once, [&]<bool once>() {
          if (task.columns - column > lanes) {
            multiply_window_row<panel_vectors, once>(windows, term / sum_block, first + r % rows,
                                                     origin, panel, to, task.stride, term == 0);
          } else {
            multiply_window_row<1, once>(windows, term / sum_block, first + r % rows, origin, panel,
                                         to, task.stride, term == 0);
          }
        });
      }
    }
  }
}

template <bool weighted, bool once>
void sum_taps(const GatherProduct& product, const PanelLayout& layout, const Task& task,
              ProductMemory& memory, float* sums) {
  const Windows& windows = product.rows.windows;
  const Band band = band_of(product, task);
  list_band(product.rows, task.group, band, memory.taps);
  for (std::int64_t block = 0; block < product.rows.length; block += sum_block) {
    const std::int64_t depth = layout.depth(block);
    const float* const panels = product.panels + layout.panel(task.group, block, task.first_column);
    float* const parts = block == 0 || memory.block == nullptr ? sums : memory.block;
    for_each_tap(
        windows, block, product.rows.length, [&](const TapTerms& terms, std::int64_t begin) {
          if (!weighted) lead_to_zeros(memory.taps, terms.chunk, depth - begin);
          pass_tap(windows, band, terms, parts, sums, task.stride, task.columns);
          const std::int64_t groups =
              memory.taps.first_group[terms.chunk + 1] - memory.taps.first_group[terms.chunk];
          for (std::int64_t column = 0; column < task.columns; column += panel_columns) {
            const std::int64_t panel_width = least(panel_columns, task.columns - column);
            const std::int64_t floats = (depth + 1) * panel_width;
            const float* const panel = panels + column * (depth + 1);
            const Fetch fetch(panel + floats, memory.far ? floats * 4 : 0, groups);
            if (panel_width > lanes) {
              add_tap<panel_vectors, weighted, once>(memory.taps, terms, windows.width,
                                                     panel + begin * panel_width, fetch,
                                                     parts + column, sums + column, task.stride);
            } else {
              add_tap<1, weighted, once>(memory.taps, terms, windows.width,
                                         panel + begin * panel_width, fetch, parts + column,
                                         sums + column, task.stride);
            }
          }
        });
  }
}

template <int vectors, bool counts>
void scatter_panel(const GatherProduct& product, const PanelLayout& layout, const Task& task,
                   std::int64_t column, ProductMemory& memory, float* sums) {
  const std::int64_t image_rows = product.rows.positions;
  const std::int64_t width = product.rows.windows.width;
  const std::int64_t first = task.first_row % image_rows / width;
  const std::int64_t rows = least(task.rows, image_rows);
  for (std::int64_t done = 0; done < task.rows; done += rows) {
    const std::int64_t image = (task.first_row + done) / image_rows;
    float* const to = sums + done * task.stride + column;
    for (std::int64_t term = 0; term < product.rows.length; term += sum_block) {
      const std::int64_t end = term + layout.depth(term);
      const float* const panel =
          product.panels + layout.panel(task.group, term, task.first_column + column);
      if (term == 0) {
        scatter_weights<vectors, counts>(product.rows, image, first, rows / width, term, end, panel,
                                         to, task.stride);
      } else {
        constexpr std::int64_t block_stride = vectors * lanes;
        scatter_weights<vectors, counts>(product.rows, image, first, rows / width, term, end, panel,
                                         memory.block, block_stride);
        for (std::int64_t r = 0; r < rows; ++r) {
          add_row<vectors>(to + r * task.stride, memory.block + r * block_stride);
        }
      }
    }
  }
}

template <bool counts>
void scatter_windows(const GatherProduct& product, const PanelLayout& layout, const Task& task,
                     ProductMemory& memory, float* sums) {
  for (std::int64_t column = 0; column < task.columns; column += panel_columns) {
    if (task.columns - column > lanes) {
      scatter_panel<panel_vectors, counts>(product, layout, task, column, memory, sums);
    } else {
      scatter_panel<1, counts>(product, layout, task, column, memory, sums);
    }
  }
}

/// The panels of one block and the task's columns, from weights in torch's order.
void pack_in_place(const GatherProduct& product, const Task& task, std::int64_t term,
                   std::int64_t depth, float* panels) {
  const std::int64_t left = product.columns - task.first_column;
  if (product.transposed) {
    const std::int64_t row = product.columns;
    pack_rows(product.weight + term * row + task.first_column, row, depth, task.columns, left,
              panels);
    return;
  }
  const std::int64_t row = product.rows.length;
  for (std::int64_t column = 0; column < task.columns; column += lanes) {
    const std::int64_t panel = column / panel_columns * panel_columns;
    const std::int64_t width = least(panel_columns, task.columns - panel);
    float* const to = panels + panel * (depth + 1) + column - panel;
    store(to + depth * width, Floats{});
    transpose_columns(product.weight + (task.first_column + column) * row + term, row, depth,
                      left - column, width, to);
  }
}

/// The panels of the block that starts at `term`, from the task's first column.
const float* panels_of(const GatherProduct& product, const PanelLayout& layout, const Task& task,
                       std::int64_t term, ProductMemory& memory) {
  if (product.panels != nullptr) {
    return product.panels + layout.panel(task.group, term, task.first_column);
  }
  pack_in_place(product, task, term, layout.depth(term), memory.panels);
  return memory.panels;
}

void sum_bits(const GatherProduct& product, const PanelLayout& layout, const Task& task,
              ProductMemory& memory, float* sums) {
  KeptBlocks blocks(memory.prepared, product.method,
                    {sums, task.stride, task.columns, false, false});
  const std::int64_t length = product.rows.length;
  constexpr std::int64_t gathered = gathered_blocks * sum_block;
  for (std::int64_t begin = 0; begin < length; begin += gathered) {
    const std::int64_t end = least(begin + gathered, length);
    gather_bits(product.rows, 0, task.group, task.first_row, task.rows, begin, end, block_words,
                memory.bits);
    for (std::int64_t term = begin; term < end; term += sum_block) {
      const std::uint64_t* const bits =
          memory.bits + (term - begin) / sum_block * task.rows * block_words;
      blocks.add({bits, nullptr, task.rows, layout.depth(term)},
                 panels_of(product, layout, task, term, memory), product.panels != nullptr,
                 term == 0);
    }
  }
  blocks.multiply();
}

void sum_values(const GatherProduct& product, const PanelLayout& layout, const Task& task,
                ProductMemory& memory, float* sums) {
  KeptBlocks blocks(memory.prepared, product.method,
                    {sums, task.stride, task.columns, true, product.rounds_once});
  for (std::int64_t term = 0; term < product.rows.length; term += sum_block) {
    gather_values(product.rows, task.group, task.first_row, task.rows, term, memory.values);
    blocks.add({nullptr, memory.values, task.rows, layout.depth(term)},
               panels_of(product, layout, task, term, memory), product.panels != nullptr,
               term == 0);
  }
  blocks.multiply();
}

void sum_tables(const GatherProduct& product, const PanelLayout& layout, const Task& task,
                std::int64_t plane, ProductMemory& memory, float* sums) {
  const std::int64_t length = product.rows.length;
  const std::int64_t inputs = product.tables.inputs;
  const std::int64_t tile = inputs * product.tables.rows;
  for (std::int64_t i = 0; i < task.rows * task.stride; ++i) sums[i] = 0;
  for (std::int64_t begin = 0; begin < length; begin += tile) {
    const std::int64_t terms = least(tile, length - begin);
    const std::int64_t row_words = blocks_of(terms, 64);
    gather_bits(product.rows, plane, task.group, task.first_row, task.rows, begin, begin + terms,
                row_words, memory.bits);
    index_tables(memory.bits, task.rows, row_words, terms, inputs, memory.tables.index);
    for (std::int64_t column = 0; column < task.columns; column += panel_columns) {
      const std::int64_t first = task.first_column + column;
      const std::int64_t width = layout.panel_width(first);
      const Terms rows = {product.panels + layout.element(task.group, begin, first), width, width};
      if (width == panel_columns) {
        add_tables<panel_vectors>(rows, terms, inputs, task.rows, memory.tables, sums + column,
                                  task.stride);
      } else {
        add_tables<1>(rows, terms, inputs, task.rows, memory.tables, sums + column, task.stride);
      }
    }
  }
}

/// Of the sums only those that the mask needs are written.
void sum_sampled(const GatherProduct& product, const Task& task, ProductMemory& memory,
                 float* sums) {
  const GatheredRows& rows = product.rows;
  const std::int64_t columns = least(task.columns, product.columns - task.first_column);
  const std::int64_t all_columns = rows.groups * product.columns;
  const std::int64_t mask_words = blocks_of(rows.positions * all_columns, 64);
  const std::int64_t tiles = blocks_of(task.rows, dot_rows);
  for (std::int64_t tile = 0; tile < tiles; ++tile) {
    NeededRows& needed = memory.needed[tile];
    for (std::uint8_t& count : needed.counts) count = 0;
    const std::int64_t end = least((tile + 1) * dot_rows, task.rows);
    for (std::int64_t r = tile * dot_rows; r < end; ++r) {
      const std::int64_t row = task.first_row + r;
      const std::int64_t bit =
          row % rows.positions * all_columns + task.group * product.columns + task.first_column;
      list_needed(product.mask + row / rows.positions * mask_words, bit, columns,
                  r - tile * dot_rows, needed);
    }
    order_columns(columns, needed);
  }
  const std::int64_t blocks = blocks_of(rows.length, dot_block);
  for (std::int64_t block = 0; block < blocks; ++block) {
    const std::int64_t term = block * dot_block;
    const std::int64_t depth = least(dot_block, rows.length - term);
    const float* const weights =
        product.panels +
        ((task.group * blocks + block) * product.columns + task.first_column) * dot_block;
    for (std::int64_t tile = 0; tile < tiles; ++tile) {
      const std::int64_t first = tile * dot_rows;
      const std::int64_t count = least(dot_rows, task.rows - first);
      gather_values(rows, task.group, task.first_row + first, count, term, memory.values,
                    dot_block);
      for (std::int64_t r = 0; depth % dot_lanes != 0 && r < count; ++r) {
        float* const row = memory.values + r * dot_block;
        fill_zeros(row + depth, row + round_up(depth, dot_lanes));
      }
      add_needed(memory.needed[tile], weights, memory.values, depth, sums + first * task.stride,
                 task.stride, block == 0);
    }
  }
}

/// sums += 2^plane * plane_sums.
void add_plane(const Task& task, std::int64_t plane, const float* plane_sums, float* sums) {
  const Floats weight = broadcast(plane_weight(plane));
  for (std::int64_t r = 0; r < task.rows; ++r) {
    for (std::int64_t column = 0; column < task.columns; column += lanes) {
      const std::int64_t i = r * task.stride + column;
      store(sums + i, load(sums + i) + weight * load(plane_sums + i));
    }
  }
}

/// The engine reads single bits: counts come to it plane by plane.
void sum_by_tables(const GatherProduct& product, const PanelLayout& layout, const Task& task,
                   ProductMemory& memory) {
  sum_tables(product, layout, task, 0, memory, memory.sums);
  for (std::int64_t plane = 1; plane < product.rows.planes; ++plane) {
    sum_tables(product, layout, task, plane, memory, memory.plane_sums);
    add_plane(task, plane, memory.plane_sums, memory.sums);
  }
}

/// out = scale * sums + bias, where the mask has a bit.
template <bool has_bias, bool has_mask>
void finish_rows(const GatherProduct& product, const Task& task, const float* sums) {
  const std::int64_t all_columns = product.rows.groups * product.columns;
  const std::int64_t left = least(task.columns, product.columns - task.first_column);
  const std::int64_t first = task.group * product.columns + task.first_column;
  const std::int64_t image_bits = product.rows.positions * all_columns;
  const Floats scale = broadcast(product.scale);
  const float* const bias = has_bias ? product.bias + first : nullptr;
  std::int64_t bit = task.first_row % product.rows.positions * all_columns + first;
  const std::uint64_t* mask = nullptr;
  if (has_mask) {
    mask = product.mask + task.first_row / product.rows.positions * blocks_of(image_bits, 64);
  }
  float* out = product.out + task.first_row * all_columns + first;
  const auto value_at = [&](std::int64_t column, std::int64_t count) {
    Floats value = load(sums + column) * scale;
    if constexpr (has_bias) value += load_first(bias + column, count);
    if constexpr (has_mask) {
      const std::uint64_t needed = bits_at(mask, bit + column, count);
      value = select_bits(static_cast<std::uint32_t>(needed), value);
    }
    return value;
  };
  for (std::int64_t r = 0; r < task.rows; ++r) {
    std::int64_t column = 0;
    for (; column + lanes <= left; column += lanes) store(out + column, value_at(column, lanes));
    if (column < left) store_first(out + column, value_at(column, left - column), left - column);
    sums += task.stride;
    out += all_columns;
    if constexpr (has_mask) {
      bit += all_columns;
      if (bit >= image_bits) {
        bit -= image_bits;
        mask += blocks_of(image_bits, 64);
      }
    }
  }
}

void finish(const GatherProduct& product, const Task& task, const float* sums) {
  if (product.mask != nullptr) {
    finish_rows<false, true>(product, task, sums);
  } else if (product.bias != nullptr) {
    finish_rows<true, false>(product, task, sums);
  } else {
    finish_rows<false, false>(product, task, sums);
  }
}

void run_task(const GatherProduct& product, const PanelLayout& layout, const Task& task,
              ProductMemory& memory) {
  if (product.method == Method::sampled) {
    sum_sampled(product, task, memory, memory.sums);
  } else if (product.method == Method::tables) {
    sum_by_tables(product, layout, task, memory);
  } else if (product.choice == Choice::windows) {
    sum_windows(product, layout, task, memory, memory.sums);
  } else if (product.choice == Choice::taps && is_bits(product.rows)) {
    sum_taps<false, false>(product, layout, task, memory, memory.sums);
  } else if (product.choice == Choice::taps) {
    visit_rounding(product.rounds_once, [&]<bool once>() {
      sum_taps<true, once>(product, layout, task, memory, memory.sums);
    });
  } else if (product.choice == Choice::scatter && is_bits(product.rows)) {
    scatter_windows<false>(product, layout, task, memory, memory.sums);
  } else if (product.choice == Choice::scatter) {
    scatter_windows<true>(product, layout, task, memory, memory.sums);
  } else if (is_bits(product.rows)) {
    sum_bits(product, layout, task, memory, memory.sums);
  } else {
    sum_values(product, layout, task, memory, memory.sums);
  }
  finish(product, task, memory.sums);
}

/// Columns of a task that reads its weights in place: all rows are in one, so that each weight is
/// read once, and threads share the columns.
std::int64_t columns_in_place(std::int64_t padded, std::int64_t threads) {
  const std::int64_t share = blocks_of(padded, threads * tasks_per_thread);
  return least(least_task_columns, round_up(share, panel_columns));
}

/// Of one that keeps its lists.
std::int64_t columns_of_kept(std::int64_t padded, std::int64_t length) {
  const std::int64_t near =
      least(most(near_weights / length, least_task_columns), most_task_columns);
  return round_up(blocks_of(padded, blocks_of(padded, near)), panel_columns);
}

Cut cut(const GatherProduct& product, const PanelLayout& layout, std::int64_t threads) {
  const GatheredRows& rows = product.rows;
  const bool sampled = product.method == Method::sampled;
  const std::int64_t all_rows = rows.images * rows.positions;
  const std::int64_t most_rows = sampled ? sampled_rows : task_rows;
  Cut shape = {};
  shape.task_columns = sampled ? sampled_columns : least_task_columns;
  if (product.panels == nullptr) {
    shape.task_columns = columns_in_place(layout.padded(), threads);
  } else if (keeps_blocks(product)) {
    const std::int64_t tasks = blocks_of(all_rows, least_task_rows) * rows.groups;
    // Evenly, and not where rows alone are too few for all threads.
    if (threads == 1 || tasks >= threads * tasks_per_thread) {
      shape.task_columns = columns_of_kept(layout.padded(), rows.length);
    }
  }
  shape.column_tasks = blocks_of(layout.padded(), shape.task_columns);
  shape.sums_stride = least(layout.padded(), shape.task_columns) + stride_slack;
  // Tasks of columns are work to share, too.
  const std::int64_t share =
      threads == 1 ? most_rows : all_rows * shape.column_tasks / (threads * tasks_per_thread);
  const std::int64_t wanted =
      product.panels == nullptr ? most_rows : least(most(share, least_task_rows), most_rows);
  // Rows of windows stay whole; where there are none, an image's rows are cut anywhere.
  const std::int64_t unit = product.choice == Choice::gather ? 1 : rows.windows.width;
  shape.images = most(wanted / rows.positions, 1);
  shape.image_tasks =
      shape.images > 1 ? 1 : blocks_of(rows.positions, most(round_up(wanted, unit), unit));
  shape.image_rows = round_up(blocks_of(rows.positions, shape.image_tasks), unit);
  shape.task_rows = shape.images * shape.image_rows;
  shape.row_tasks = blocks_of(rows.images, shape.images) * shape.image_tasks;
  return shape;
}

Task task_of(const GatherProduct& product, const PanelLayout& layout, const Cut& shape,
             std::int64_t number) {
  const std::int64_t positions = product.rows.positions;
  // Tasks that follow one another read the same weights.
  const std::int64_t row_task = number % shape.row_tasks;
  const std::int64_t column = number / shape.row_tasks % shape.column_tasks * shape.task_columns;
  const std::int64_t image = row_task / shape.image_tasks * shape.images;
  const std::int64_t row = row_task % shape.image_tasks * shape.image_rows;
  const std::int64_t rows = shape.image_tasks > 1
                                ? least(shape.image_rows, positions - row)
                                : least(shape.images, product.rows.images - image) * positions;
  return {image * positions + row,
          rows,
          number / shape.column_tasks / shape.row_tasks,
          column,
          least(shape.task_columns, layout.padded() - column),
          shape.sums_stride};
}

}  // namespace

namespace H2LEARN_TARGET {

Choice choose_product(const GatheredRows& rows, std::int64_t columns, Method method) {
  if (is_depthwise(rows, columns, method)) return Choice::depthwise;
  if (can_walk(rows)) {
    const std::int64_t padded = round_up(columns, lanes);
    const std::int64_t of_task = rows.images <= task_rows ? columns_in_place(padded, 1)
                                                          : columns_of_kept(padded, rows.length);
    if (walk_pays(rows, least(of_task, padded) / lanes, method)) return Choice::walk;
  }
  const bool narrow = rows.windows.width <= narrow_windows;
  const bool taps = can_list_taps(rows, task_rows);
  return choose(rows, method, columns,
                {can_scatter(rows) ? &costs.next_output : nullptr,
                 taps ? tap_chunk(rows.windows.channels) : 0, narrow ? costs.narrow : 1});
}

bool reads_in_place(const GatherProduct& product) {
  const GatheredRows& rows = product.rows;
  if (is_depthwise(rows, product.columns, product.method) || product.choice == Choice::walk) {
    return true;
  }
  const Windows& windows = rows.windows;
  const bool one_tap =
      windows.runs != nullptr && windows.window_height == 1 && windows.window_width == 1;
  const bool packs_nothing_else =
      product.method != Method::tables && product.method != Method::sampled;
  return one_tap && packs_nothing_else && rows.groups == 1 && rows.positions == 1 &&
         rows.images <= task_rows;
}

void gather_product(const GatherProduct& product) {
  if (expands_counts(product.rows, product.method, product.choice)) {
    GatherProduct of_floats = product;
    of_floats.rows = expand_counts(product.rows);
    return gather_product(of_floats);
  }
  if (product.choice == Choice::depthwise) return gather_depthwise(product);
  const std::int64_t length = product.rows.length;
  const PanelLayout layout = {length, product.columns,
                              product.method == Method::tables ? length : sum_block};
  const int threads = threads_for(product.rows.images * product.rows.positions * product.columns *
                                  product.rows.groups * length);
  if (product.choice == Choice::walk) {
    return walk_product(product, threads, threads == 1 ? 1 : threads * tasks_per_thread);
  }
  const Cut shape = cut(product, layout, threads);
  Carver sizes(nullptr);
  carve(product, shape, sizes);
  char* const memory = static_cast<char*>(
      scratch(ScratchSlot::operands, static_cast<std::size_t>(threads) * sizes.used()));
#pragma omp parallel num_threads(threads)
  {
    Carver carver(memory + static_cast<std::size_t>(omp_get_thread_num()) * sizes.used());
    ProductMemory mine = carve(product, shape, carver);
#pragma omp for schedule(dynamic)
    for (std::int64_t t = 0; t < product.rows.groups * shape.row_tasks * shape.column_tasks; ++t) {
      run_task(product, layout, task_of(product, layout, shape, t), mine);
    }
  }
}

}  // namespace H2LEARN_TARGET
}  // namespace h2learn
