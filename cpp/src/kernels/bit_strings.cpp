// Counting bits for the fast simulator, a word at a time. The instruction sets differ in how they
// count the set bits of a word; everything else is shifts.
#include "kernels/bit_strings.hpp"

#include "kernels/bit_run.hpp"

namespace h2learn::H2LEARN_TARGET {
namespace {

using accelerator::Addresses;
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

/// Set bits of each of the strings of `length` bits, 1 to 32 and a power of two, in a word.
template <int length>
H2LEARN_INLINE std::uint64_t ones_of_each(std::uint64_t word) {
  if constexpr (length >= 2) word -= (word >> 1) & 0x5555555555555555;
  if constexpr (length >= 4) {
    word = (word & 0x3333333333333333) + ((word >> 2) & 0x3333333333333333);
  }
  if constexpr (length >= 8) word = (word + (word >> 4)) & 0x0f0f0f0f0f0f0f0f;
  if constexpr (length >= 16) word = (word + (word >> 8)) & 0x00ff00ff00ff00ff;
  if constexpr (length >= 32) word = (word + (word >> 16)) & 0x0000ffff0000ffff;
  return word;
}

/// Strings of `length` bits one behind the other, the first at the beginning of a word.
template <int length>
void add_dense_ones(const std::uint64_t* words, std::int64_t count, std::int64_t* ones) {
  constexpr int each = 64 / length;
  for (; count >= each; count -= each, ones += each, ++words) {
    const std::uint64_t counts = ones_of_each<length>(*words);
    H2LEARN_UNROLL
    for (int i = 0; i < each; ++i) {
      ones[i] += static_cast<std::int64_t>((counts >> (i * length)) & low_bits(length));
    }
  }
  if (count == 0) return;
  const std::uint64_t counts = ones_of_each<length>(*words);
  for (std::int64_t i = 0; i < count; ++i) {
    ones[i] += static_cast<std::int64_t>((counts >> (i * length)) & low_bits(length));
  }
}

/// Adds the set bits of strings that share words, if they do so in one of the usual ways.
H2LEARN_INLINE bool add_ones_of_shared_words(const BitStrings& strings, std::int64_t* ones) {
  if (strings.stride != strings.length || (strings.first & 63) != 0) return false;
  const std::uint64_t* const words = strings.words + strings.first / 64;
  switch (strings.length) {
    case 1:
      add_dense_ones<1>(words, strings.count, ones);
      return true;
    case 2:
      add_dense_ones<2>(words, strings.count, ones);
      return true;
    case 4:
      add_dense_ones<4>(words, strings.count, ones);
      return true;
    case 8:
      add_dense_ones<8>(words, strings.count, ones);
      return true;
    case 16:
      add_dense_ones<16>(words, strings.count, ones);
      return true;
    case 32:
      add_dense_ones<32>(words, strings.count, ones);
      return true;
    default:
      return false;
  }
}

/// Strings that each begin at the beginning of a word.
H2LEARN_INLINE void add_aligned_ones(const BitStrings& strings, std::int64_t* ones) {
  const std::int64_t words = strings.length / 64;
  const std::int64_t rest = strings.length % 64;
  for (std::int64_t i = 0; i < strings.count; ++i) {
    const std::uint64_t* const from = strings.words + start_of(strings, i) / 64;
    std::int64_t count = 0;
    for (std::int64_t w = 0; w < words; ++w) count += ones_of(from[w]);
    if (rest > 0) count += ones_of(from[words] & low_bits(rest));
    ones[i] += count;
  }
}

void add_ones(const BitStrings& strings, std::int64_t* ones) {
  if (strings.length <= 0) return;
  if (add_ones_of_shared_words(strings, ones)) return;
  if (strings.count == 1 || (strings.stride & 63) == 0) {
    if ((strings.first & 63) == 0) return add_aligned_ones(strings, ones);
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

/// Of up to 64 banks that have `rows` places each. Without a branch: the bits say no word ahead.
template <int rows>
void most_in_rows(const BitStrings& strings, std::int64_t banks, std::int64_t* most) {
  for (std::int64_t i = 0; i < strings.count; ++i) {
    const std::int64_t start = start_of(strings, i);
    std::uint64_t more_than[rows] = {};  // banks that have more than so many set bits
    H2LEARN_UNROLL
    for (int row = 0; row < rows; ++row) {
      const std::int64_t place = row * banks;
      const std::uint64_t bits =
          read_bits(strings.words, start + place, smaller(banks, strings.length - place));
      H2LEARN_UNROLL
      for (int n = row; n > 0; --n) more_than[n] |= more_than[n - 1] & bits;
      more_than[0] |= bits;
    }
    most[i] = 0;
    H2LEARN_UNROLL
    for (int n = 0; n < rows; ++n) most[i] += more_than[n] != 0 ? 1 : 0;
  }
}

/// most_in_bank where few rows of banks hold the strings.
H2LEARN_INLINE bool most_in_few_rows(const BitStrings& strings, std::int64_t banks,
                                     std::int64_t* most) {
  if (banks > 64 || strings.length <= 0) return false;
  switch ((strings.length + banks - 1) / banks) {
    case 1:
      most_in_rows<1>(strings, banks, most);
      return true;
    case 2:
      most_in_rows<2>(strings, banks, most);
      return true;
    case 3:
      most_in_rows<3>(strings, banks, most);
      return true;
    case 4:
      most_in_rows<4>(strings, banks, most);
      return true;
    case 5:
      most_in_rows<5>(strings, banks, most);
      return true;
    case 6:
      most_in_rows<6>(strings, banks, most);
      return true;
    case 7:
      most_in_rows<7>(strings, banks, most);
      return true;
    case 8:
      most_in_rows<8>(strings, banks, most);
      return true;
    default:
      return false;
  }
}

void most_in_bank(const BitStrings& strings, std::int64_t banks, std::int64_t* most) {
  if (most_in_few_rows(strings, banks, most)) return;
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

void place(const BitStrings& strings, std::int64_t first, std::int64_t stride, std::uint64_t* to) {
  for (std::int64_t i = 0; i < strings.count; ++i) {
    const std::int64_t start = start_of(strings, i);
    const std::int64_t there = first + i * stride;
    std::int64_t at = 0;
    if (((start | there) & 63) == 0) {
      const std::uint64_t* const from = strings.words + start / 64;
      for (; at + 64 <= strings.length; at += 64) to[(there + at) / 64] = from[at / 64];
    }
    for (; at < strings.length; at += 64) {
      const std::int64_t here = smaller(64, strings.length - at);
      or_bits(to, there + at, here, read_bits(strings.words, start + at, here));
    }
  }
}

typedef std::uint64_t Bits __attribute__((vector_size(vector_bytes), aligned(8), may_alias));

/// Words in a vector.
constexpr std::int64_t each = vector_bytes / 8;
static_assert(each <= accelerator::words_behind);

std::int64_t count_addresses(const Addresses& a) {
  constexpr std::int64_t chunk = 64;
  std::uint64_t any[chunk];
  std::int64_t count = 0;
  for (std::int64_t from = 0; from < a.weight_words; from += chunk) {
    const std::int64_t here = smaller(chunk, a.weight_words - from);
    for (std::int64_t w = 0; w < here; w += each) {
      const std::uint64_t* const words = a.words + a.first_word + from + w;
      Bits set = {};
      for (std::int64_t j = 0; j < a.bits; ++j) {
        const std::uint64_t* const word = words + (a.offsets[j] >> 6);
        const std::int64_t shift = a.offsets[j] & 63;
        // In two steps, for a shift of 0.
        set |= (*reinterpret_cast<const Bits*>(word) >> shift) |
               (*reinterpret_cast<const Bits*>(word + 1) << 1 << (63 - shift));
      }
      *reinterpret_cast<Bits*>(any + w) = set;
    }
    for (std::int64_t digit = 0; digit < a.digits; ++digit) {
      const std::uint64_t* const weights = a.weights + digit * a.weight_words + from;
      std::int64_t ones = 0;
      for (std::int64_t w = 0; w < here; ++w) ones += ones_of(any[w] & weights[w]);
      count += ones << digit;
    }
  }
  return count;
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

std::int64_t count_window_addresses(const Windows& w) {
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

void add_shifted(const std::int64_t* from, const std::int64_t* shifts, std::int64_t terms,
                 std::int64_t count, std::int64_t* sums) {
  constexpr int vectors = 4;  // the sign of what is added makes no difference
  std::int64_t i = 0;
  for (; i + vectors * each <= count; i += vectors * each) {
    Bits* const to = reinterpret_cast<Bits*>(sums + i);
    Bits total[vectors];
    H2LEARN_UNROLL
    for (int v = 0; v < vectors; ++v) total[v] = to[v];
    for (std::int64_t j = 0; j < terms; ++j) {
      const Bits* const term = reinterpret_cast<const Bits*>(from + i + shifts[j]);
      H2LEARN_UNROLL
      for (int v = 0; v < vectors; ++v) total[v] += term[v];
    }
    H2LEARN_UNROLL
    for (int v = 0; v < vectors; ++v) to[v] = total[v];
  }
  for (std::int64_t j = 0; j < terms; ++j) {
    for (std::int64_t k = i; k < count; ++k) sums[k] += from[k + shifts[j]];
  }
}

}  // namespace

extern const BitStringKernels bit_strings = {
    &add_ones, &most_in_bank, &place, &count_addresses, &count_window_addresses, &add_shifted};

}  // namespace h2learn::H2LEARN_TARGET
