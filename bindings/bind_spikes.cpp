// Packing, unpacking, counting and transposing bit-packed spikes.
#include "bindings.hpp"
#include "h2learn/spikes.hpp"

namespace h2learn {
namespace {

using Floats = Array<float>;
using Words = Array<std::int64_t>;

template <typename T>
void require_rank(const char* name, const Array<T>& array, std::int64_t rank) {
  if (array.ndim() != rank) {
    throw std::invalid_argument(std::string(name) + " must have " + std::to_string(rank) +
                                " dimensions, got " + std::to_string(array.ndim()));
  }
}

void require_words(const char* name, std::int64_t words, std::int64_t features) {
  if (features < 0 || words != words_for(features)) {
    throw std::invalid_argument(std::string(name) + " must have " +
                                std::to_string(words_for(features)) + " words a row to hold " +
                                std::to_string(features) + " features, got " +
                                std::to_string(words));
  }
}

/// A view of words[planes, rows, W] with `features` bits a row.
PackedView view_of(const Words& words, std::int64_t features) {
  require_rank("words", words, 3);
  require_words("words", words.shape(2), features);
  return {words_of(words), words.shape(0), words.shape(1), features};
}

std::int64_t bind_pack(const Floats& dense, Words& out) {
  require_rank("dense", dense, 2);
  const std::int64_t rows = dense.shape(0);
  const std::int64_t features = dense.shape(1);
  require_size("out", out, rows * words_for(features));
  std::uint64_t* const words = mutable_words_of(out);
  const float* const values = dense.data();
  const py::gil_scoped_release unlocked;
  return pack(values, rows, features, words);
}

void bind_pack_nonzero(const Floats& dense, Words& out) {
  require_rank("dense", dense, 2);
  const std::int64_t rows = dense.shape(0);
  const std::int64_t features = dense.shape(1);
  require_size("out", out, rows * words_for(features));
  std::uint64_t* const words = mutable_words_of(out);
  const float* const values = dense.data();
  const py::gil_scoped_release unlocked;
  pack_nonzero(values, rows, features, words);
}

void bind_unpack(const Words& words, std::int64_t features, float scale, Floats& out) {
  const PackedView view = view_of(words, features);
  require_size("out", out, view.rows * features);
  float* const values = out.mutable_data();
  const py::gil_scoped_release unlocked;
  unpack(view, scale, values);
}

std::int64_t bind_popcount(const Words& words) {
  // Padding bits are zero, so the words may be counted as one row of whole words.
  const PackedView view{words_of(words), 1, words.size(), word_bits};
  const py::gil_scoped_release unlocked;
  return popcount(view);
}

void bind_popcount_rows(const Words& words, Array<std::int64_t>& out) {
  require_rank("words", words, 3);
  const PackedView view = view_of(words, words.shape(2) * word_bits);
  require_size("out", out, view.rows);
  std::int64_t* const counts = out.mutable_data();
  const py::gil_scoped_release unlocked;
  popcount_rows(view, counts);
}

void bind_transpose_features(const Words& words, std::int64_t positions, std::int64_t channels,
                             bool to_positions, Words& out) {
  constexpr std::int64_t limit = std::int64_t{1} << 31;
  if (positions < 0 || channels < 0 || positions > limit || channels > limit) {
    throw std::invalid_argument("positions and channels must be between 0 and 2^31, got " +
                                std::to_string(positions) + " and " + std::to_string(channels));
  }
  const PackedView view = view_of(words, positions * channels);
  require_size("out", out, words.size());
  std::uint64_t* const result = mutable_words_of(out);
  const py::gil_scoped_release unlocked;
  transpose_features(view, positions, channels, to_positions, result);
}

void bind_transpose_bits(const Words& bits, std::int64_t columns, Words& out) {
  require_rank("bits", bits, 2);
  require_words("bits", bits.shape(1), columns);
  const std::int64_t rows = bits.shape(0);
  require_size("out", out, columns * words_for(rows));
  const std::uint64_t* const source = words_of(bits);
  std::uint64_t* const result = mutable_words_of(out);
  const py::gil_scoped_release unlocked;
  transpose_bits(source, rows, columns, result);
}

}  // namespace

void bind_spikes(py::module_& m) {
  m.def("pack", &bind_pack, py::arg("dense").noconvert(), py::arg("out").noconvert(),
        "Packs float32[rows, features] of zeros and ones into int64[rows, words]; returns the\n"
        "flat index of the first element that is neither, or -1.");
  m.def("pack_nonzero", &bind_pack_nonzero, py::arg("dense").noconvert(),
        py::arg("out").noconvert(),
        "Packs where float32[rows, features] are not zero into int64[rows, words].");
  m.def("unpack", &bind_unpack, py::arg("words").noconvert(), py::arg("features"), py::arg("scale"),
        py::arg("out").noconvert(),
        "Writes scale * count of words[planes, rows, words] into float32[rows, features].");
  m.def("popcount", &bind_popcount, py::arg("words").noconvert(),
        "Set bits of an int64 array of any shape.");
  m.def("popcount_rows", &bind_popcount_rows, py::arg("words").noconvert(),
        py::arg("out").noconvert(),
        "Set bits of each row of words[planes, rows, words], summed over planes.");
  m.def("transpose_features", &bind_transpose_features, py::arg("words").noconvert(),
        py::arg("positions"), py::arg("channels"), py::arg("to_positions"),
        py::arg("out").noconvert(),
        "Reorders each row from (position, channel) to (channel, position), or back.");
  m.def("transpose_bits", &bind_transpose_bits, py::arg("bits").noconvert(), py::arg("columns"),
        py::arg("out").noconvert(),
        "Transposes the bit matrix bits[rows, words] into out[columns, words].");
}

}  // namespace h2learn
