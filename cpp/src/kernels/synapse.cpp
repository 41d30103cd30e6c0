#include "kernels/vec.hpp"

namespace h2learn::H2LEARN_TARGET {}
