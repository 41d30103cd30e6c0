#include "accelerator/fast_windows.hpp"

namespace h2learn::accelerator::fast {

WindowAddresses::WindowAddresses(const Layer& layer, std::int64_t inputs,
                                 const std::vector<std::int32_t>& output_of_input) {
  std::vector<Piece> pieces;  // of the address that the tap before left unfinished
  std::int64_t missing = 0;   // bits that it lacks
  for (std::int64_t tap = 0; tap < layer.taps; ++tap) {
    const std::int64_t head = std::min(missing, layer.group_inputs);
    if (head > 0) {
      pieces.push_back({tap, fragment({0, head})});
      missing -= head;
    }
    if (missing > 0) continue;
    if (!pieces.empty()) straddling_.push_back(std::move(pieces));
    pieces.clear();
    const std::int64_t left = layer.group_inputs - head;
    if (left >= inputs) {
      add_whole(layer, tap, {head, left / inputs * inputs}, output_of_input);
    }
    const std::int64_t tail = left % inputs;
    if (tail == 0) continue;
    pieces.push_back({tap, fragment({layer.group_inputs - tail, tail})});
    missing = inputs - tail;
  }
  if (!pieces.empty()) straddling_.push_back(std::move(pieces));
}

void WindowAddresses::add_whole(const Layer& layer, std::int64_t tap, Channels channels,
                                const std::vector<std::int32_t>& output_of_input) {
  auto found = std::find_if(whole_.begin(), whole_.end(),
                            [&](const Whole& whole) { return whole.channels == channels; });
  if (found == whole_.end()) {
    whole_.push_back(
        {channels, std::vector<std::int64_t>(static_cast<std::size_t>(layer.input_positions), 0)});
    found = whole_.end() - 1;
  }
  for (std::int64_t input = 0; input < layer.input_positions; ++input) {
    const auto reader = static_cast<std::size_t>(input * layer.taps + tap);
    if (output_of_input[reader] >= 0) ++found->readers[static_cast<std::size_t>(input)];
  }
}

std::int64_t WindowAddresses::fragment(Channels channels) {
  const auto found = std::find(fragments_.begin(), fragments_.end(), channels);
  const std::int64_t index = found - fragments_.begin();
  if (found == fragments_.end()) fragments_.push_back(channels);
  return index;
}

}  // namespace h2learn::accelerator::fast
