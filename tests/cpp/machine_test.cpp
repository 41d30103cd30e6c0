// Machines that cannot be, and work that a machine cannot run, are refused with the reason.
#include "h2learn/accelerator/machine.hpp"

#include <gtest/gtest.h>

#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

namespace h2learn::accelerator {
namespace {

std::string refusal(const std::function<void()>& call) {
  try {
    call();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "";
}

std::string refusal_of(const std::function<void(Machine&)>& change) {
  Machine machine;
  change(machine);
  return refusal([&] { machine.validate(); });
}

TEST(Machine, DefaultIsPossibleAndHasThePublishedPeaks) {
  const Machine machine;
  machine.validate();
  EXPECT_EQ(2 * machine.forward.rows * machine.forward.columns * machine.forward.inputs, 12288);
  EXPECT_EQ(2 * machine.backward.groups * machine.backward.lanes, 12288);
  EXPECT_EQ(2 * machine.update.rows * machine.update.columns * machine.update.inputs, 10240);
}

struct Refused {
  std::function<void(Machine&)> change;
  std::string message;
};

TEST(Machine, RefusesTheImpossibleWithTheReason) {
  const std::vector<Refused> cases = {
      {[](Machine& m) { m.forward.rows = 0; }, "forward.rows must be 1 to 1024, got 0"},
      {[](Machine& m) { m.update.columns = 1025; }, "update.columns must be 1 to 1024, got 1025"},
      {[](Machine& m) { m.forward.inputs = 13; }, "forward.inputs must be 1 to 12, got 13"},
      {[](Machine& m) { m.soma.lanes = -3; }, "soma.lanes must be 1 to 65536, got -3"},
      {[](Machine& m) { m.gradient.latency_cycles = 1001; },
       "gradient.latency_cycles must be 0 to 1000, got 1001"},
      {[](Machine& m) { m.backward.groups = 0; }, "backward.groups must be 1 to 65536, got 0"},
      {[](Machine& m) { m.dram.bytes_per_cycle = 0; },
       "dram.bytes_per_cycle must be 1 to 1048576, got 0"},
      {[](Machine& m) { m.parts = 0; }, "parts must be 1 to 65536, got 0"},
      {[](Machine& m) { m.value_bytes = 3; }, "value_bytes must be 2 or 4, got 3"},
      {[](Machine& m) { m.state_bytes = -1; }, "state_bytes must be 0 to 1099511627776, got -1"},
      {[](Machine& m) { m.forward.tables_bytes = 1000; },
       "forward.tables_bytes = 1000 is too small: two banks of 32 x 32 tables of 2^6 entries take "
       "262144 bytes"},
      {[](Machine& m) { m.forward.weights_bytes = 24575; },
       "forward.weights_bytes = 24575 is too small: a tile of 192 inputs x 32 columns takes 12288 "
       "bytes and must fit half of the buffer, so at least 24576 are needed"},
      {[](Machine& m) { m.backward.tile_rows = 4096; },
       "backward.weights_bytes = 1048576 is too small: a tile of 4096 gradients x 128 channels "
       "takes 1048576 bytes and must fit half of the buffer, so at least 2097152 are needed"},
      {[](Machine& m) { m.backward.psum_bytes = 1000; },
       "backward.psum_bytes = 1000 is too small: one accumulator for each of 128 channels takes "
       "512 bytes and must fit half of the buffer, so at least 1024 are needed"},
      {[](Machine& m) { m.update.gradients_bytes = 20000; },
       "update.gradients_bytes = 20000 is too small: a tile of 160 positions x 32 columns takes "
       "10240 bytes and must fit half of the buffer, so at least 20480 are needed"},
      {[](Machine& m) { m.gradient.buffer_bytes = 11; },
       "gradient.buffer_bytes = 11 is too small: a gradient with its membrane takes 6 bytes and "
       "must "
       "fit half of the buffer, so at least 12 are needed"},
  };
  for (const Refused& refused : cases) EXPECT_EQ(refusal_of(refused.change), refused.message);
}

TEST(Machine, TablesThatAreNotThereNeedNoRoom) {
  Machine machine;
  machine.forward.tables = false;
  machine.forward.tables_bytes = 0;
  EXPECT_EQ(refusal([&] { machine.validate(); }), "");
}

LayerWork layer_of(const Geometry& geometry, const std::uint64_t* words) {
  LayerWork layer;
  layer.name = "conv1";
  layer.geometry = geometry;
  layer.inputs = words;
  return layer;
}

TEST(Runnable, SaysWhichLayerAndWhatWouldDo) {
  const Machine machine;
  const std::uint64_t word = 0;
  Geometry geometry;
  geometry.in_channels = 64;
  geometry.in_height = geometry.in_width = 300;
  geometry.out_channels = 8;
  LayerWork layer = layer_of(geometry, &word);
  EXPECT_EQ(refusal([&] { require_runnable(machine, {{layer}}); }),
            "layer conv1 cannot run on this machine: the inputs of one image take 720000 bytes "
            "and must fit half of forward.spikes_bytes (1048576); forward.spikes_bytes = 1440000 "
            "would do");

  layer.geometry.in_channels = 1;
  layer.geometry.out_channels = 16;
  layer.nonzero = &word;
  layer.input_gradient = true;
  EXPECT_EQ(refusal([&] { require_runnable(machine, {{layer}}); }),
            "layer conv1 cannot run on this machine: the gradients of one image take 2880000 bytes "
            "and must fit half of backward.gradients_bytes (2097152); backward.gradients_bytes = "
            "5760000 would do");
  layer.input_gradient = false;
  EXPECT_EQ(refusal([&] { require_runnable(machine, {{layer}}); }), "");
}

TEST(Runnable, RefusesMoreTilesThanMemoryHolds) {
  const Machine machine;
  const std::uint64_t word = 0;
  Geometry geometry;
  geometry.in_channels = 64;
  geometry.out_channels = 1 << 30;
  const LayerWork layer = layer_of(geometry, &word);
  EXPECT_EQ(refusal([&] { require_runnable(machine, {{layer}}); }),
            "with layer conv1 the step takes more than 4194304 tiles on this machine; larger tiles "
            "or buffers, or less work a step, would do");
}

TEST(Runnable, RefusesWorkThatContradictsItself) {
  const Machine machine;
  const std::uint64_t word = 0;
  LayerWork first = layer_of({}, &word);
  LayerWork second = first;
  second.name = "fc";
  second.timesteps = 2;
  EXPECT_EQ(refusal([&] { require_runnable(machine, {{first, second}}); }),
            "layer fc has 2 timesteps of 1 samples, but layer conv1 has 1 of 1");
  first.inputs = nullptr;
  EXPECT_EQ(refusal([&] { require_runnable(machine, {{first}}); }),
            "layer conv1 must have timesteps, samples, planes and inputs");
  first.inputs = &word;
  first.timesteps = 1 << 20;
  first.samples = 1 << 10;
  first.geometry.in_channels = 1 << 10;
  first.geometry.out_channels = 1 << 11;
  EXPECT_EQ(refusal([&] { require_runnable(machine, {{first}}); }),
            "layer conv1 has more than 10^15 operations, which no counter is for");
}

}  // namespace
}  // namespace h2learn::accelerator
