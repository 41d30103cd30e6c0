// Currents from spikes, input and weight gradients by exact integer sums: Kernel::digits. A weight
// column becomes fixed-point numbers of four signed 8-bit digits and one power of two, which is the
// form that integer dot products take; nothing is rounded between the weight and the finished
// current.
//
// Arithmetic (part of the contract: the same bits whatever the instruction set, the number of
// threads and the order of additions, since integer sums have none). For output channel n:
//   limit = 127 (1 + 2^8 + 2^16 + 2^24)
//   e     = the largest integer with max |w_n| 2^e <= limit   (0 for a column of zeros)
//   q     = w 2^e, rounded to the nearest integer, halves to even
//         = d_0 + 2^8 d_1 + 2^16 d_2 + 2^24 d_3, each d in [-128, 127]
//   S_i   = sum over the fan-in of value * d_i; value is the spike, or the count of all planes
//   current = float(double(sum_i 2^(8 i) S_i) * (double(scale) * 2^-e)) (+ bias, in float32)
// where the sum over i is exact, and each conversion and the product round to the nearest.
//
// Weight gradients likewise, of spikes and counts: gradients become digits. A column
// is an output channel's gradients in one block of images and rows of outputs (OuterBlocks in
// src/digits_plan.hpp, by the layer's shape and the number of images alone), so
//   e     = the largest integer with max |g_n| 2^e <= limit, of the block's gradients
//   S_i   = sum over the block's positions of value * d_i
//   gradient = float(sum over blocks, ascending, of double(sum_i 2^(8 i) S_i)
//                                                * (double(scale) * 2^-e)), added in float64.
// That is done where every column of every block has 2^-e <= 2^-22 * 2^g, and is finite; else the
// whole gradient is that of the ordered float kernels, as that of depthwise layers is, of layers
// with more than 1024 outputs in a row, or where a block's inputs would be more than 16384
// positions.
//
// Accuracy. One weight keeps its value to within 2^-e / 2, an absolute error: elements that are
// small beside their column's largest lose digits. Which layers are computed so therefore follows
// from the weights: with g the mean exponent (floor(log2 |w|), of subnormal numbers -127) of a
// column's weights that are not zero, those where every column has 2^-e <= 2^-22 * 2^g; all others
// run on the ordered float kernels, as Kernel::automatic chooses them. Columns of zeros meet it.
// The threshold is measured: over normal, uniform, lognormal and sparse columns, columns with one
// outlier and of one magnitude, and 1 to 50 % firing, the error against float64 (in the norm, and
// the median over elements of the relative one) is at most twice that of float32 sums, or below
// 2^-24, the rounding of one float32 number. tests/python/test_precision.py holds all kernels to
// it. (With three digits, columns of one magnitude, all rounded the same way, missed it beside sums
// that torch shares between threads.)
//
// Input gradients have digits on both sides. Each image's gradients g at the currents have one e_g,
// as above, over the whole image (of a linear layer, a row), and the weights w one e_w
// for each input channel, over all taps and output channels. With d_i those of g and v_j of w:
//   S_o      = sum over taps and output channels of sum over i + j = o of d_i * v_j,  o = 3 .. 6
//   gradient = float(double(sum_o 2^(8 (o - 3)) S_o) * 2^(24 - e_g - e_w)),
// +0 where the mask has no bit. Products of order 0 to 2 are left out: below 2^32, beside products
// of whole numbers of up to 2^62.
// So are computed calls with strides of 1, not of depthwise layers, of fewer than
// backward_terms_limit terms, in which with the mean exponents m_g and m_w of numbers that are not
// zero (an image's, a channel's),
//   2^-e_g <= 2^-22 * 2^m_g  in every image,  2^-e_w <= 2^-22 * 2^m_w  for every input channel, and
//   2^(-e_g - e_w) <= 2^-50 * 2^(m_g + m_w)  of the worst of either;
// images and channels of zeros meet all. All other calls run as Kernel::automatic. The last
// condition bounds what the products left out amount to: where all gradients and all weights have
// the same digits but for one outlier each, which is the worst, 3 * 2^-20 of a sum's terms. It is
// measured as the others are, on the same families and on gradients whose size differs by position;
// there the error is at most twice float32's, or below 2^-24.
#pragma once

#include <cstdint>

#include "h2learn/geometry.hpp"

namespace h2learn {

/// Planes of counts that Kernel::digits takes: a value is one byte.
constexpr std::int64_t max_digits_planes = 8;

/// Fan-in times the largest value stays below this, so that a digit's sum fits 32 bits.
constexpr std::int64_t digits_sum_limit = std::int64_t{1} << 24;

/// Digits of a weight or a gradient.
constexpr int number_digits = 4;

/// Whether Kernel::digits computes a layer's currents by digits. It leaves them to the ordered
/// float kernels because of heavy tails in the weights, more than max_digits_planes planes, or a
/// fan-in beyond digits_sum_limit. Throws std::invalid_argument when the geometry is impossible or
/// a weight is not finite.
bool forward_has_digits(const Geometry& geometry, const float* weight, std::int64_t planes = 1);

/// Terms of an input gradient, taps times outputs of a group, stay below this, so that four sums
/// of digit products fit 32 bits together.
constexpr std::int64_t backward_terms_limit = std::int64_t{1} << 15;

/// Whether Kernel::digits computes these input gradients by digits. Arguments as backward()'s.
bool backward_has_digits(const Geometry& geometry, const float* grad_currents, std::int64_t images,
                         const float* weight);

}  // namespace h2learn
