// The weight update: the transpose of the gathered rows times the gradients, in the order of
// summation.hpp.
//
// A task is one stretch of positions, a chunk of fan-in and a chunk of columns. Block after block
// of positions is gathered and transposed, so that a row holds one input's bits at `sum_block`
// positions, and multiplied with panels of the block's gradients, several blocks at a time where
// rows are lists (KeptBlocks); or, where multiplying densely pays and the rows are windows, these
// are multiplied in place. Stretches are summed apart, so a layer with few weights is shared out by
// stretches and one with many by weights; the sums of the stretches are then added in order. Where
// several tasks read the same gradients, these are made into panels once, before the tasks begin.
#include "kernels/synapse_outer.hpp"

#include "kernels/synapse_counts.hpp"
#include "kernels/synapse_depthwise.hpp"
#include "kernels/synapse_kept.hpp"
#include "kernels/synapse_outer_rows.hpp"
#include "kernels/synapse_outer_windows.hpp"
#include "kernels/synapse_pack.hpp"
#include "kernels/synapse_scatter.hpp"
#include "kernels/synapse_tables.hpp"
#include "kernels/synapse_workspace.hpp"
#include "scratch.hpp"
#include "summation.hpp"

namespace h2learn {
namespace {

/// Fan-in and columns of a task at most: their sums (256 x 512 floats on AVX-512) fill half of
/// the second-level cache. Where blocks are kept (KeptBlocks), of the sums only a panel's need be
/// near, and what is listed is used by more panels.
constexpr std::int64_t task_terms = sum_block;
constexpr std::int64_t task_columns = 16 * panel_columns;
constexpr std::int64_t kept_task_columns = 2 * task_columns;

/// Columns whose rows of sums, where they lie a power of two apart, begin at so few places that it
/// matters (stride_slack).
constexpr std::int64_t many_columns = 128;

/// Tasks a thread should find, so that it does not wait long for the others.
constexpr std::int64_t tasks_per_thread = 4;

/// How a product is cut. Sums are [group][fan-in][stride].
struct Cut {
  std::int64_t positions;  ///< of all images
  std::int64_t stretches;
  std::int64_t terms;  ///< fan-in of a task, a multiple of 64
  std::int64_t term_chunks;
  std::int64_t columns;  ///< of a task, a multiple of panel_columns
  std::int64_t column_chunks;
  std::int64_t padded;    ///< columns of a group, whole vectors
  std::int64_t sums;      ///< floats of all sums
  std::int64_t stride;    ///< floats from one row of sums to the next
  bool finished_by_task;  ///< a task's sums are final, and its own memory holds them
  bool shares_panels;     ///< gradients are packed once for all tasks, not by each

  std::int64_t tasks(const OuterProduct& product) const {
    return product.rows.groups * term_chunks * column_chunks;
  }
};

/// False where kernels read gradients as they are: tables, and rows of all positions that are a
/// panel's already (but lists need the panel's row of zeros).
bool packs_gradients(const OuterProduct& product) {
  if (product.method == Method::tables) return false;
  const bool is_panel =
      product.rows.groups == 1 && (product.columns == lanes || product.columns == panel_columns);
  return product.choice == Choice::gather || !is_panel;
}

Cut cut(const OuterProduct& product, std::int64_t threads) {
  const GatheredRows& rows = product.rows;
  const std::int64_t length = rows.length;
  Cut result = {};
  result.positions = rows.images * rows.positions;
  result.padded = round_up(product.columns, lanes);
  // The table engine's accumulator runs through all positions.
  result.stretches =
      product.method == Method::tables ? 1 : blocks_of(result.positions, stretch_positions);
  const bool bits = is_bits(rows) || product.method == Method::tables;
  // Wide tasks where blocks are kept, unless that leaves threads without work.
  const std::int64_t wide_tasks = rows.groups * blocks_of(length, task_terms) * result.stretches *
                                  blocks_of(result.padded, kept_task_columns);
  const bool keeps = product.choice == Choice::gather && length > task_terms &&
                     (product.method == Method::event || product.method == Method::by_density) &&
                     (threads == 1 || is_bits(rows) || wide_tasks >= threads * tasks_per_thread);
  result.column_chunks = blocks_of(result.padded, keeps ? kept_task_columns : task_columns);
  result.columns = round_up(blocks_of(result.padded, result.column_chunks), panel_columns);
  // Where stretches and columns leave threads without work, fan-in is cut finer; but scattering
  // visits all of it at once.
  const std::int64_t others = rows.groups * result.column_chunks * result.stretches;
  const std::int64_t wanted = threads == 1 ? 1 : blocks_of(threads * tasks_per_thread, others);
  const std::int64_t chunks =
      least(most(blocks_of(length, task_terms), wanted), blocks_of(length, 64));
  const bool whole = product.choice == Choice::scatter;
  result.terms = round_up(whole ? length : blocks_of(length, chunks), 64);
  if (!bits && !whole) result.terms = task_terms;
  result.term_chunks = blocks_of(length, result.terms);
  result.finished_by_task = result.stretches == 1 && product.taps == 1;
  result.shares_panels = result.term_chunks > 1 && packs_gradients(product);
  const std::int64_t width = result.finished_by_task ? result.columns : result.padded;
  result.stride = width < many_columns ? width : width + stride_slack;
  result.sums = rows.groups * length * result.stride;
  return result;
}

/// What one task computes.
struct Task {
  std::int64_t first_position;
  std::int64_t positions;
  std::int64_t group;
  std::int64_t first_term;
  std::int64_t terms;
  std::int64_t first_column;
  std::int64_t columns;  ///< padded to whole vectors
};

/// The gradients of the stretches that are worked on at a time, as panels: terms are positions.
struct GradientPanels {
  PanelLayout layout;
  std::int64_t first_position;
  float* panels;  ///< null where each task packs its own, or reads gradients as they are
};

struct OuterMemory {
  BlockWindows windows;
  float* scattered;  ///< [fan-in][panel_columns] of one block
  TransposedRows transposed;
  PreparedRows prepared;
  float* panel;  ///< [sum_block + 1][panel_columns] gradients
  TableScratch tables;
  float* sums;        ///< [terms][stride], where a task finishes its sums
  float* plane_sums;  ///< the same, of one plane of several, where tables make them
};

/// Planes that are summed apart: the table engine reads single bits.
std::int64_t summed_planes(const OuterProduct& product) {
  return product.method == Method::tables ? product.rows.planes : 1;
}

OuterMemory carve(const OuterProduct& product, const Cut& shape, Carver& carver) {
  OuterMemory memory = {};
  if (shape.finished_by_task) {
    memory.sums = carver.take<float>(shape.terms * shape.stride);
    if (summed_planes(product) > 1) {
      memory.plane_sums = carver.take<float>(shape.terms * shape.stride);
    }
  }
  if (product.method == Method::tables) {
    const std::int64_t tile = least(product.tables.inputs * product.tables.rows, shape.positions);
    memory.transposed = carve_transposed(carver, true, shape.terms, tile);
    memory.tables.index =
        carver.take<std::uint16_t>(shape.terms * blocks_of(tile, product.tables.inputs));
    memory.tables.table =
        carver.take<float>((std::int64_t{1} << product.tables.inputs) * panel_columns);
    memory.tables.levels = carver.take<float>(max_tree_levels * shape.terms * panel_columns);
    return memory;
  }
  switch (product.choice) {
    case Choice::windows:
      memory.windows = carve_windows(carver, product.rows);
      break;
    case Choice::scatter:
      memory.scattered = carver.take<float>(product.rows.length * panel_columns);
      break;
    case Choice::taps:  // of products only
    case Choice::walk:
    case Choice::depthwise:
      break;  // has memory of its own
    case Choice::gather:
      const bool bits = is_bits(product.rows);
      memory.transposed = carve_transposed(carver, bits, shape.terms, sum_block);
      const std::int64_t kept =
          shape.shares_panels ? blocks_of(least(stretch_positions, shape.positions), sum_block) : 1;
      memory.prepared = carve_rows(carver, shape.terms, bits, product.method, kept);
      memory.prepared.far = shape.shares_panels;
      break;
  }
  memory.panel = carver.take<float>((sum_block + 1) * panel_columns);
  return memory;
}

/// Copies `columns` of the gradients of `depth` positions and appends the row of zeros. Fetches
/// the next ones: each position's may lie on a page of its own, where no processor fetches ahead by
/// itself.
template <int vectors>
void pack_gradients(const float* from, std::int64_t stride, std::int64_t depth,
                    std::int64_t columns, float* panel) {
  for (std::int64_t m = 0; m < depth; ++m) {
    H2LEARN_UNROLL
    for (int v = 0; v < vectors; ++v) {
      const std::int64_t left = columns - v * lanes;
      __builtin_prefetch(from + m * stride + (vectors + v) * lanes, 0, 2);
      store(panel + (m * vectors + v) * lanes,
            left > 0 ? load_first(from + m * stride + v * lanes, left) : Floats{});
    }
  }
  H2LEARN_UNROLL
  for (int v = 0; v < vectors; ++v) store(panel + (depth * vectors + v) * lanes, Floats{});
}

/// Fetches the next block's gradients, of all columns (layers whose spikes are scattered have few):
/// spikes will read them in an order that no processor foresees.
void fetch_gradients(const OuterProduct& product, const Task& task, std::int64_t position) {
  constexpr std::int64_t line_floats = 16;
  const std::int64_t stride = product.rows.groups * product.columns;
  const std::int64_t end =
      least(position + sum_block, task.first_position + task.positions) * stride;
  for (std::int64_t i = position * stride; i < end; i += line_floats) {
    __builtin_prefetch(product.gradients + i, 0, 2);
  }
}

/// The task's terms at one block of positions, from `position`.
BlockRows transpose_block(const OuterProduct& product, const Task& task, std::int64_t position,
                          std::int64_t depth, OuterMemory& memory) {
  if (is_bits(product.rows)) {
    transpose_bits(product.rows, 0, task.group, position, depth, task.first_term,
                   task.first_term + task.terms, block_words, memory.transposed);
  } else {
    transpose_values(product.rows, task.group, position, depth, task.first_term, memory.transposed);
  }
  return {memory.transposed.bits, memory.transposed.values, task.terms, depth};
}

/// One block of positions, from `position`, in the form that the chosen kernel reads.
void prepare_block(const OuterProduct& product, const Task& task, std::int64_t position,
                   std::int64_t depth, OuterMemory& memory) {
  if (product.choice == Choice::scatter) {
    fetch_gradients(product, task, position + depth);
  } else if (product.choice == Choice::windows) {
    copy_windows(product.rows, task.group, position, depth, memory.windows);
  } else {
    prepare_rows(transpose_block(product, task, position, depth, memory), product.method,
                 task.columns / lanes, memory.prepared);
  }
}

/// One block's panel of gradients from the task's column `column` on.
template <int vectors>
const float* panel_of(const OuterProduct& product, const Task& task, std::int64_t position,
                      std::int64_t depth, std::int64_t column, const GradientPanels& shared,
                      OuterMemory& memory) {
  const std::int64_t first = task.first_column + column;
  if (shared.panels != nullptr) {
    return shared.panels + shared.layout.panel(task.group, position - shared.first_position, first);
  }
  const std::int64_t stride = product.rows.groups * product.columns;
  const float* const gradients =
      product.gradients + position * stride + task.group * product.columns + first;
  if (!packs_gradients(product)) return gradients;
  pack_gradients<vectors>(gradients, stride, depth, product.columns - first, memory.panel);
  return memory.panel;
}

/// Adds one block times a panel of its gradients.
template <int vectors>
void add_gradients(const OuterProduct& product, const Cut& shape, const Task& task,
                   std::int64_t position, std::int64_t depth, std::int64_t column,
                   const float* gradients, OuterMemory& memory, float* sums) {
  const bool first = position == task.first_position;
  if (product.choice == Choice::scatter && is_bits(product.rows)) {
    scatter_gradients<vectors, false>(product.rows, position, depth, gradients, memory.scattered,
                                      sums + column, shape.stride, first);
  } else if (product.choice == Choice::scatter) {
    scatter_gradients<vectors, true>(product.rows, position, depth, gradients, memory.scattered,
                                     sums + column, shape.stride, first);
  } else {
    visit_rounding(product.rounds_once, [&]<bool once>() {
      if (product.choice == Choice::windows) {
        add_windows<vectors, once>(product.rows.windows, memory.windows, task.first_term,
                                   task.terms, gradients, sums + column, shape.stride, first);
      } else {
        add_panel<vectors, once>(memory.prepared, !is_bits(product.rows), gradients, {},
                                 sums + column, shape.stride, first);
      }
    });
  }
}

/// The same, by blocks that are kept: their panels are there already.
void sum_kept(const OuterProduct& product, const Cut& shape, const Task& task,
              const GradientPanels& shared, OuterMemory& memory, float* sums) {
  KeptBlocks blocks(
      memory.prepared, product.method,
      {sums, shape.stride, task.columns, !is_bits(product.rows), product.rounds_once});
  const std::int64_t end = task.first_position + task.positions;
  for (std::int64_t position = task.first_position; position < end; position += sum_block) {
    const BlockRows rows =
        transpose_block(product, task, position, least(sum_block, end - position), memory);
    blocks.add(rows,
               shared.panels + shared.layout.panel(task.group, position - shared.first_position,
                                                   task.first_column),
               true, position == task.first_position);
  }
  blocks.multiply();
}

/// sums[terms][stride] = the sums of one task, from `sums` of its first term and column.
void sum_stretch(const OuterProduct& product, const Cut& shape, const Task& task,
                 const GradientPanels& shared, OuterMemory& memory, float* sums) {
  if (product.choice == Choice::gather && shared.panels != nullptr) {
    return sum_kept(product, shape, task, shared, memory, sums);
  }
  const std::int64_t end = task.first_position + task.positions;
  for (std::int64_t position = task.first_position; position < end; position += sum_block) {
    const std::int64_t depth = least(sum_block, end - position);
    prepare_block(product, task, position, depth, memory);
    const auto add = [&]<int vectors>(std::int64_t column) {
      const float* const panel =
          panel_of<vectors>(product, task, position, depth, column, shared, memory);
      add_gradients<vectors>(product, shape, task, position, depth, column, panel, memory, sums);
    };
    for (std::int64_t column = 0; column < task.columns; column += panel_columns) {
      if (task.columns - column > lanes) {
        add.template operator()<panel_vectors>(column);
      } else {
        add.template operator()<1>(column);
      }
    }
  }
}

/// The same by the table engine.
void sum_tables(const OuterProduct& product, const Cut& shape, const Task& task, std::int64_t plane,
                OuterMemory& memory, float* sums) {
  const std::int64_t stride = product.rows.groups * product.columns;
  const std::int64_t inputs = product.tables.inputs;
  const std::int64_t tile = inputs * product.tables.rows;
  for (std::int64_t k = 0; k < task.terms; ++k) {
    for (std::int64_t n = 0; n < task.columns; ++n) sums[k * shape.stride + n] = 0;
  }
  for (std::int64_t done = 0; done < task.positions; done += tile) {
    const std::int64_t positions = least(tile, task.positions - done);
    const std::int64_t row_words = blocks_of(positions, 64);
    transpose_bits(product.rows, plane, task.group, done, positions, task.first_term,
                   task.first_term + task.terms, row_words, memory.transposed);
    index_tables(memory.transposed.bits, task.terms, row_words, positions, inputs,
                 memory.tables.index);
    for (std::int64_t column = 0; column < task.columns; column += panel_columns) {
      const std::int64_t first = task.first_column + column;
      const float* const gradients =
          product.gradients + done * stride + task.group * product.columns + first;
      const Terms rows = {gradients, stride, product.columns - first};
      if (task.columns - column > lanes) {
        add_tables<panel_vectors>(rows, positions, inputs, task.terms, memory.tables, sums + column,
                                  shape.stride);
      } else {
        add_tables<1>(rows, positions, inputs, task.terms, memory.tables, sums + column,
                      shape.stride);
      }
    }
  }
}

Task task_of(const OuterProduct& product, const Cut& shape, std::int64_t stretch,
             std::int64_t number) {
  // Tasks that follow one another read the same gradients.
  const std::int64_t term = number % shape.term_chunks * shape.terms;
  const std::int64_t column = number / shape.term_chunks % shape.column_chunks * shape.columns;
  const std::int64_t position = product.method == Method::tables ? 0 : stretch * stretch_positions;
  const std::int64_t positions = product.method == Method::tables
                                     ? shape.positions
                                     : least(stretch_positions, shape.positions - position);
  return {position,
          positions,
          number / shape.column_chunks / shape.term_chunks,
          term,
          least(shape.terms, product.rows.length - term),
          column,
          least(shape.columns, shape.padded - column)};
}

void sum_task(const OuterProduct& product, const Cut& shape, const Task& task, std::int64_t plane,
              const GradientPanels& shared, OuterMemory& memory, float* sums) {
  if (product.method == Method::tables) {
    sum_tables(product, shape, task, plane, memory, sums);
  } else {
    sum_stretch(product, shape, task, shared, memory, sums);
  }
}

/// Packs the gradients of the positions from shared.first_position on. Called by every thread of a
/// team.
void pack_panels(const OuterProduct& product, const GradientPanels& shared) {
  if (shared.panels == nullptr) return;
  const PanelLayout& layout = shared.layout;
  const std::int64_t stride = product.rows.groups * product.columns;
  const std::int64_t blocks = blocks_of(layout.length, sum_block);
#pragma omp for schedule(static)
  for (std::int64_t b = 0; b < product.rows.groups * blocks; ++b) {
    const std::int64_t group = b / blocks;
    const std::int64_t term = b % blocks * sum_block;
    pack_rows(product.gradients + (shared.first_position + term) * stride + group * product.columns,
              stride, layout.depth(term), layout.padded(), product.columns,
              shared.panels + layout.panel(group, term, 0));
  }
}

/// Everything that one task computes, to grad_weight. Called by every thread of a team.
void finish_by_task(const OuterProduct& product, const Cut& shape, const GradientPanels& shared,
                    OuterMemory& memory) {
  const std::int64_t length = product.rows.length;
  pack_panels(product, shared);
#pragma omp for schedule(dynamic)
  for (std::int64_t t = 0; t < shape.tasks(product); ++t) {
    const Task task = task_of(product, shape, 0, t);
    sum_task(product, shape, task, 0, shared, memory, memory.sums);
    for (std::int64_t plane = 1; plane < summed_planes(product); ++plane) {
      sum_task(product, shape, task, plane, shared, memory, memory.plane_sums);
      const Floats weight = broadcast(plane_weight(plane));
      for (std::int64_t k = 0; k < task.terms; ++k) {
        for (std::int64_t n = k * shape.stride; n < k * shape.stride + task.columns; n += lanes) {
          store(memory.sums + n, load(memory.sums + n) + weight * load(memory.plane_sums + n));
        }
      }
    }
    H2LEARN_TARGET::unpack_task(
        memory.sums, shape.stride, task.terms,
        least(task.columns, product.columns - task.first_column), product.scale,
        product.grad_weight + (task.group * product.columns + task.first_column) * length +
            task.first_term,
        length);
  }
}

/// total = or += each of `count` sums in turn.
void add_stretches(const float* sums, std::int64_t count, std::int64_t size, bool first,
                   float* total) {
#pragma omp for schedule(static)
  for (std::int64_t i = 0; i < size; i += lanes) {
    Floats sum = first ? load(sums + i) : load(total + i) + load(sums + i);
    for (std::int64_t s = 1; s < count; ++s) sum += load(sums + s * size + i);
    store(total + i, sum);
  }
}

/// total = the sums of one of summed_planes(). `wave` holds the sums of as many stretches as are
/// worked on at a time; with one stretch it is `total` itself. Called by every thread of a team.
void sum_plane(const OuterProduct& product, const Cut& shape, std::int64_t plane,
               std::int64_t wave_stretches, GradientPanels shared, OuterMemory& memory, float* wave,
               float* total) {
  const std::int64_t tasks = shape.tasks(product);
  for (std::int64_t begin = 0; begin < shape.stretches; begin += wave_stretches) {
    const std::int64_t count = least(wave_stretches, shape.stretches - begin);
    shared.first_position = begin * stretch_positions;
    shared.layout.length =
        least(count * stretch_positions, shape.positions - shared.first_position);
    pack_panels(product, shared);
#pragma omp for schedule(dynamic)
    for (std::int64_t t = 0; t < count * tasks; ++t) {
      const Task task = task_of(product, shape, begin + t / tasks, t % tasks);
      float* const sums = wave + t / tasks * shape.sums +
                          (task.group * product.rows.length + task.first_term) * shape.stride +
                          task.first_column;
      sum_task(product, shape, task, plane, shared, memory, sums);
    }
    if (wave != total) add_stretches(wave, count, shape.sums, begin == 0, total);
  }
}

/// sums += 2^plane * plane_sums; called by every thread of a team.
void add_plane(std::int64_t plane, const float* plane_sums, std::int64_t size, float* sums) {
  const Floats weight = broadcast(plane_weight(plane));
#pragma omp for schedule(static)
  for (std::int64_t i = 0; i < size; i += lanes) {
    store(sums + i, load(sums + i) + weight * load(plane_sums + i));
  }
}

}  // namespace

namespace H2LEARN_TARGET {

Choice choose_outer(const GatheredRows& rows, std::int64_t columns, Method method) {
  if (is_depthwise(rows, columns, method)) return Choice::depthwise;
  // Windows at neighbouring positions lie a whole pixel apart: each panel of gradients passes over
  // all that its block of positions reads, which may be more than stays near.
  const Windows& windows = rows.windows;
  const std::int64_t height = least(windows.height, blocks_of(sum_block, windows.width));
  const std::int64_t images = most(sum_block / rows.positions, 1);
  const std::int64_t read = images * padded_rows(windows, height) * padded_row(windows) /
                            windows.channels * least(windows.channels, task_terms);
  const auto mebibytes = static_cast<float>(read) / (1 << 18);
  return choose(rows, method, columns,
                {can_scatter(rows) ? &costs.next_weight : nullptr, 0, 1 + costs.far * mebibytes});
}

void outer_product(const OuterProduct& product) {
  if (expands_counts(product.rows, product.method, product.choice)) {
    OuterProduct of_floats = product;
    of_floats.rows = expand_counts(product.rows);
    return outer_product(of_floats);
  }
  if (product.choice == Choice::depthwise) return outer_depthwise(product);
  const int threads = threads_for(product.rows.images * product.rows.positions * product.columns *
                                  product.rows.groups * product.rows.length);
  const Cut shape = cut(product, threads);
  const std::int64_t planes = summed_planes(product);
  const std::int64_t wave =
      least(shape.stretches, blocks_of(threads * tasks_per_thread, shape.tasks(product)));
  Carver sizes(nullptr);
  carve(product, shape, sizes);
  char* const memory = static_cast<char*>(
      scratch(ScratchSlot::operands, static_cast<std::size_t>(threads) * sizes.used()));
  const PanelLayout layout = {least(wave * stretch_positions, shape.positions), product.columns,
                              sum_block};
  GradientPanels shared = {layout, 0, nullptr};
  if (shape.shares_panels) {
    const std::int64_t floats = product.rows.groups * layout.group_floats();
    shared.panels = static_cast<float*>(
        scratch(ScratchSlot::weights, static_cast<std::size_t>(floats) * sizeof(float)));
  }
  if (shape.finished_by_task) {
#pragma omp parallel num_threads(threads)
    {
      Carver carver(memory + static_cast<std::size_t>(omp_get_thread_num()) * sizes.used());
      OuterMemory mine = carve(product, shape, carver);
      finish_by_task(product, shape, shared, mine);
    }
    return;
  }
  const std::int64_t buffers = 1 + (planes > 1 ? 1 : 0) + (shape.stretches > 1 ? wave : 0);
  float* const sums = static_cast<float*>(
      scratch(ScratchSlot::output, static_cast<std::size_t>(buffers * shape.sums) * sizeof(float)));
  float* const plane_sums = planes > 1 ? sums + shape.sums : sums;
  float* const wave_sums = plane_sums + shape.sums;
#pragma omp parallel num_threads(threads)
  {
    Carver carver(memory + static_cast<std::size_t>(omp_get_thread_num()) * sizes.used());
    OuterMemory mine = carve(product, shape, carver);
    for (std::int64_t plane = 0; plane < planes; ++plane) {
      float* const total = plane == 0 ? sums : plane_sums;
      sum_plane(product, shape, plane, wave, shared, mine, shape.stretches > 1 ? wave_sums : total,
                total);
      if (plane > 0) add_plane(plane, plane_sums, shape.sums, sums);
    }
  }
  const WeightShape weights = {product.rows.groups, product.columns,
                               product.rows.length / product.taps, product.taps};
  unpack_gradient(weights, sums, shape.stride, product.scale, product.grad_weight);
}

}  // namespace H2LEARN_TARGET
}  // namespace h2learn
