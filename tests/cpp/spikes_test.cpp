// Packed spikes: the layout in bytes, and every operation on every target against the scalar one.
#include "h2learn/spikes.hpp"

#include <limits>
#include <numeric>

#include "support.hpp"

namespace h2learn::test {
namespace {

const std::vector<std::int64_t> feature_counts = {1, 3, 16, 63, 64, 65, 127, 128, 200, 1000};

TEST(Spikes, LayoutIsNumpysPackbitsLittleEndian) {
  // numpy.packbits([1,0,0,0,0,0,0,0, 0,1,1,0,0,0,0,1, 1], bitorder="little") is [0x01, 0x86, 0x01]
  const Floats dense = {1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1};
  const std::vector<unsigned char> expected = {0x01, 0x86, 0x01, 0, 0, 0, 0, 0};
  on_each_target([&] {
    std::uint64_t word = ~std::uint64_t{0};
    ASSERT_EQ(pack(dense.data(), 1, 17, &word), -1);
    std::vector<unsigned char> bytes(8);
    for (int i = 0; i < 8; ++i) bytes[size(i)] = static_cast<unsigned char>(word >> (8 * i));
    EXPECT_EQ(bytes, expected);
  });
}

TEST(Spikes, EveryRowStartsAtAWord) {
  const Floats dense = {1, 0, 1, /**/ 0, 1, 1};
  on_each_target([&] {
    Words words(2, ~std::uint64_t{0});
    ASSERT_EQ(pack(dense.data(), 2, 3, words.data()), -1);
    EXPECT_EQ(words, (Words{0b101, 0b110}));
  });
}

TEST(Spikes, PackThenUnpackIsTheIdentity) {
  for (std::int64_t features : feature_counts) {
    for (double rate : {0.0, 0.1, 0.5, 1.0}) {
      SCOPED_TRACE(features);
      const Floats dense = random_binary(5 * features, rate, 1);
      on_each_target([&] {
        Words words(size(5 * words_for(features)), ~std::uint64_t{0});
        ASSERT_EQ(pack(dense.data(), 5, features, words.data()), -1);
        for (std::int64_t r = 0; r < 5; ++r) {
          for (std::int64_t f = 0; f < 64 * words_for(features); ++f) {
            const bool expected = f < features && dense[size(r * features + f)] == 1.0F;
            ASSERT_EQ(bit(words, r, features, f), expected) << "row " << r << " bit " << f;
          }
        }
        Floats back(dense.size(), -1.0F);
        unpack({words.data(), 1, 5, features}, 1.0F, back.data());
        EXPECT_EQ(bits_of(back), bits_of(dense));
      });
    }
  }
}

TEST(Spikes, PackNamesTheFirstElementThatIsNotBinary) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (float bad : {0.5F, -1.0F, 2.0F, nan, std::numeric_limits<float>::infinity()}) {
    for (std::int64_t index : {std::int64_t{0}, std::int64_t{63}, std::int64_t{130}}) {
      on_each_target([&] {
        Floats dense = random_binary(2 * 70, 0.5, 2);
        Words words(4);
        dense[size(index)] = bad;
        dense.back() = bad;
        EXPECT_EQ(pack(dense.data(), 2, 70, words.data()), index);
      });
    }
  }
}

TEST(Spikes, MinusZeroIsZero) {
  const Floats dense(65, -0.0F);
  on_each_target([&] {
    Words words(2, 1);
    EXPECT_EQ(pack(dense.data(), 1, 65, words.data()), -1);
    EXPECT_EQ(words, (Words{0, 0}));
  });
}

TEST(Spikes, PackNonzeroMarksAllThatIsNotZero) {
  const std::vector<float> values = {0.0F,
                                     -0.0F,
                                     1.0F,
                                     -0.25F,
                                     std::numeric_limits<float>::denorm_min(),
                                     std::numeric_limits<float>::quiet_NaN(),
                                     -std::numeric_limits<float>::infinity()};
  for (std::int64_t features : feature_counts) {
    SCOPED_TRACE(features);
    Floats dense;
    for (std::int64_t i = 0; i < 5 * features; ++i) dense.push_back(values[size(i % 7)]);
    on_each_target([&] {
      Words words(size(5 * words_for(features)), ~std::uint64_t{0});
      pack_nonzero(dense.data(), 5, features, words.data());
      for (std::int64_t r = 0; r < 5; ++r) {
        for (std::int64_t f = 0; f < 64 * words_for(features); ++f) {
          const bool expected = f < features && (r * features + f) % 7 >= 2;
          ASSERT_EQ(bit(words, r, features, f), expected) << "row " << r << " bit " << f;
        }
      }
    });
  }
}

TEST(Spikes, UnpackMultipliesTheCountOfThePlanesByTheScale) {
  for (std::int64_t features : feature_counts) {
    const Words words = random_words(3 * 2, features, 0.5, 3);  // [planes, rows, words]
    on_each_target([&] {
      Floats dense(size(2 * features));
      unpack({words.data(), 3, 2, features}, 0.3F, dense.data());
      for (std::int64_t r = 0; r < 2; ++r) {
        for (std::int64_t f = 0; f < features; ++f) {
          const int count = bit(words, r, features, f) + 2 * bit(words, 2 + r, features, f) +
                            4 * bit(words, 4 + r, features, f);
          ASSERT_EQ(dense[size(r * features + f)], 0.3F * static_cast<float>(count));
        }
      }
    });
  }
}

TEST(Spikes, PopcountCountsSetBits) {
  for (std::int64_t features : feature_counts) {
    const Floats dense = random_binary(2 * 3 * features, 0.4, 4);
    const Words words = random_words(2 * 3, features, 0.4, 4);
    const auto ones = static_cast<std::int64_t>(std::accumulate(dense.begin(), dense.end(), 0.0));
    on_each_target([&] {
      const PackedView view{words.data(), 2, 3, features};
      EXPECT_EQ(popcount(view), ones);
      std::vector<std::int64_t> rows(3);
      popcount_rows(view, rows.data());
      for (std::int64_t r = 0; r < 3; ++r) {
        std::int64_t expected = 0;
        for (std::int64_t p = 0; p < 2; ++p) {
          for (std::int64_t f = 0; f < features; ++f)
            expected += bit(words, p * 3 + r, features, f);
        }
        EXPECT_EQ(rows[size(r)], expected);
      }
    });
  }
}

TEST(Spikes, TransposeFeaturesGoesFromChannelsLastToChannelsFirst) {
  for (std::int64_t positions : {1, 2, 25, 64, 100}) {
    for (std::int64_t channels : {1, 2, 3, 7, 8, 9, 16, 64, 65, 130}) {
      SCOPED_TRACE(testing::Message() << positions << " positions, " << channels << " channels");
      const std::int64_t features = positions * channels;
      const Words words = random_words(2 * 2, features, 0.5, 5);
      const PackedView view{words.data(), 2, 2, features};
      on_each_target([&] {
        Words out(words.size(), ~std::uint64_t{0});
        transpose_features(view, positions, channels, false, out.data());
        for (std::int64_t r = 0; r < 4; ++r) {
          for (std::int64_t p = 0; p < positions; ++p) {
            for (std::int64_t c = 0; c < channels; ++c) {
              ASSERT_EQ(bit(out, r, features, c * positions + p),
                        bit(words, r, features, p * channels + c));
            }
          }
        }
        Words back(words.size(), ~std::uint64_t{0});
        transpose_features({out.data(), 2, 2, features}, positions, channels, true, back.data());
        EXPECT_EQ(back, words) << "padding bits stay zero, and to_positions undoes it";
      });
    }
  }
}

TEST(Spikes, TransposeBitsExchangesRowsAndColumns) {
  for (std::int64_t rows : {1, 63, 64, 65, 300}) {
    for (std::int64_t columns : {1, 10, 64, 65, 200}) {
      SCOPED_TRACE(testing::Message() << rows << " by " << columns);
      const Words words = random_words(rows, columns, 0.5, 6);
      on_each_target([&] {
        Words out(size(columns * words_for(rows)), ~std::uint64_t{0});
        transpose_bits(words.data(), rows, columns, out.data());
        for (std::int64_t c = 0; c < columns; ++c) {
          for (std::int64_t r = 0; r < 64 * words_for(rows); ++r) {
            ASSERT_EQ(bit(out, c, rows, r), r < rows && bit(words, r, columns, c));
          }
        }
      });
    }
  }
}

TEST(Spikes, LargeTensorsAreTheSameOnEveryTargetAndNumberOfThreads) {
  constexpr std::int64_t rows = 700;
  constexpr std::int64_t features = 1999;
  const Floats dense = random_binary(rows * features, 0.2, 7);
  expect_same_everywhere([&] {
    Words words(size(rows * words_for(features)));
    pack(dense.data(), rows, features, words.data());
    return words;
  });
  expect_same_everywhere([&] {
    Words words(size(rows * words_for(features)));
    pack_nonzero(dense.data(), rows, features, words.data());
    return words;
  });
  const Words words = random_words(rows, features, 0.2, 7);
  const PackedView view{words.data(), 1, rows, features};
  expect_same_everywhere([&] {
    Floats back(dense.size());
    unpack(view, 2.5F, back.data());
    return bits_of(back);
  });
  expect_same_everywhere([&] { return popcount(view); });
  expect_same_everywhere([&] {
    Words out(size(features * words_for(rows)));
    transpose_bits(words.data(), rows, features, out.data());
    return out;
  });
  const Words images = random_words(rows, 33 * 40, 0.2, 8);
  expect_same_everywhere([&] {
    Words out(images.size());
    transpose_features({images.data(), 1, rows, 33 * 40}, 33, 40, false, out.data());
    return out;
  });
}

TEST(Spikes, OneBadElementAmongManyIsFoundByEveryThread) {
  Floats dense(300 * 1000, 0.0F);
  dense[299'999] = 0.25F;
  dense[123'456] = 0.25F;
  on_each_target([&] {
    for (int count : {1, 2}) {
      const Threads threads(count);
      Words words(size(300 * words_for(1000)));
      EXPECT_EQ(pack(dense.data(), 300, 1000, words.data()), 123'456);
    }
  });
}

TEST(Spikes, EmptyTensorsAreFine) {
  on_each_target([&] {
    EXPECT_EQ(pack(nullptr, 0, 10, nullptr), -1);
    pack_nonzero(nullptr, 0, 10, nullptr);
    pack_nonzero(nullptr, 3, 0, nullptr);
    EXPECT_EQ(popcount({nullptr, 1, 0, 10}), 0);
    unpack({nullptr, 1, 3, 0}, 1.0F, nullptr);
  });
}

TEST(Spikes, BadInputIsRefused) {
  std::uint64_t word = 0;
  float value = 0.0F;
  expect_refused([&] { pack(&value, -1, 1, &word); }, {"rows", "-1"});
  expect_refused([&] { pack(&value, 1, -2, &word); }, {"features", "-2"});
  expect_refused([&] { pack_nonzero(&value, -1, 1, &word); }, {"rows", "-1"});
  expect_refused([&] { pack_nonzero(&value, 1, -2, &word); }, {"features", "-2"});
  expect_refused([&] { unpack({&word, 0, 1, 1}, 1.0F, &value); }, {"planes", "1 and 24", "got 0"});
  expect_refused([&] { unpack({&word, 25, 1, 1}, 1.0F, &value); }, {"planes", "got 25"});
  const float infinity = std::numeric_limits<float>::infinity();
  expect_refused([&] { unpack({&word, 1, 1, 1}, infinity, &value); }, {"scale", "inf"});
  expect_refused([&] { popcount({&word, 1, 1, -5}); }, {"features", "-5"});
  expect_refused([&] { transpose_features({&word, 1, 1, 6}, 2, 4, false, &word); },
                 {"positions * channels", "(6)", "2 * 4"});
  expect_refused([&] { transpose_bits(&word, 1, -3, &word); }, {"columns", "-3"});
}

}  // namespace
}  // namespace h2learn::test
