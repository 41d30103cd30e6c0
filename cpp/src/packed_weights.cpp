#include "packed_weights.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <list>
#include <mutex>
#include <utility>

#include "out_of_memory.hpp"
#include "process_wide.hpp"

namespace h2learn {
namespace {

struct Key {
  const SynapseKernels* kernels = nullptr;
  const float* weight = nullptr;
  WeightShape shape = {};
  PackFor use = PackFor::forward;

  bool operator==(const Key& other) const {
    return kernels == other.kernels && weight == other.weight && use == other.use &&
           shape.groups == other.shape.groups && shape.outputs == other.shape.outputs &&
           shape.channels == other.shape.channels && shape.taps == other.shape.taps;
  }
};

struct Entry {
  Key key;
  std::shared_ptr<PackedWeights> weights;
};

/// Looking for one is a walk through all.
constexpr std::size_t most_kept_layers = 64;

class Kept {
 public:
  std::shared_ptr<PackedWeights> find(const Key& key) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = place_of(key);
    if (found == entries_.end()) return nullptr;
    entries_.splice(entries_.begin(), entries_, found);
    return found->weights;
  }

  void keep(const Key& key, const std::shared_ptr<PackedWeights>& weights) {
    std::list<Entry> dropped;  // freed when the lock is
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto same = place_of(key);  // as they were before
    if (same != entries_.end()) drop(same, dropped);
    while (!entries_.empty() &&
           (bytes_ + weights->bytes() > most_kept_bytes || entries_.size() == most_kept_layers)) {
      drop(std::prev(entries_.end()), dropped);
    }
    entries_.push_front({key, weights});
    bytes_ += weights->bytes();
  }

  void forget() {
    std::list<Entry> dropped;
    const std::lock_guard<std::mutex> lock(mutex_);
    dropped.swap(entries_);
    bytes_ = 0;
  }

  std::int64_t bytes() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return bytes_;
  }

  std::mutex& mutex() { return mutex_; }

 private:
  std::list<Entry>::iterator place_of(const Key& key) {
    return std::find_if(entries_.begin(), entries_.end(),
                        [&](const Entry& entry) { return entry.key == key; });
  }

  void drop(std::list<Entry>::iterator entry, std::list<Entry>& dropped) {
    bytes_ -= entry->weights->bytes();
    dropped.splice(dropped.end(), entries_, entry);
  }

  std::mutex mutex_;
  std::list<Entry> entries_;  ///< the one used last is the first
  std::int64_t bytes_ = 0;
};

Kept& kept() { return process_wide<Kept>(); }

std::int64_t weights_of(const WeightShape& shape) {
  return shape.groups * shape.outputs * shape.channels * shape.taps;
}

constexpr std::int64_t alignment = 64;

/// Floats, rounded up to whole lines.
std::int64_t whole_lines(std::int64_t floats) {
  constexpr std::int64_t line = alignment / static_cast<std::int64_t>(sizeof(float));
  return (floats + line - 1) / line * line;
}

/// Of a copy and panels.
std::int64_t bytes_of(std::int64_t weights, std::int64_t panel_floats) {
  return (whole_lines(weights) + whole_lines(panel_floats)) *
         static_cast<std::int64_t>(sizeof(float));
}

}  // namespace

void PackedWeights::Free::operator()(float* memory) const { std::free(memory); }

PackedWeights::PackedWeights(std::int64_t weights, std::int64_t panel_floats)
    : weights_(weights),
      panels_at_(whole_lines(weights)),
      bytes_(bytes_of(weights, panel_floats)),
      memory_(static_cast<float*>(
          std::aligned_alloc(static_cast<std::size_t>(alignment),
                             static_cast<std::size_t>(std::max(bytes_, alignment))))) {
  if (memory_ == nullptr) throw OutOfMemory("packed weights", bytes_);
}

bool PackedWeights::holds(const float* weight) const {
  constexpr std::int64_t piece = std::int64_t{1} << 14;
  const std::int64_t pieces = (weights_ + piece - 1) / piece;
  bool same = true;
#pragma omp parallel for schedule(static) reduction(&& : same) if (pieces > 8)
  for (std::int64_t i = 0; i < pieces; ++i) {
    const std::int64_t begin = i * piece;
    const auto count = static_cast<std::size_t>(std::min(piece, weights_ - begin));
    same = same && std::memcmp(memory_.get() + begin, weight + begin, count * sizeof(float)) == 0;
  }
  return same;
}

std::shared_ptr<const PackedWeights> packed_weights(const SynapseKernels& kernels,
                                                    const WeightShape& shape, PackFor use,
                                                    const float* weight) {
  const Key key = {&kernels, weight, shape, use};
  std::shared_ptr<PackedWeights> packed = kept().find(key);
  if (packed != nullptr && packed->holds(weight)) return packed;
  const std::int64_t panel_floats = kernels.packed_size(shape, use);
  if (bytes_of(weights_of(shape), panel_floats) > most_kept_bytes) return nullptr;
  packed = std::make_shared<PackedWeights>(weights_of(shape), panel_floats);
  std::memcpy(packed->copy(), weight, static_cast<std::size_t>(weights_of(shape)) * sizeof(float));
  if (!kernels.pack_weights(shape, use, packed->copy(), packed->panels())) return nullptr;
  kept().keep(key, packed);
  return packed;
}

std::int64_t kept_weight_bytes() { return kept().bytes(); }

void forget_packed_weights() { kept().forget(); }

}  // namespace h2learn
