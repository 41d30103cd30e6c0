#include "accelerator/fast_windows.hpp"

namespace h2learn::accelerator::fast {
namespace {

std::size_t at(std::int64_t index) { return static_cast<std::size_t>(index); }

/// Spans that lie closer than this are one: a word costs less than a span.
constexpr std::int64_t words_between_spans = 4;

}  // namespace

PaddedImage::PaddedImage(const Layer& layer)
    : geometry_(layer.work->geometry),
      channels_(layer.group_inputs),
      height_(geometry_.in_height + 2 * geometry_.padding_height),
      width_(geometry_.in_width + 2 * geometry_.padding_width),
      out_width_(geometry_.out_width()) {}

void PaddedImage::fill(const BitStringKernels& kernels, const std::uint64_t* row,
                       std::int64_t group, std::int64_t behind,
                       std::vector<std::uint64_t>& words) const {
  words.assign(at(words_for(positions() * channels_) + behind), 0);
  const Geometry& g = geometry_;
  const std::int64_t first = g.padding_height * width_ + g.padding_width;
  if (g.groups == 1) {
    const std::int64_t length = g.in_positions() / rows() * channels_;
    kernels.place({row, 0, length, rows(), length}, first * channels_, width_ * channels_,
                  words.data());
    return;
  }
  for (std::int64_t y = 0; y < g.in_height; ++y) {
    kernels.place({row, y * g.in_width * g.in_channels + group * channels_, g.in_channels,
                   g.in_width, channels_},
                  (first + y * width_) * channels_, channels_, words.data());
  }
}

void PaddedImage::add_ones(const BitStringKernels& kernels, const std::uint64_t* row,
                           std::int64_t group, std::int64_t* ones) const {
  const Geometry& g = geometry_;
  ones += g.padding_height * width_ + g.padding_width;
  const std::int64_t length = g.in_positions() / rows();
  for (std::int64_t y = 0; y < rows(); ++y) {
    kernels.add_ones(
        {row, y * length * g.in_channels + group * channels_, g.in_channels, length, channels_},
        ones + y * width_);
  }
}

// ---- addresses

AddressCount AddressCount::forward(const Layer& layer, std::int64_t inputs) {
  const PaddedImage image(layer);
  const std::int64_t channels = layer.group_inputs;
  AddressCount count(words_for(image.positions() * channels));
  const auto place = [&](std::int64_t k) {
    return image.tap(k / channels) * channels + k % channels;
  };
  std::vector<std::int64_t> windows;
  for (std::int64_t output = 0; output < layer.output_positions; ++output) {
    windows.push_back(image.window(output) * channels);
  }
  std::vector<std::int64_t> offsets;
  for (std::int64_t k = 0; k < layer.fan_in; k += inputs) {
    offsets.clear();
    const std::int64_t first = place(k);
    for (std::int64_t j = k; j < std::min(k + inputs, layer.fan_in); ++j) {
      offsets.push_back(place(j) - first);
    }
    Alike& alike = count.alike(offsets);
    for (const std::int64_t window : windows) count.add(alike, window + first, 1);
  }
  count.finish();
  return count;
}

AddressCount AddressCount::update(const Layer& layer, std::int64_t inputs, std::int64_t first) {
  const PaddedImage image(layer);
  const std::int64_t channels = layer.group_inputs;
  AddressCount count(words_for(image.positions() * channels));
  std::vector<std::int64_t> offsets;
  for (std::int64_t output = first; output + inputs <= layer.output_positions; output += inputs) {
    offsets.clear();
    const std::int64_t window = image.window(output);
    for (std::int64_t j = output; j < output + inputs; ++j) {
      offsets.push_back((image.window(j) - window) * channels);
    }
    Alike& alike = count.alike(offsets);
    for (std::int64_t tap = 0; tap < layer.taps; tap += image.taps_in_a_run()) {
      count.add(alike, (window + image.tap(tap)) * channels, image.taps_in_a_run() * channels);
    }
  }
  count.finish();
  return count;
}

AddressCount::Alike& AddressCount::alike(const std::vector<std::int64_t>& offsets) {
  const auto found = std::find_if(alike_.begin(), alike_.end(),
                                  [&](const Alike& a) { return a.offsets == offsets; });
  if (found != alike_.end()) return *found;
  reach_ = std::max(reach_, offsets.back() / word_bits + words_behind);
  alike_.push_back({offsets, {}});
  return alike_.back();
}

/// One more address at each of some bits.
void AddressCount::add(Alike& alike, std::int64_t first, std::int64_t bits) const {
  for (const std::int64_t end = first + bits; first < end;) {
    const std::int64_t place = first % word_bits;
    const std::int64_t here = std::min(word_bits - place, end - first);
    std::uint64_t carry = (~std::uint64_t{0} >> (word_bits - here)) << place;
    for (std::size_t digit = 0; carry != 0; ++digit) {
      if (digit == alike.digits.size()) alike.digits.emplace_back(at(words_), 0);
      std::uint64_t& places = alike.digits[digit][at(first / word_bits)];
      const std::uint64_t both = places & carry;
      places ^= carry;
      carry = both;
    }
    first += here;
  }
}

/// Keeps only words that an address begins in.
void AddressCount::finish() {
  for (std::size_t a = 0; a < alike_.size(); ++a) {
    const auto& digits = alike_[a].digits;
    const auto used = [&](std::int64_t word) {
      return std::any_of(digits.begin(), digits.end(),
                         [&](const auto& digit) { return digit[at(word)] != 0; });
    };
    for (std::int64_t word = 0; word < words_; ++word) {
      if (!used(word)) continue;
      std::int64_t end = word + 1;
      for (std::int64_t w = end; w < std::min(words_, end + words_between_spans); ++w) {
        if (used(w)) end = w + 1;
      }
      spans_.push_back(
          {a, word, end - word, static_cast<std::int64_t>(digits.size()), weights_.size()});
      for (const auto& digit : digits) {
        weights_.insert(weights_.end(), digit.begin() + word, digit.begin() + end);
      }
      word = end - 1;
    }
    alike_[a].digits = {};
  }
}

std::int64_t AddressCount::count(const BitStringKernels& kernels,
                                 const std::vector<std::uint64_t>& words) const {
  std::int64_t count = 0;
  for (const Span& span : spans_) {
    const std::vector<std::int64_t>& offsets = alike_[span.alike].offsets;
    count += kernels.count_addresses({words.data(), offsets.data(),
                                      static_cast<std::int64_t>(offsets.size()), span.first_word,
                                      span.words, weights_.data() + span.weights, span.digits});
  }
  return count;
}

// ---- set bits

WindowOnes::WindowOnes(const Layer& layer, const PaddedImage& image)
    : image_(image), planes_(layer.planes) {
  const Geometry& g = layer.work->geometry;
  for (std::int64_t y = 0; y < g.kernel_height; ++y) {
    down_.push_back(y * g.dilation_height * image.width());
  }
  for (std::int64_t x = 0; x < g.kernel_width; ++x) across_.push_back(x * g.dilation_width);
}

void WindowOnes::count(const BitStringKernels& kernels, const std::uint64_t* row,
                       std::int64_t plane_words, std::int64_t group) {
  const std::int64_t positions = image_.positions();
  ones_.assign(at(positions), 0);
  for (std::int64_t plane = 0; plane < planes_; ++plane) {
    image_.add_ones(kernels, row + plane * plane_words, group, ones_.data());
  }
  const auto sum = [&](const std::vector<std::int64_t>& from,
                       const std::vector<std::int64_t>& shifts, std::vector<std::int64_t>& to) {
    const std::int64_t count = static_cast<std::int64_t>(from.size()) - shifts.back();
    to.assign(at(count), 0);
    kernels.add_shifted(from.data(), shifts.data(), static_cast<std::int64_t>(shifts.size()), count,
                        to.data());
  };
  sum(ones_, down_, columns_);
  sum(columns_, across_, sums_);
}

}  // namespace h2learn::accelerator::fast
