// When everything happens: the five engines and the DRAM channel between them.
#pragma once

#include "accelerator/fast_program.hpp"

namespace h2learn::accelerator::fast {

/// Fills in every time of the program's tiles and every counter that is a time.
void run_program(const Machine& machine, Program& program);

}  // namespace h2learn::accelerator::fast
