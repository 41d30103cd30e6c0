// Counting bits for the fast simulator, a word at a time. The instruction sets differ in how they
// count the set bits of a word; everything else is shifts.
#include "kernels/bit_strings.hpp"

#include "kernels/bit_run.hpp"

namespace h2learn::H2LEARN_TARGET {
namespace {

using accelerator::BitStrings;
using accelerator::most_together;
using accelerator::Windows;

/// Set bits of a word; written out where the instruction set would call a library function.
H2LEARN_INLINE std::int64_t ones_of(std::uint64_t word) {
#if defined(__POPCNT__) || defined(__aarch64__)
  return __builtin_popcountll(word);
#else
  word -= (word >> 1) & 0x5555555555555555;
  word = (word & 0x3333333333333333) + ((word >> 2) & 0x3333333333333333);
  word = (word + (word >> 4)) & 0x0f0f0f0f0f0f0f0f;
  return static_cast<std::int64_t>((word * 0x0101010101010101) >> 56);
#endif
}

H2LEARN_INLINE std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

H2LEARN_INLINE std::int64_t start_of(const BitStrings& strings, std::int64_t i) {
  return strings.first + i * strings.stride;
}

/// Whether every string is made of whole words.
H2LEARN_INLINE bool whole_words(std::int64_t first, std::int64_t stride, std::int64_t length) {
  return ((first | stride | length) & 63) == 0;
}

void add_ones(const BitStrings& strings, std::int64_t* ones) {
  if (strings.length <= 0) return;
  if (whole_words(strings.first, strings.stride, strings.length)) {
    const std::int64_t words = strings.length / 64;
    for (std::int64_t i = 0; i < strings.count; ++i) {
      const std::uint64_t* const from = strings.words + start_of(strings, i) / 64;
      std::int64_t count = 0;
      for (std::int64_t w = 0; w < words; ++w) count += ones_of(from[w]);
      ones[i] += count;
    }
    return;
  }
  for (std::int64_t i = 0; i < strings.count; ++i) {
    const std::int64_t start = start_of(strings, i);
    std::int64_t count = 0;
    for (std::int64_t place = 0; place < strings.length; place += 64) {
      count +=
          ones_of(read_bits(strings.words, start + place, smaller(64, strings.length - place)));
    }
    ones[i] += count;
  }
}

/// Sets every `width`th bit where one of the `width` bits from there on is set.
H2LEARN_INLINE std::uint64_t fold(std::uint64_t bits, std::int64_t width) {
  for (std::int64_t covered = 1; covered < width;) {
    const std::int64_t step = smaller(covered, width - covered);
    bits |= bits >> step;
    covered += step;
  }
  return bits;
}

void add_fields(const BitStrings& strings, std::int64_t width, std::int64_t* fields) {
  const std::int64_t chunk = 64 / width * width;
  std::uint64_t starts = 0;
  for (std::int64_t place = 0; place < chunk; place += width) starts |= std::uint64_t{1} << place;
  for (std::int64_t i = 0; i < strings.count; ++i) {
    const std::int64_t start = start_of(strings, i);
    std::int64_t count = 0;
    for (std::int64_t place = 0; place < strings.length; place += chunk) {
      const std::uint64_t bits =
          read_bits(strings.words, start + place, smaller(chunk, strings.length - place));
      count += ones_of(fold(bits, width) & starts);
    }
    fields[i] += count;
  }
}

/// A number for each of 64 places, digit by digit: bit p of digits[d] is digit d of place p's.
struct Digits {
  std::uint64_t digits[64];
  int used;
};

/// Adds 2^digit to the places that are set.
H2LEARN_INLINE void add_places(Digits& sum, int digit, std::uint64_t places) {
  for (; places != 0; ++digit) {
    while (sum.used <= digit) sum.digits[sum.used++] = 0;
    const std::uint64_t carry = sum.digits[digit] & places;
    sum.digits[digit] ^= places;
    places = carry;
  }
}

H2LEARN_INLINE std::int64_t largest_of(const Digits& sum) {
  std::uint64_t places = ~std::uint64_t{0};
  std::int64_t largest = 0;
  for (int digit = sum.used - 1; digit >= 0; --digit) {
    const std::uint64_t above = places & sum.digits[digit];
    if (above == 0) continue;
    places = above;
    largest |= std::int64_t{1} << digit;
  }
  return largest;
}

/// Of up to 64 banks, of which a word holds all places once or more often.
H2LEARN_INLINE std::int64_t most_in_few_banks(const std::uint64_t* words, std::int64_t start,
                                              std::int64_t length, std::int64_t banks) {
  const std::int64_t turns = 64 / banks;
  Digits places;
  places.used = 0;
  for (std::int64_t place = 0; place < length; place += turns * banks) {
    add_places(places, 0, read_bits(words, start + place, smaller(turns * banks, length - place)));
  }
  if (turns == 1) return largest_of(places);
  Digits sum;
  sum.used = 0;
  for (std::int64_t turn = 0; turn < turns; ++turn) {
    for (int digit = 0; digit < places.used; ++digit) {
      add_places(sum, digit, (places.digits[digit] >> (turn * banks)) & low_bits(banks));
    }
  }
  return largest_of(sum);
}

/// Of the banks from `bank` on, at most 64 of them.
H2LEARN_INLINE std::int64_t most_in_some_banks(const std::uint64_t* words, std::int64_t start,
                                               std::int64_t length, std::int64_t banks,
                                               std::int64_t bank) {
  Digits places;
  places.used = 0;
  for (std::int64_t place = bank; place < length; place += banks) {
    const std::int64_t count = smaller(smaller(64, banks - bank), length - place);
    add_places(places, 0, read_bits(words, start + place, count));
  }
  return largest_of(places);
}

void most_in_bank(const BitStrings& strings, std::int64_t banks, std::int64_t* most) {
  for (std::int64_t i = 0; i < strings.count; ++i) {
    const std::int64_t start = start_of(strings, i);
    if (banks <= 64) {
      most[i] = most_in_few_banks(strings.words, start, strings.length, banks);
      continue;
    }
    most[i] = 0;
    for (std::int64_t bank = 0; bank < smaller(banks, strings.length); bank += 64) {
      const std::int64_t here =
          most_in_some_banks(strings.words, start, strings.length, banks, bank);
      if (here > most[i]) most[i] = here;
    }
  }
}

void mark_any(const BitStrings& strings, std::int64_t bit, std::uint64_t* any) {
  for (std::int64_t i = 0; i < strings.count; ++i) {
    const std::int64_t start = start_of(strings, i);
    std::uint64_t bits = 0;
    for (std::int64_t place = 0; place < strings.length; place += 64) {
      bits |= read_bits(strings.words, start + place, smaller(64, strings.length - place));
    }
    any[i] |= std::uint64_t{bits != 0} << bit;
  }
}

/// The strings of one tap that windows read, without those in the padding: plane 0 of string i
/// starts at bit `first[i]` (0 to 63) of `words[i]`.
struct Strings {
  const std::uint64_t* words[most_together];
  std::int64_t first[most_together];
  int count;
};

H2LEARN_INLINE void read_by(const Windows& w, std::int64_t from, std::int64_t to, std::int64_t tap,
                            Strings& strings) {
  strings.count = 0;
  for (std::int64_t window = from; window < to; ++window) {
    const std::int64_t input = w.input_of_output[w.outputs[window] * w.taps + tap];
    if (input < 0) continue;
    const std::int64_t start = w.first + input * w.stride;
    strings.words[strings.count] = w.rows[window] + (start >> 6);
    strings.first[strings.count] = start & 63;
    ++strings.count;
  }
}

/// Words that are combined side by side, in one vector where the instruction set has them.
constexpr int at_once = 4;

H2LEARN_INLINE std::int64_t count_whole_words(const Strings& strings, std::int64_t offset,
                                              std::int64_t words) {
  std::int64_t count = 0;
  std::int64_t word = 0;
  for (; word + at_once <= words; word += at_once) {
    std::uint64_t bits[at_once] = {};
    for (int i = 0; i < strings.count; ++i) {
      H2LEARN_UNROLL
      for (int j = 0; j < at_once; ++j) bits[j] |= strings.words[i][offset + word + j];
    }
    H2LEARN_UNROLL
    for (int j = 0; j < at_once; ++j) count += ones_of(bits[j]);
  }
  for (; word < words; ++word) {
    std::uint64_t bits = 0;
    for (int i = 0; i < strings.count; ++i) bits |= strings.words[i][offset + word];
    count += ones_of(bits);
  }
  return count;
}

H2LEARN_INLINE std::int64_t count_any_bits(const Strings& strings, std::int64_t offset,
                                           std::int64_t length) {
  std::int64_t count = 0;
  for (std::int64_t place = 0; place < length; place += 64) {
    const std::int64_t here = smaller(64, length - place);
    std::uint64_t bits = 0;
    for (int i = 0; i < strings.count; ++i) {
      bits |= read_bits(strings.words[i] + offset, strings.first[i] + place, here);
    }
    count += ones_of(bits);
  }
  return count;
}

std::int64_t count_addresses(const Windows& w) {
  const bool whole = whole_words(w.first, w.stride, w.length);
  std::int64_t count = 0;
  Strings strings;
  for (std::int64_t from = 0; from < w.windows; from += w.together) {
    const std::int64_t to = smaller(from + w.together, w.windows);
    for (std::int64_t tap = 0; tap < w.taps; ++tap) {
      read_by(w, from, to, tap, strings);
      for (std::int64_t plane = 0; plane < w.planes; ++plane) {
        const std::int64_t offset = plane * w.plane_words;
        count += whole ? count_whole_words(strings, offset, w.length / 64)
                       : count_any_bits(strings, offset, w.length);
      }
    }
  }
  return count;
}

}  // namespace

extern const BitStringKernels bit_strings = {&add_ones, &add_fields, &most_in_bank, &mark_any,
                                             &count_addresses};

}  // namespace h2learn::H2LEARN_TARGET
