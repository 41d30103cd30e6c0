#include "h2learn/kernel.hpp"

#include <stdexcept>
#include <string>

namespace h2learn {

Kernel kernel_from_name(std::string_view name) {
  if (name == "auto") return Kernel::automatic;
  if (name == "event") return Kernel::event;
  if (name == "dense") return Kernel::dense;
  if (name == "lut") return Kernel::lut;
  if (name == "digits") return Kernel::digits;
  if (name == "sampled") return Kernel::sampled;
  if (name == "fastest") return Kernel::fastest;
  throw std::invalid_argument(
      "kernel must be one of auto, event, dense, lut, digits, sampled, fastest, got '" +
      std::string(name) + "'");
}

}  // namespace h2learn
