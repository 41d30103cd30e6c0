#include "accelerator/fast_timing.hpp"

#include <stdexcept>
#include <tuple>

namespace h2learn::accelerator::fast {
namespace {

using std::max;

/// A transfer that waits for the DRAM channel; the order of the fields is that of service.
struct Transfer {
  std::int64_t issue;
  std::int32_t engine;
  bool store;
  std::int64_t tile;

  bool before(const Transfer& other) const {
    return std::tie(issue, engine, store, tile) <
           std::tie(other.issue, other.engine, other.store, other.tile);
  }
};

/// One engine's tiles, and how far their times are known.
struct EngineState {
  std::vector<Tile>* tiles = nullptr;
  const std::vector<TileWork>* works = nullptr;
  std::int64_t count = 0;
  std::int64_t issued = 0;     ///< tiles whose load has been issued
  std::int64_t ended = 0;      ///< tiles whose end is known
  std::int64_t completed = 0;  ///< tiles whose completion is known

  Tile& tile(std::int64_t i) { return (*tiles)[static_cast<std::size_t>(i)]; }
  const TileWork& work(std::int64_t i) const { return (*works)[static_cast<std::size_t>(i)]; }
  std::int64_t end(std::int64_t i) { return i < 0 ? 0 : tile(i).end; }
  std::int64_t complete(std::int64_t i) { return i < 0 ? 0 : tile(i).store_done; }
};

constexpr std::int64_t unknown = -1;

// Times follow from each other by maxima and sums, so they are computed as soon as what they
// depend on is known, in any order. Only the DRAM channel needs the order of time. When nothing
// more follows, every issue not yet known waits for a transfer that is, and a transfer takes at
// least a cycle: the earliest of those that wait is the next to be served.
class Timing {
 public:
  Timing(const Machine& machine, Program& program) : machine_(machine), program_(program) {
    for (std::size_t e = 0; e < engine_count; ++e) {
      engines_[e].tiles = &program.result.tiles[e];
      engines_[e].works = &program.works[e];
      engines_[e].count = static_cast<std::int64_t>(program.result.tiles[e].size());
      for (Tile& tile : program.result.tiles[e]) {
        tile.load_done = unknown;
        tile.store_done = unknown;
      }
    }
  }

  void run() {
    settle();
    while (!waiting_.empty()) {
      serve();
      settle();
    }
    finish();
  }

 private:
  void settle() {
    for (bool progress = true; progress;) {
      progress = false;
      for (int e = 0; e < engine_count; ++e) {
        while (issue_load(e)) progress = true;
        while (complete_tile(e) || run_tile(e)) progress = true;
      }
    }
  }

  EngineState& engine(std::int32_t e) { return engines_[static_cast<std::size_t>(e)]; }

  bool issue_load(int e) {
    EngineState& self = engine(e);
    const std::int64_t i = self.issued;
    if (i == self.count || i - 2 >= self.ended) return false;
    std::int64_t time = max(i > 0 ? self.tile(i - 1).load_issue : 0, self.end(i - 2));
    for (const TileId id : self.work(i).data) {
      if (!id.exists()) continue;
      EngineState& other = engine(id.engine);
      if (id.index >= other.completed) return false;
      time = max(time, other.complete(id.index));
    }
    Tile& tile = self.tile(i);
    tile.load_issue = time;
    if (tile.load_bytes > 0) {
      waiting_.push_back({time, e, false, i});
    } else {
      tile.load_done = time;
    }
    ++self.issued;
    return true;
  }

  /// P, or `unknown`. The load has been issued, so that the data prerequisites are complete.
  std::int64_t ready(EngineState& self, std::int64_t i) {
    std::int64_t time = 0;
    for (const TileId id : self.work(i).data) {
      if (id.exists()) time = max(time, engine(id.engine).complete(id.index));
    }
    for (const TileId id : self.work(i).order) {
      if (!id.exists()) continue;
      EngineState& other = engine(id.engine);
      if (id.index >= other.ended) return unknown;
      time = max(time, other.end(id.index));
    }
    return time;
  }

  bool run_tile(int e) {
    EngineState& self = engine(e);
    const std::int64_t i = self.ended;
    if (i >= self.issued || i - 2 >= self.completed) return false;
    Tile& tile = self.tile(i);
    if (tile.load_done == unknown) return false;
    tile.ready = ready(self, i);
    if (tile.ready == unknown) return false;

    const TileWork& work = self.work(i);
    const std::int64_t built_before = i > 0 ? self.tile(i - 1).build_end : 0;
    tile.build_end = max({built_before, self.end(i - 2), tile.load_done}) + work.build_cycles;
    const std::int64_t prepared = max(self.end(i - 1), tile.ready);
    const std::int64_t loaded = max(prepared, tile.load_done);
    const std::int64_t drained = max(loaded, self.complete(i - 2));
    tile.start = max(drained, tile.build_end);
    tile.end = tile.start + work.run_cycles;

    Counters& counters =
        program_.result
            .layers[static_cast<std::size_t>(tile.layer)][static_cast<std::size_t>(tile.pass)];
    counters.idle_cycles += prepared - self.end(i - 1);
    counters.stalled_load_cycles += loaded - prepared;
    counters.stalled_store_cycles += drained - loaded;
    counters.building_cycles += tile.start - drained;

    tile.store_issue = max(tile.end, i > 0 ? self.tile(i - 1).store_issue : 0);
    if (tile.store_bytes > 0) waiting_.push_back({tile.store_issue, e, true, i});
    ++self.ended;
    return true;
  }

  bool complete_tile(int e) {
    EngineState& self = engine(e);
    const std::int64_t i = self.completed;
    if (i >= self.ended) return false;
    Tile& tile = self.tile(i);
    if (tile.store_bytes == 0) tile.store_done = max(self.complete(i - 1), tile.store_issue);
    if (tile.store_done == unknown) return false;
    ++self.completed;
    return true;
  }

  void serve() {
    auto next = waiting_.begin();
    for (auto other = next + 1; other < waiting_.end(); ++other) {
      if (other->before(*next)) next = other;
    }
    const Transfer transfer = *next;
    *next = waiting_.back();
    waiting_.pop_back();

    Tile& tile = engine(transfer.engine).tile(transfer.tile);
    const std::int64_t bytes = transfer.store ? tile.store_bytes : tile.load_bytes;
    const Dram& dram = machine_.dram;
    const std::int64_t bus_cycles =
        divide_up(divide_up(bytes, dram.burst_bytes) * dram.burst_bytes, dram.bytes_per_cycle);
    bus_free_ = max(bus_free_, transfer.issue + dram.latency_cycles) + bus_cycles;
    program_.result.dram_busy_cycles += bus_cycles;
    (transfer.store ? tile.store_done : tile.load_done) = bus_free_;
  }

  void finish() {
    Result& result = program_.result;
    for (EngineState& state : engines_) {
      if (state.completed < state.count) throw std::logic_error("tiles wait for each other");
      result.cycles = max(result.cycles, state.complete(state.count - 1));
    }
    for (std::size_t e = 0; e < engine_count; ++e) {
      result.tail_idle_cycles[e] = result.cycles - engines_[e].end(engines_[e].count - 1);
    }
  }

  const Machine& machine_;
  Program& program_;
  std::array<EngineState, engine_count> engines_;
  std::vector<Transfer> waiting_;  ///< at most two loads and two stores of each engine
  std::int64_t bus_free_ = 0;
};

}  // namespace

void run_program(const Machine& machine, Program& program) { Timing(machine, program).run(); }

}  // namespace h2learn::accelerator::fast
