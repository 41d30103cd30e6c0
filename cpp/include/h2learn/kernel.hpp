// How a synapse's product is computed. Every kernel gives the same function; they differ in
// which work they skip and in the order of their additions.
#pragma once

#include <cstdint>
#include <string_view>

namespace h2learn {

enum class Kernel {
  automatic,  ///< event, dense or sampled, by the measured density of what can be skipped
  event,      ///< walks set bits (or non-zero values) and adds weight rows
  dense,      ///< multiplies every element
  lut,        ///< tables of partial sums, indexed by packed spikes, as the accelerator does
  digits,     ///< signed 8-bit digits, exact integer sums (digits.hpp)
  sampled,    ///< input gradients one by one, only those that are needed; all else automatic
  fastest,    ///< digits or automatic, whichever this instruction set computes sooner (fastest.hpp)
};

/// Accepts "auto", "event", "dense", "lut", "digits", "sampled", "fastest"; throws
/// std::invalid_argument for anything else.
Kernel kernel_from_name(std::string_view name);

/// Shape of the table engine: one table covers `inputs` packed spikes (2^inputs entries), and
/// `rows` tables feed one balanced adder tree whose sum is accumulated.
struct LutShape {
  int inputs = 6;  ///< 1 to 12
  int rows = 32;   ///< 1 to 1024
};

}  // namespace h2learn
