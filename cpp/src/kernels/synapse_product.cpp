// The forward and the backward product: rows gathered from the images times packed weights.
//
// A task is a block of rows times a chunk of columns of one group. For each plane, block after
// block of fan-in is gathered, prepared for the kernel that suits it, and multiplied with every
// panel while it is in cache; the sums stay in the thread's own memory until they are finished.
#include "kernels/synapse_product.hpp"

#include <omp.h>

#include "kernels/synapse_panels.hpp"
#include "kernels/synapse_tables.hpp"
#include "kernels/synapse_workspace.hpp"
#include "scratch.hpp"

namespace h2learn {
namespace {

/// Rows of a task: enough to use a panel often once it is near, few enough for their lists and
/// their expanded bits to stay in the second-level cache.
constexpr std::int64_t task_rows = tile_rows * (vector_bytes == 64 ? 8 : 18);

/// Columns of a task: their sums share that cache.
constexpr std::int64_t task_columns = 16 * panel_columns;

/// Blocks of bits gathered at a time.
constexpr std::int64_t gathered_blocks = 8;

struct ProductMemory {
  std::uint64_t* bits;  ///< [gathered_blocks][rows][block_words], or rows of one table tile
  float* values;        ///< [rows][sum_block]
  PreparedRows prepared;
  TableScratch tables;
  float* sums;          ///< [rows][task_columns]
  float* plane_sums;    ///< the same, of one plane of several
};

ProductMemory carve(const GatherProduct& product, std::int64_t rows, Carver& carver) {
  const bool floats = product.rows.values != nullptr;
  ProductMemory memory = {};
  memory.sums = carver.take<float>(rows * task_columns);
  if (product.rows.planes > 1) memory.plane_sums = carver.take<float>(rows * task_columns);
  if (product.method == Method::tables) {
    const std::int64_t tile = least(product.tables.inputs * product.tables.rows,
                                    product.rows.length);
    memory.bits = carver.take<std::uint64_t>(rows * blocks_of(tile, 64));
    memory.tables.index =
        carver.take<std::uint16_t>(rows * blocks_of(tile, product.tables.inputs));
    memory.tables.table = carver.take<float>((std::int64_t{1} << product.tables.inputs) *
                                             panel_columns);
    memory.tables.levels = carver.take<float>(max_tree_levels * rows * panel_columns);
    return memory;
  }
  memory.prepared = carve_rows(carver, rows, floats, product.method);
  if (floats) {
    memory.values = carver.take<float>(rows * sum_block);
  } else {
    memory.bits = carver.take<std::uint64_t>(gathered_blocks * rows * block_words);
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
};

void sum_bits(const GatherProduct& product, const PanelLayout& layout, const Task& task,
              std::int64_t plane, ProductMemory& memory, float* sums) {
  const std::int64_t length = product.rows.length;
  constexpr std::int64_t gathered = gathered_blocks * sum_block;
  for (std::int64_t begin = 0; begin < length; begin += gathered) {
    const std::int64_t end = least(begin + gathered, length);
    gather_bits(product.rows, plane, task.group, task.first_row, task.rows, begin, end,
                block_words, memory.bits);
    for (std::int64_t term = begin; term < end; term += sum_block) {
      const std::uint64_t* const bits =
          memory.bits + (term - begin) / sum_block * task.rows * block_words;
      prepare_rows({bits, nullptr, task.rows, layout.depth(term)}, product.method,
                   memory.prepared);
      add_block(memory.prepared, false,
                product.panels + layout.panel(task.group, term, task.first_column), task.columns,
                sums, task_columns, term == 0);
    }
  }
}

void sum_values(const GatherProduct& product, const PanelLayout& layout, const Task& task,
                ProductMemory& memory) {
  for (std::int64_t term = 0; term < product.rows.length; term += sum_block) {
    gather_values(product.rows, task.group, task.first_row, task.rows, term, memory.values);
    prepare_rows({nullptr, memory.values, task.rows, layout.depth(term)}, product.method,
                 memory.prepared);
    add_block(memory.prepared, true,
              product.panels + layout.panel(task.group, term, task.first_column), task.columns,
              memory.sums, task_columns, term == 0);
  }
}

void sum_tables(const GatherProduct& product, const PanelLayout& layout, const Task& task,
                std::int64_t plane, ProductMemory& memory, float* sums) {
  const std::int64_t length = product.rows.length;
  const std::int64_t inputs = product.tables.inputs;
  const std::int64_t tile = inputs * product.tables.rows;
  for (std::int64_t i = 0; i < task.rows * task_columns; ++i) sums[i] = 0;
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
                                  task_columns);
      } else {
        add_tables<1>(rows, terms, inputs, task.rows, memory.tables, sums + column, task_columns);
      }
    }
  }
}

void sum_plane(const GatherProduct& product, const PanelLayout& layout, const Task& task,
               std::int64_t plane, ProductMemory& memory, float* sums) {
  if (product.method == Method::tables) {
    sum_tables(product, layout, task, plane, memory, sums);
  } else {
    sum_bits(product, layout, task, plane, memory, sums);
  }
}

/// sums += 2^plane * plane_sums.
void add_plane(const Task& task, std::int64_t plane, const float* plane_sums, float* sums) {
  const Floats weight = broadcast(static_cast<float>(std::int64_t{1} << plane));
  for (std::int64_t r = 0; r < task.rows; ++r) {
    for (std::int64_t column = 0; column < task.columns; column += lanes) {
      const std::int64_t i = r * task_columns + column;
      store(sums + i, load(sums + i) + weight * load(plane_sums + i));
    }
  }
}

/// scale * sums + bias, where the mask has a bit.
void finish(const GatherProduct& product, const Task& task, const float* sums) {
  const std::int64_t all_columns = product.rows.groups * product.columns;
  const std::int64_t mask_words = blocks_of(product.rows.positions * all_columns, 64);
  const std::int64_t left = least(task.columns, product.columns - task.first_column);
  const std::int64_t first = task.group * product.columns + task.first_column;
  const Floats scale = broadcast(product.scale);
  for (std::int64_t r = 0; r < task.rows; ++r) {
    const std::int64_t row = task.first_row + r;
    const std::int64_t position = row % product.rows.positions;
    const std::uint64_t* const mask =
        product.mask == nullptr ? nullptr
                                : product.mask + row / product.rows.positions * mask_words;
    for (std::int64_t column = 0; column < left; column += lanes) {
      const std::int64_t count = least(lanes, left - column);
      Floats value = load(sums + r * task_columns + column) * scale;
      if (product.bias != nullptr) value += load_first(product.bias + first + column, count);
      if (mask != nullptr) {
        const std::uint64_t needed = bits_at(mask, position * all_columns + first + column, count);
        value = select(mask_of_bits(static_cast<std::uint32_t>(needed)), value, Floats{});
      }
      store_first(product.out + row * all_columns + first + column, value, count);
    }
  }
}

void run_task(const GatherProduct& product, const PanelLayout& layout, const Task& task,
              ProductMemory& memory) {
  if (product.rows.values != nullptr) {
    sum_values(product, layout, task, memory);
  } else {
    sum_plane(product, layout, task, 0, memory, memory.sums);
    for (std::int64_t plane = 1; plane < product.rows.planes; ++plane) {
      sum_plane(product, layout, task, plane, memory, memory.plane_sums);
      add_plane(task, plane, memory.plane_sums, memory.sums);
    }
  }
  finish(product, task, memory.sums);
}

}  // namespace

namespace H2LEARN_TARGET {

void gather_product(const GatherProduct& product) {
  const std::int64_t length = product.rows.length;
  const PanelLayout layout = {length, product.columns,
                              product.method == Method::tables ? length : sum_block};
  const std::int64_t all_rows = product.rows.images * product.rows.positions;
  const std::int64_t block_rows = least(task_rows, all_rows);
  const std::int64_t row_blocks = blocks_of(all_rows, block_rows);
  const std::int64_t column_chunks = blocks_of(layout.padded(), task_columns);
  const std::int64_t group_tasks = row_blocks * column_chunks;
  Carver sizes(nullptr);
  carve(product, block_rows, sizes);
  const int threads = omp_get_max_threads();
  char* const memory = static_cast<char*>(
      scratch(ScratchSlot::operands, static_cast<std::size_t>(threads) * sizes.used()));
#pragma omp parallel num_threads(threads)
  {
    Carver carver(memory + static_cast<std::size_t>(omp_get_thread_num()) * sizes.used());
    ProductMemory mine = carve(product, block_rows, carver);
#pragma omp for schedule(dynamic)
    for (std::int64_t t = 0; t < product.rows.groups * group_tasks; ++t) {
      const std::int64_t block = t % group_tasks / column_chunks;
      const std::int64_t column = t % column_chunks * task_columns;
      run_task(product, layout,
               {block * block_rows, least(block_rows, all_rows - block * block_rows),
                t / group_tasks, column, least(task_columns, layout.padded() - column)},
               mine);
    }
  }
}

}  // namespace H2LEARN_TARGET
}  // namespace h2learn
