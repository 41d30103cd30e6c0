// The clocked simulator: a sequencer for each engine takes its tiles through load, build, run and
// store; all units tick together. At the start of a cycle everything that takes no time is settled.
#include <algorithm>
#include <array>
#include <stdexcept>
#include <string>
#include <vector>

#include "accelerator/clocked_units.hpp"
#include "h2learn/accelerator/simulate.hpp"
#include "h2learn/accelerator/values.hpp"

namespace h2learn::accelerator {
namespace clocked {
namespace {

using std::int64_t;

/// Runs the tiles of one engine in order. The load channel, the table builder, the array and the
/// store channel each have a pointer to the tile that is theirs; a tile passes from one to the
/// next. Two tiles at most are between the load and the end of the run, two between the start of
/// the run and the end of the store: the halves of the buffers.
class Sequencer {
 public:
  Sequencer(Engine engine, Plan& plan, Array& array, DramChannel& dram, Result& result)
      : array_(array),
        dram_(dram),
        result_(result),
        tail_idle_cycles_(result.tail_idle_cycles[static_cast<std::size_t>(engine)]),
        plan_(plan) {
    for (int64_t id : plan.order[static_cast<std::size_t>(engine)]) {
      jobs_.push_back(&plan.jobs[static_cast<std::size_t>(id)]);
    }
  }

  /// Takes every step that is possible now and takes no time; whether there was one.
  bool settle(int64_t now) {
    const bool loads = settle_load(now);
    const bool builds = settle_build(now);
    const bool runs = settle_run(now);
    const bool stores = settle_store(now);
    return loads || builds || runs || stores;
  }

  /// Every cycle of an engine is of one kind.
  void count_cycle() {
    if (run_ == count()) {
      ++tail_idle_cycles_;
      return;
    }
    const Job& job = *jobs_[index(run_)];
    Counters& counted = counters(job);
    if (running_) {
      ++counted.run_cycles;
    } else if (!prerequisites_met(job)) {
      ++counted.idle_cycles;
    } else if (!job.loaded) {
      ++counted.stalled_load_cycles;
    } else if (!complete(run_ - 2)) {
      ++counted.stalled_store_cycles;
    } else {
      ++counted.building_cycles;
    }
  }

  /// One cycle. Whether something happened at its end that others may have waited for.
  bool tick(int64_t now) {
    bool happened = false;
    if (building_ && array_.tick_build()) {
      finish_build(now + 1);
      happened = true;
    }
    if (running_ && array_.tick()) {
      Job& job = *jobs_[index(run_)];
      job.tile.end = now + 1;
      job.ended = true;
      running_ = false;
      ++run_;
      happened = true;
    }
    return happened;
  }

  bool working() const { return building_ || running_; }
  bool done() const { return complete_ == count(); }
  std::vector<Job*>& jobs() { return jobs_; }
  /// The first tile that is not complete.
  const Job& pending() const { return *jobs_[index(complete_)]; }

 private:
  static std::size_t index(int64_t i) { return static_cast<std::size_t>(i); }
  int64_t count() const { return static_cast<int64_t>(jobs_.size()); }
  bool ended(int64_t i) const { return i < 0 || jobs_[index(i)]->ended; }
  bool complete(int64_t i) const { return i < 0 || jobs_[index(i)]->complete; }
  const Job& job_of(int64_t id) const { return plan_.jobs[index(id)]; }

  Counters& counters(const Job& job) const {
    return result_.layers[index(job.tile.layer)][index(job.tile.pass)];
  }

  bool data_ready(const Job& job) const {
    return std::ranges::all_of(job.after_complete,
                               [this](int64_t id) { return job_of(id).complete; });
  }

  bool prerequisites_met(const Job& job) const {
    return data_ready(job) &&
           std::ranges::all_of(job.after_end, [this](int64_t id) { return job_of(id).ended; });
  }

  bool settle_load(int64_t now) {
    bool happened = false;
    while (load_ < count() && ended(load_ - 2) && data_ready(*jobs_[index(load_)])) {
      Job& job = *jobs_[index(load_)];
      job.tile.load_issue = now;
      if (job.tile.load_bytes > 0) {
        dram_.issue(job, load_, false);
        count_loaded(job);
      } else {
        job.tile.load_done = now;
        job.loaded = true;
      }
      ++load_;
      happened = true;
    }
    return happened;
  }

  void count_loaded(const Job& job) {
    Counters& counted = counters(job);
    counted.weight_writes += job.load_weights;
    counted.spike_write_bits += 8 * job.load_input_bytes;
    counted.mask_write_bits += 8 * job.load_mask_bytes;
  }

  bool settle_build(int64_t now) {
    bool happened = false;
    while (!building_ && build_ < count() && ended(build_ - 2) && jobs_[index(build_)]->loaded) {
      const Job& job = *jobs_[index(build_)];
      building_ = array_.start_build(job, build_ % 2, counters(job));
      if (!building_) finish_build(now);
      happened = true;
    }
    return happened;
  }

  void finish_build(int64_t now) {
    Job& job = *jobs_[index(build_)];
    job.tile.build_end = now;
    job.built = true;
    building_ = false;
    ++build_;
  }

  bool settle_run(int64_t now) {
    if (running_ || run_ == count()) return false;
    Job& job = *jobs_[index(run_)];
    if (!prerequisites_met(job) || !job.loaded || !complete(run_ - 2) || !job.built) return false;
    for (int64_t id : job.after_complete) {
      job.tile.ready = std::max(job.tile.ready, job_of(id).tile.store_done);
    }
    for (int64_t id : job.after_end) {
      job.tile.ready = std::max(job.tile.ready, job_of(id).tile.end);
    }
    job.tile.start = now;
    ++counters(job).tiles;
    array_.start(job, run_ % 2, counters(job));
    running_ = true;
    return true;
  }

  bool settle_store(int64_t now) {
    bool happened = false;
    while (store_ < count() && jobs_[index(store_)]->ended) {
      Job& job = *jobs_[index(store_)];
      job.tile.store_issue = now;
      if (job.tile.store_bytes > 0) dram_.issue(job, store_, true);
      ++store_;
      happened = true;
    }
    while (complete_ < store_) {
      Job& job = *jobs_[index(complete_)];
      if (job.tile.store_bytes > 0 && !job.stored) break;
      job.tile.store_done = now;
      job.complete = true;
      ++complete_;
      happened = true;
    }
    return happened;
  }

  Array& array_;
  DramChannel& dram_;
  Result& result_;
  int64_t& tail_idle_cycles_;
  const Plan& plan_;
  std::vector<Job*> jobs_;
  int64_t load_ = 0;  // the next tile to load, to build, to run, to store, to complete
  int64_t build_ = 0;
  int64_t run_ = 0;
  int64_t store_ = 0;
  int64_t complete_ = 0;
  bool building_ = false;
  bool running_ = false;
};

[[noreturn]] void report_deadlock(std::vector<Sequencer>& engines, int64_t now) {
  for (const Sequencer& engine : engines) {
    if (engine.done()) continue;
    const Tile& tile = engine.pending().tile;
    throw std::logic_error("nothing can happen any more at cycle " + std::to_string(now) +
                           ": waiting for the tile" + " of pass " + std::to_string(tile.pass) +
                           ", part " + std::to_string(tile.part) + ", layer " +
                           std::to_string(tile.layer) + ", block " + std::to_string(tile.block) +
                           ", column " + std::to_string(tile.column) + ", row " +
                           std::to_string(tile.row) + ", depth " + std::to_string(tile.depth));
  }
  throw std::logic_error("nothing can happen any more, and nothing is left to do");
}

Result run(const Machine& machine, const StepWork& step, Numbers* numbers) {
  Plan plan(machine, step);
  Result result;
  result.layers.resize(step.layers.size());
  result.resident = plan.resident;

  DramChannel dram(machine.dram, result);
  ForwardArray forward(machine.forward, numbers);
  SomaLanes soma(machine, numbers);
  GradientLanes gradient(machine);
  BackwardArray backward(machine.backward, numbers);
  UpdateArray update(machine.update, numbers);
  const std::array<Array*, engine_count> arrays = {&forward, &soma, &gradient, &backward, &update};
  std::vector<Sequencer> engines;
  for (int e = 0; e < engine_count; ++e) {
    engines.emplace_back(static_cast<Engine>(e), plan, *arrays[static_cast<std::size_t>(e)], dram,
                         result);
  }

  int64_t now = 0;
  for (bool happened = true;; ++now) {
    // What is settled stays settled until something happens.
    while (happened) {
      happened = false;
      for (Sequencer& engine : engines) happened = engine.settle(now) || happened;
      if (!happened) dram.accept();
    }
    if (std::ranges::all_of(engines, &Sequencer::done)) break;
    if (dram.idle() && std::ranges::none_of(engines, &Sequencer::working)) {
      report_deadlock(engines, now);
    }
    // All of them see the state that was settled: none what another does in this cycle.
    for (Sequencer& engine : engines) engine.count_cycle();
    happened = dram.tick(now);
    for (Sequencer& engine : engines) happened = engine.tick(now) || happened;
  }

  result.cycles = now;
  for (std::size_t e = 0; e < engines.size(); ++e) {
    for (const Job* job : engines[e].jobs()) result.tiles[e].push_back(job->tile);
  }
  return result;
}

}  // namespace
}  // namespace clocked

Result simulate_clocked(const Machine& machine, const StepWork& step) {
  machine.validate();
  require_runnable(machine, step);
  return clocked::run(machine, step, nullptr);
}

Result simulate_clocked(const Machine& machine, const StepWork& step, Precision precision,
                        std::vector<LayerValues>& values) {
  machine.validate();
  require_runnable(machine, step);
  clocked::Numbers numbers(machine, step, precision, values);
  Result result = clocked::run(machine, step, &numbers);
  numbers.finish();
  return result;
}

}  // namespace h2learn::accelerator
