#include "reference/bit_strings.hpp"

#include <algorithm>

namespace h2learn::reference {
namespace {

using accelerator::Addresses;
using accelerator::BitStrings;
using accelerator::Windows;

bool bit_at(const std::uint64_t* words, std::int64_t index) {
  return ((words[index / 64] >> (index % 64)) & 1U) != 0;
}

bool bit_of(const BitStrings& strings, std::int64_t string, std::int64_t place) {
  return bit_at(strings.words, strings.first + string * strings.stride + place);
}

bool bit_of_window(const Windows& w, std::int64_t window, std::int64_t plane, std::int64_t tap,
                   std::int64_t place) {
  const std::int64_t input = w.input_of_output[w.outputs[window] * w.taps + tap];
  if (input < 0) return false;
  return bit_at(w.rows[window] + plane * w.plane_words, w.first + input * w.stride + place);
}

}  // namespace

void add_ones(const BitStrings& strings, std::int64_t* ones) {
  for (std::int64_t i = 0; i < strings.count; ++i) {
    for (std::int64_t place = 0; place < strings.length; ++place) {
      ones[i] += std::int64_t{bit_of(strings, i, place)};
    }
  }
}

void most_in_bank(const BitStrings& strings, std::int64_t banks, std::int64_t* most) {
  for (std::int64_t i = 0; i < strings.count; ++i) {
    most[i] = 0;
    for (std::int64_t bank = 0; bank < std::min(banks, strings.length); ++bank) {
      std::int64_t here = 0;
      for (std::int64_t place = bank; place < strings.length; place += banks) {
        here += std::int64_t{bit_of(strings, i, place)};
      }
      most[i] = std::max(most[i], here);
    }
  }
}

void place(const BitStrings& strings, std::int64_t first, std::int64_t stride, std::uint64_t* to) {
  for (std::int64_t i = 0; i < strings.count; ++i) {
    for (std::int64_t at = 0; at < strings.length; ++at) {
      const std::int64_t there = first + i * stride + at;
      to[there / 64] |= std::uint64_t{bit_of(strings, i, at)} << (there % 64);
    }
  }
}

std::int64_t count_addresses(const Addresses& a) {
  std::int64_t count = 0;
  for (std::int64_t at = 0; at < a.weight_words * 64; ++at) {
    bool set = false;
    for (std::int64_t j = 0; j < a.bits; ++j) {
      set = set || bit_at(a.words, a.first_word * 64 + at + a.offsets[j]);
    }
    for (std::int64_t digit = 0; set && digit < a.digits; ++digit) {
      const bool counts = bit_at(a.weights + digit * a.weight_words, at);
      count += std::int64_t{counts} << digit;
    }
  }
  return count;
}

std::int64_t count_window_addresses(const Windows& w) {
  std::int64_t count = 0;
  for (std::int64_t from = 0; from < w.windows; from += w.together) {
    const std::int64_t to = std::min(from + w.together, w.windows);
    for (std::int64_t plane = 0; plane < w.planes; ++plane) {
      for (std::int64_t tap = 0; tap < w.taps; ++tap) {
        for (std::int64_t place = 0; place < w.length; ++place) {
          bool set = false;
          for (std::int64_t window = from; window < to; ++window) {
            set = set || bit_of_window(w, window, plane, tap, place);
          }
          count += std::int64_t{set};
        }
      }
    }
  }
  return count;
}

void add_shifted(const std::int64_t* from, const std::int64_t* shifts, std::int64_t terms,
                 std::int64_t count, std::int64_t* sums) {
  for (std::int64_t i = 0; i < count; ++i) {
    for (std::int64_t j = 0; j < terms; ++j) sums[i] += from[i + shifts[j]];
  }
}

}  // namespace h2learn::reference
