#include "accelerator/clocked_units.hpp"

#include <algorithm>
#include <bit>
#include <tuple>

namespace h2learn::accelerator::clocked {
namespace {

using std::int64_t;

int64_t entries_of(const TableEngine& engine) { return int64_t{1} << engine.inputs; }

/// Levels of a tree that adds so many operands in pairs.
int64_t tree_levels(int64_t operands) {
  int64_t levels = 0;
  for (; operands > 1; operands = ceil_div(operands, 2)) ++levels;
  return levels;
}

constexpr int64_t read_and_accumulate_cycles = 2;

/// Cycles between places of the stream: each engine's ports must pass what a place needs.
int64_t stream_interval(const TableEngine& engine, int64_t columns, int64_t bits) {
  const int64_t psum_cycles = ceil_div(columns, engine.psum_banks);
  const int64_t spike_cycles = ceil_div(bits, engine.spikes_banks * spike_bank_bits);
  const int64_t ports = std::max({int64_t{1}, psum_cycles, spike_cycles});
  return engine.tables ? ports : ports * engine.inputs;
}

}  // namespace

// DRAM

void DramChannel::issue(Job& job, int64_t tile, bool store) {
  const int64_t bytes = store ? job.tile.store_bytes : job.tile.load_bytes;
  const int64_t bursts = ceil_div(bytes, dram_.burst_bytes);
  issued_.push_back({&job, tile, store, dram_.latency_cycles, bursts * dram_.burst_bytes});
  Counters& counters = result_.layers[static_cast<std::size_t>(job.tile.layer)]
                                     [static_cast<std::size_t>(job.tile.pass)];
  ++(store ? counters.stores : counters.loads);
  (store ? counters.store_bytes : counters.load_bytes) += bytes;
  (store ? counters.store_bursts : counters.load_bursts) += bursts;
}

void DramChannel::accept() {
  const auto order = [](const Transfer& transfer) {
    return std::tuple(engine_of(transfer.job->pass()), transfer.store, transfer.tile);
  };
  std::sort(issued_.begin(), issued_.end(),
            [&](const Transfer& a, const Transfer& b) { return order(a) < order(b); });
  queue_.insert(queue_.end(), issued_.begin(), issued_.end());
  issued_.clear();
}

bool DramChannel::tick(int64_t now) {
  if (queue_.empty()) return false;
  Transfer& first = queue_.front();
  bool completed = false;
  if (first.latency_left == 0) {
    ++result_.dram_busy_cycles;
    first.bytes_left -= dram_.bytes_per_cycle;
    if (first.bytes_left <= 0) {
      Job& job = *first.job;
      (first.store ? job.stored : job.loaded) = true;
      if (!first.store) job.tile.load_done = now + 1;
      completed = true;
      queue_.pop_front();
    }
  }
  for (Transfer& transfer : queue_) {
    if (transfer.latency_left > 0) --transfer.latency_left;
  }
  return completed;
}

// Tables

bool TableBuilder::start(const Job& job, int64_t bank, int64_t operands, int64_t& operand_reads,
                         Counters& counters) {
  if (operands == 0) return false;
  job_ = &job;
  counters_ = &counters;
  operand_reads_ = &operand_reads;
  bank_ = bank;
  operands_left_ = operands * job.columns.count;
  pes_ = ceil_div(operands, engine_.inputs) * job.columns.count;
  next_entry_ = 1;
  entries_ = engine_.tables ? entries_of(engine_) : 0;
  if (engine_.tables) counters.table_builds += pes_;
  if (numbers_) {
    if (engine_.tables) {
      numbers_->write_entry(job, bank, 0);
    } else {
      numbers_->write_operands(job, bank);
    }
  }
  return true;
}

bool TableBuilder::tick() {
  const int64_t fetched = std::min(operands_left_, banks_);
  *operand_reads_ += fetched;
  operands_left_ -= fetched;
  if (next_entry_ < entries_) write_entry();
  return operands_left_ == 0 && next_entry_ >= entries_;
}

void TableBuilder::write_entry() {
  counters_->table_writes += pes_;
  // An entry of one bit is a copy; another one adds its lowest bit's operand to an earlier entry.
  if (std::popcount(static_cast<std::uint64_t>(next_entry_)) > 1) counters_->additions += pes_;
  if (numbers_) numbers_->write_entry(*job_, bank_, next_entry_);
  ++next_entry_;
}

TableArray::TableArray(const TableEngine& engine, int64_t operand_banks, Numbers* numbers)
    : engine_(engine), numbers_(numbers), builder_(engine, operand_banks, numbers) {
  tree_.resize(tree_levels(engine.rows) + read_and_accumulate_cycles);
}

void TableArray::start(const Job& job, int64_t bank, Counters& counters) {
  job_ = &job;
  counters_ = &counters;
  bank_ = bank;
  places_ = begin_stream();
  interval_ = stream_interval(engine_, job.columns.count, operands());
  wait_ = 0;
  streaming_ = places_ > 0;
  at_ = {};
}

bool TableArray::tick() {
  if (streaming_) step_stream();
  tree_.tick([this](const Token& token) { accumulate(token); });
  return !streaming_ && tree_.empty();
}

void TableArray::step_stream() {
  if (wait_ == 0) {
    bits_.clear();
    read_bits(at_);
    read_tables();
    wait_ = interval_;
  }
  if (--wait_ > 0) return;
  tree_.enter(at_);
  if (++at_.place < places_) return;
  at_.place = 0;
  streaming_ = ++at_.plane < job_->layer->planes;
}

void TableArray::read_tables() {
  const int64_t columns = job_->columns.count;
  counters_->spike_read_bits += operands();
  counters_->operations_offered += operands() * columns;
  for (const Range& table : pieces(operands(), engine_.inputs)) {
    int64_t set_bits = 0;
    for (int64_t i = table.first; i < table.end(); ++i) {
      set_bits += bits_[static_cast<std::size_t>(i)];
    }
    if (!engine_.tables) {
      counters_->additions += set_bits * columns;
    } else if (set_bits == 0) {
      counters_->table_reads_skipped += columns;
    } else {
      counters_->table_reads += columns;
      counters_->additions += columns;
    }
  }
  if (numbers_) at_.sums = numbers_->tree_sums(*job_, bank_, bits_);
}

// Forward engine

bool ForwardArray::start_build(const Job& job, int64_t bank, Counters& counters) {
  return builder_.start(job, bank, job.rows.count, counters.weight_reads, counters);
}

int64_t ForwardArray::begin_stream() {
  const Layer& layer = *job_->layer;
  operands_.clear();
  for (int64_t k = job_->rows.first; k < job_->rows.end(); ++k) {
    operands_.push_back({k / layer.group_inputs, k % layer.group_inputs});
  }
  return job_->block->images() * job_->block->units.count;
}

void ForwardArray::read_bits(const Token& at) {
  const Layer& layer = *job_->layer;
  const Block& block = *job_->block;
  const int64_t image = block.rows[static_cast<std::size_t>(at.place / block.units.count)];
  const int64_t position = block.units.first + at.place % block.units.count;
  const std::uint64_t* row = layer.input_row(at.plane, image);
  const std::int32_t* inputs = layer.input_of_output.data() + position * layer.taps;
  int64_t set_bits = 0;
  for (const Operand& operand : operands_) {
    const int64_t from = inputs[operand.tap];
    const bool set = from >= 0 && bit(row, layer.in_feature(from, job_->group, operand.channel));
    bits_.push_back(set ? 1 : 0);
    set_bits += set ? 1 : 0;
  }
  counters_->operations_needed += set_bits * job_->columns.count;
}

void ForwardArray::accumulate(const Token& token) {
  const bool starts = job_->first_row && token.plane == 0;
  if (!starts) counters_->psum_reads += job_->columns.count;
  counters_->psum_writes += job_->columns.count;
  if (numbers_) numbers_->accumulate_forward(*job_, token.place, token.plane, token.sums);
}

// Weight-update engine

bool UpdateArray::start_build(const Job& job, int64_t bank, Counters& counters) {
  const auto sites = static_cast<int64_t>(job.sites.size());
  counters.gradient_writes += sites * job.columns.count;
  return builder_.start(job, bank, sites, counters.gradient_reads, counters);
}

int64_t UpdateArray::begin_stream() {
  const Layer& layer = *job_->layer;
  const int64_t skipped = job_->left_out * layer.planes * job_->rows.count * job_->columns.count;
  counters_->operations_offered += skipped;
  counters_->skipped_by_gradient += skipped;
  nonzero_.clear();
  for (const Site& site : job_->sites) {
    nonzero_.push_back(count_bits(
        layer.nonzero_row(site.row),
        {layer.out_feature(site.position, job_->group, job_->columns.first), job_->columns.count}));
  }
  return job_->sites.empty() ? 0 : job_->rows.count;
}

void UpdateArray::read_bits(const Token& at) {
  const Layer& layer = *job_->layer;
  const int64_t k = job_->rows.first + at.place;
  const int64_t tap = k / layer.group_inputs;
  const int64_t channel = k % layer.group_inputs;
  for (std::size_t i = 0; i < job_->sites.size(); ++i) {
    const Site& site = job_->sites[i];
    const int64_t from =
        layer.input_of_output[static_cast<std::size_t>(site.position * layer.taps + tap)];
    const bool set = from >= 0 && bit(layer.input_row(at.plane, site.row),
                                      layer.in_feature(from, job_->group, channel));
    bits_.push_back(set ? 1 : 0);
    if (set) counters_->operations_needed += nonzero_[i];
  }
}

void UpdateArray::accumulate(const Token& token) {
  const bool starts = job_->fresh && job_->first_row && token.plane == 0;
  if (!starts) counters_->psum_reads += job_->columns.count;
  counters_->psum_writes += job_->columns.count;
  if (numbers_) numbers_->accumulate_update(*job_, token.place, token.plane, token.sums);
}

// Soma and gradient unit

void Lanes::start(const Job& job, int64_t /*bank*/, Counters& counters) {
  job_ = &job;
  counters_ = &counters;
  next_ = 0;
  total_ = job.block->images() * job.block->units.count;
  if (engine_of(job.pass()) == Engine::soma) total_ *= job.columns.count;
  pipeline_.resize(latency_cycles_);
}

bool Lanes::tick() {
  if (next_ < total_) {
    const Range steps = {next_, std::min(width_, total_ - next_)};
    enter(steps);
    pipeline_.enter(steps);
    next_ = steps.end();
  }
  pipeline_.tick([this](const Range& steps) { leave(steps); });
  return next_ == total_ && pipeline_.empty();
}

SomaLanes::SomaLanes(const Machine& machine, Numbers* numbers)
    : Lanes(std::min(machine.soma.lanes, machine.forward.psum_banks), machine.soma.latency_cycles),
      numbers_(numbers) {}

void SomaLanes::enter(Range steps) {
  const int64_t n = steps.count;
  counters_->psum_reads += n;
  counters_->additions += n;  // the psum, to what is left of the membrane or to nothing
  if (job_->layer->work.neurons) {
    counters_->membrane_reads += n;
    counters_->additions += n;
    counters_->multiplications += n;
    counters_->comparisons += 2 * n;
  }
  if (numbers_) numbers_->drain(*job_, steps);
}

void SomaLanes::leave(Range steps) {
  const int64_t n = steps.count;
  const LayerWork& work = job_->layer->work;
  if (!work.neurons) return;
  counters_->membrane_writes += n;
  if (job_->pass() != Pass::soma) return;
  counters_->spike_write_bits += n;
  if (work.nonzero) counters_->mask_write_bits += n;
}

void GradientLanes::enter(Range steps) {
  const int64_t n = steps.count;
  const LayerWork& work = job_->layer->work;
  counters_->gradient_reads += n;
  if (!work.neurons) return;
  counters_->spike_read_bits += n;
  counters_->mask_read_bits += n;
  counters_->additions += n;
  counters_->multiplications += n;
  if (!work.membrane) return;
  counters_->membrane_reads += n;
  counters_->additions += n;
  counters_->multiplications += 2 * n;
}

void GradientLanes::leave(Range steps) { counters_->gradient_writes += steps.count; }

// Backward engine

void BackwardArray::start(const Job& job, int64_t /*bank*/, Counters& counters) {
  job_ = &job;
  counters_ = &counters;
  const int64_t slices = ceil_div(job.columns.count, engine_.slice);
  items_left_ = job.block->images() * job.block->units.count * slices;
  item_ = {
      0, job.block->units.first, {job.columns.first, std::min(engine_.slice, job.columns.count)}};
  busy_.clear();
}

void BackwardArray::next_item() {
  --items_left_;
  Range& channels = item_.channels;
  channels.first = channels.end();
  if (channels.first == job_->columns.end()) {
    channels.first = job_->columns.first;
    if (++item_.position == job_->block->units.end()) {
      item_.position = job_->block->units.first;
      ++item_.image;
    }
  }
  channels.count = std::min(engine_.slice, job_->columns.end() - channels.first);
}

bool BackwardArray::tick() {
  for (int64_t& cycles : busy_) {
    if (cycles > 0 || items_left_ == 0) continue;
    cycles = dispatch(item_);
    next_item();
  }
  // Groups that have not had an item of this tile yet stand behind all that have.
  while (items_left_ > 0 && static_cast<int64_t>(busy_.size()) < engine_.groups) {
    busy_.push_back(dispatch(item_));
    next_item();
  }
  bool working = false;
  for (int64_t& cycles : busy_) {
    if (cycles > 0) --cycles;
    working = working || cycles > 0;
  }
  return items_left_ == 0 && !working;
}

/// Encodes an item: the cycles that it keeps its group.
int64_t BackwardArray::dispatch(const Item& item) {
  const Layer& layer = *job_->layer;
  const int64_t row = job_->block->rows[static_cast<std::size_t>(item.image)];
  const int64_t h = item.channels.count;

  int64_t n_out = 0;
  const bool masked = layer.work.mask && engine_.output_sparsity;
  const int64_t banks = std::min(engine_.weights_banks, layer.group_inputs);
  bank_uses_.assign(static_cast<std::size_t>(banks), 0);
  for (int64_t c = item.channels.first; c < item.channels.end(); ++c) {
    if (masked && !bit(layer.mask_row(row), layer.in_feature(item.position, job_->group, c))) {
      continue;
    }
    ++n_out;
    ++bank_uses_[static_cast<std::size_t>(c % banks)];
  }
  const int64_t conflicts = *std::max_element(bank_uses_.begin(), bank_uses_.end());
  const int64_t rounds = std::max(ceil_div(n_out, engine_.lanes), conflicts);

  int64_t valid = 0;
  int64_t nonzero = 0;
  for (int64_t r = job_->rows.first; r < job_->rows.end();) {
    const int64_t tap = r / layer.group_outputs;
    const int64_t n = r % layer.group_outputs;
    const int64_t some = std::min(layer.group_outputs - n, job_->rows.end() - r);
    const int64_t output =
        layer.output_of_input[static_cast<std::size_t>(item.position * layer.taps + tap)];
    if (output >= 0) {
      valid += some;
      nonzero +=
          count_bits(layer.nonzero_row(row), {layer.out_feature(output, job_->group, n), some});
    }
    r += some;
  }
  const int64_t n_in = engine_.input_sparsity ? nonzero : valid;

  ++counters_->items;
  counters_->operations_offered += h * valid;
  counters_->operations_needed += n_out * n_in;
  counters_->skipped_by_gradient += n_out * (valid - n_in);
  counters_->skipped_by_mask += (h - n_out) * valid;
  counters_->lane_slots += rounds * n_in * engine_.lanes;
  counters_->additions += n_out * n_in;
  counters_->multiplications += n_out * n_in;
  counters_->weight_reads += n_out * n_in;
  counters_->gradient_reads += rounds * n_in;
  if (masked) counters_->mask_read_bits += h;
  if (!job_->first_row) counters_->psum_reads += n_out;
  counters_->psum_writes += n_out;
  if (numbers_) numbers_->multiply(*job_, item.image, item.position, item.channels);
  if (n_out == 0 || n_in == 0) {
    ++counters_->items_empty;
    return 1;
  }
  return rounds * n_in + engine_.encode_cycles;
}

}  // namespace h2learn::accelerator::clocked
