// The units of the machine, one struct or class each. All state is in registers and queues that are
// written out here; `tick()` is one cycle. Counters are raised by the unit in which the counted
// thing happens, in the cycle in which it does.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <vector>

#include "accelerator/clocked_numbers.hpp"
#include "accelerator/clocked_plan.hpp"

namespace h2learn::accelerator::clocked {

/// A shift register: what enters in a cycle leaves `depth` cycles later (at once if depth is 0).
template <typename Token>
class Pipeline {
 public:
  void resize(std::int64_t depth) {
    stages_.assign(static_cast<std::size_t>(depth) + 1, {});
    head_ = 0;
    inside_ = 0;
  }
  bool empty() const { return inside_ == 0; }

  void enter(Token token) {
    const std::size_t last = (head_ + stages_.size() - 1) % stages_.size();
    stages_[last] = {true, std::move(token)};
    ++inside_;
  }

  /// Ends the cycle: moves all by one stage and hands what leaves to `out`.
  template <typename Out>
  void tick(Out out) {
    Stage& stage = stages_[head_];
    if (stage.full) {
      out(stage.token);
      stage.full = false;
      --inside_;
    }
    head_ = head_ + 1 == stages_.size() ? 0 : head_ + 1;
  }

 private:
  struct Stage {
    bool full = false;
    Token token{};
  };
  std::vector<Stage> stages_;
  std::size_t head_ = 0;
  std::int64_t inside_ = 0;
};

/// The DRAM channel: a queue of transfers whose latencies pass together, and a bus that moves the
/// first of them when its latency has passed, `bytes_per_cycle` a cycle.
class DramChannel {
 public:
  DramChannel(const Dram& dram, Result& result) : dram_(dram), result_(result) {}

  /// A load or store of a job. It enters the queue with `accept`.
  void issue(Job& job, std::int64_t tile, bool store);

  /// The queue takes what was issued in this cycle, by engine, loads before stores, by tile.
  void accept();

  /// Whether a transfer was completed in this cycle.
  bool tick(std::int64_t now);

  bool idle() const { return queue_.empty() && issued_.empty(); }

 private:
  struct Transfer {
    Job* job;
    std::int64_t tile;  ///< of its engine
    bool store;
    std::int64_t latency_left;
    std::int64_t bytes_left;
  };
  const Dram& dram_;
  Result& result_;
  std::vector<Transfer> issued_;
  std::deque<Transfer> queue_;
};

/// Writes the tables of the next tile: an entry a cycle in all of its PEs, while the operands come
/// from the buffer at `banks` words a cycle. Without tables only the operands.
class TableBuilder {
 public:
  TableBuilder(const TableEngine& engine, std::int64_t banks, Numbers* numbers)
      : engine_(engine), banks_(banks), numbers_(numbers) {}

  /// Takes a job with so many operands in each column; `operand_reads` counts them. Whether there
  /// is anything to build.
  bool start(const Job& job, std::int64_t bank, std::int64_t operands, std::int64_t& operand_reads,
             Counters& counters);

  /// Whether the tables were complete at the end of this cycle.
  bool tick();

 private:
  void write_entry();

  const TableEngine& engine_;
  std::int64_t banks_;
  Numbers* numbers_;
  const Job* job_ = nullptr;
  Counters* counters_ = nullptr;
  std::int64_t* operand_reads_ = nullptr;
  std::int64_t bank_ = 0;
  std::int64_t pes_ = 0;
  std::int64_t operands_left_ = 0;
  std::int64_t next_entry_ = 0;
  std::int64_t entries_ = 0;  ///< of a table, the empty sum included
};

/// What an engine does with a tile between its start and its end.
class Array {
 public:
  Array() = default;
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  virtual ~Array() = default;

  /// Begins to build for the tile; false: nothing to build, the tables are ready at once.
  virtual bool start_build(const Job&, std::int64_t /*bank*/, Counters&) { return false; }
  /// Whether the tables were complete at the end of this cycle.
  virtual bool tick_build() { return true; }

  virtual void start(const Job& job, std::int64_t bank, Counters& counters) = 0;
  /// Whether the tile was finished at the end of this cycle.
  virtual bool tick() = 0;
};

/// The table PEs of a forward or weight-update engine: every `interval` cycles the indices of one
/// place of the stream are read; the tree and the accumulator are behind.
class TableArray : public Array {
 public:
  TableArray(const TableEngine& engine, std::int64_t operand_banks, Numbers* numbers);
  bool tick_build() override { return builder_.tick(); }
  void start(const Job& job, std::int64_t bank, Counters& counters) override;
  bool tick() override;

 protected:
  /// The accumulators that a place of the stream adds to: (position) or (fan-in index), of a plane.
  struct Token {
    std::int64_t plane = 0;
    std::int64_t place = 0;
    std::vector<float> sums;  ///< of each column; empty without numbers
  };

  /// How long the stream is, and how many operands a place has.
  virtual std::int64_t begin_stream() = 0;
  virtual std::int64_t operands() const = 0;
  /// Reads the bits that the PEs take at this place, one for each operand.
  virtual void read_bits(const Token& at) = 0;
  virtual void accumulate(const Token& token) = 0;

  const TableEngine& engine_;
  Numbers* numbers_;
  TableBuilder builder_;
  const Job* job_ = nullptr;
  Counters* counters_ = nullptr;
  std::int64_t bank_ = 0;
  std::vector<std::uint8_t> bits_;  ///< of the operands, in the order of rows and inputs

 private:
  void read_tables();
  void step_stream();

  std::int64_t places_ = 0;
  std::int64_t interval_ = 1;
  std::int64_t wait_ = 0;  ///< cycles until the next place may be read
  bool streaming_ = false;
  Token at_;
  Pipeline<Token> tree_;
};

class ForwardArray : public TableArray {
 public:
  ForwardArray(const ForwardEngine& engine, Numbers* numbers)
      : TableArray(engine, engine.weights_banks, numbers) {}
  bool start_build(const Job& job, std::int64_t bank, Counters& counters) override;

 private:
  struct Operand {
    std::int64_t tap;
    std::int64_t channel;
  };
  std::int64_t begin_stream() override;
  std::int64_t operands() const override { return job_->rows.count; }
  void read_bits(const Token& at) override;
  void accumulate(const Token& token) override;

  std::vector<Operand> operands_;
};

class UpdateArray : public TableArray {
 public:
  UpdateArray(const UpdateEngine& engine, Numbers* numbers)
      : TableArray(engine, engine.gradients_banks, numbers) {}
  bool start_build(const Job& job, std::int64_t bank, Counters& counters) override;

 private:
  std::int64_t begin_stream() override;
  std::int64_t operands() const override { return static_cast<std::int64_t>(job_->sites.size()); }
  void read_bits(const Token& at) override;
  void accumulate(const Token& token) override;

  std::vector<std::int64_t> nonzero_;  ///< gradients of each site among the tile's columns
};

/// Lanes that take a neuron-step each a cycle.
class Lanes : public Array {
 public:
  Lanes(std::int64_t width, std::int64_t latency_cycles)
      : width_(width), latency_cycles_(latency_cycles) {}
  void start(const Job& job, std::int64_t bank, Counters& counters) override;
  bool tick() override;

 protected:
  /// `steps` neuron-steps enter their lanes, and leave them.
  virtual void enter(Range steps) = 0;
  virtual void leave(Range steps) = 0;

  const Job* job_ = nullptr;
  Counters* counters_ = nullptr;

 private:
  std::int64_t width_;
  std::int64_t latency_cycles_;
  std::int64_t next_ = 0;
  std::int64_t total_ = 0;
  Pipeline<Range> pipeline_;
};

class SomaLanes : public Lanes {
 public:
  SomaLanes(const Machine& machine, Numbers* numbers);

 private:
  void enter(Range steps) override;
  void leave(Range steps) override;
  Numbers* numbers_;
};

class GradientLanes : public Lanes {
 public:
  explicit GradientLanes(const Machine& machine)
      : Lanes(machine.gradient.lanes, machine.gradient.latency_cycles) {}

 private:
  void enter(Range steps) override;
  void leave(Range steps) override;
};

/// The groups of the backward engine, and the encoder that hands them items in order.
class BackwardArray : public Array {
 public:
  BackwardArray(const BackwardEngine& engine, Numbers* numbers)
      : engine_(engine), numbers_(numbers) {}
  void start(const Job& job, std::int64_t bank, Counters& counters) override;
  bool tick() override;

 private:
  struct Item {
    std::int64_t image = 0;  ///< of the block
    std::int64_t position = 0;
    Range channels;  ///< of the group of channels
  };

  std::int64_t dispatch(const Item& item);
  void next_item();

  const BackwardEngine& engine_;
  Numbers* numbers_;
  const Job* job_ = nullptr;
  Counters* counters_ = nullptr;
  Item item_{};
  std::int64_t items_left_ = 0;
  std::vector<std::int64_t> busy_;  ///< cycles that each group still works; grows as they are used
  std::vector<std::int64_t> bank_uses_;
};

}  // namespace h2learn::accelerator::clocked
