// SPDX-License-Identifier: Apache-2.0
// Python names of the solver's native loops. Tensors arrive as addresses; the callers (ns_diff3r/solver/*_ops.py) check
// shapes, dtypes and contiguity. Every function exists with the suffix _float32 and _float64.
#include "bind_solver.h"

#include <pybind11/stl.h>

#include <string>
#include <tuple>
#include <vector>

#include "image_ops.h"
#include "small_blocks.h"
#include "vector_ops.h"

namespace py = pybind11;

namespace ns_diff3r {
namespace {

using Address = uintptr_t;
using Range = std::tuple<int64_t, int64_t, double, bool>;       // begin, end, learning rate, frozen
using Row = std::tuple<int64_t, int64_t, bool>;                 // base, stride, frozen
using Shape = std::tuple<int64_t, int64_t, int64_t, int64_t>;   // views, rows, width, channels
using Statistics = std::vector<std::tuple<double, double>>;     // prior, squared gradient of every range

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

std::vector<ParameterRange> parameter_ranges(const std::vector<Range>& ranges) {
  std::vector<ParameterRange> out;
  for (const auto& [begin, end, rate, frozen] : ranges) out.push_back({begin, end, rate, frozen});
  return out;
}

std::vector<BlockRow> block_rows(const std::vector<Row>& rows) {
  std::vector<BlockRow> out;
  for (const auto& [base, stride, frozen] : rows) out.push_back({base, stride, frozen});
  return out;
}

ImageShape image_shape(const Shape& shape) {
  const auto& [views, rows, width, channels] = shape;
  return {views, rows, width, channels};
}

// Runs step(input, statistics) with Python's lock released.
template <class T, class Step>
Statistics run_step(const std::vector<Range>& ranges, Address theta, Address anchor, Address strength, Address gradient,
                    const Step& step) {
  const std::vector<ParameterRange> parsed = parameter_ranges(ranges);
  std::vector<RangeStatistics> statistics(parsed.size());
  const StepInput<T> input{parsed.data(), static_cast<int64_t>(parsed.size()), at<T>(theta), at<T>(anchor),
                           at<T>(strength), at<T>(gradient)};
  {
    py::gil_scoped_release release;
    step(input, statistics.data());
  }
  Statistics out;
  for (const RangeStatistics& s : statistics) out.emplace_back(s.prior, s.squared_gradient);
  return out;
}

template <class T>
void bind_vector_ops(py::module_& m, const std::string& suffix) {
  const auto name = [&](const char* stem) { return stem + suffix; };
  const auto free_gil = py::call_guard<py::gil_scoped_release>();
  m.def(name("dot").c_str(), [](int threads, int64_t n, Address a, Address b) {
    return dot(threads, n, at<T>(a), at<T>(b));
  }, free_gil);
  m.def(name("axpy").c_str(), [](int threads, int64_t n, double a, Address x, Address y) {
    axpy(threads, n, a, at<T>(x), at<T>(y));
  }, free_gil);
  m.def(name("xpby").c_str(), [](int threads, int64_t n, Address x, double b, Address y) {
    xpby(threads, n, at<T>(x), b, at<T>(y));
  }, free_gil);
  m.def(name("scale_add_diagonal").c_str(),
        [](int threads, int64_t n, double scale, Address diagonal, Address x, Address y) {
          scale_add_diagonal(threads, n, scale, at<T>(diagonal), at<T>(x), at<T>(y));
        }, free_gil);
  m.def(name("cg_update").c_str(), [](int threads, int64_t n, double a, Address p, Address q, Address x, Address r) {
    cg_update(threads, n, a, at<T>(p), at<T>(q), at<T>(x), at<T>(r));
  }, free_gil);
  m.def(name("multiply").c_str(), [](int threads, int64_t n, Address a, Address b, Address out) {
    multiply(threads, n, at<T>(a), at<T>(b), at<T>(out));
  }, free_gil);
  m.def(name("diagonal_solve").c_str(), [](int threads, int64_t n, Address diagonal, Address r, Address z) {
    return diagonal_solve(threads, n, at<T>(diagonal), at<T>(r), at<T>(z));
  }, free_gil);
  m.def(name("prior_gradient").c_str(), [](int threads, const std::vector<Range>& ranges, Address theta,
                                              Address anchor, Address strength, Address gradient) {
    return run_step<T>(ranges, theta, anchor, strength, gradient,
                       [&](const auto& in, auto* statistics) { prior_gradient(threads, in, statistics); });
  });
  m.def(name("adam_step").c_str(), [](int threads, const std::vector<Range>& ranges, Address theta, Address anchor,
                                         Address strength, Address gradient, double beta1, double beta2, double epsilon,
                                         int64_t step, Address first, Address second, Address theta_next) {
    const AdamRates rates{beta1, beta2, epsilon, step};
    return run_step<T>(ranges, theta, anchor, strength, gradient, [&](const auto& in, auto* statistics) {
      adam_step(threads, in, rates, at<T>(first), at<T>(second), at<T>(theta_next), statistics);
    });
  });
  m.def(name("sgd_step").c_str(), [](int threads, const std::vector<Range>& ranges, Address theta, Address anchor,
                                        Address strength, Address gradient, Address theta_next) {
    return run_step<T>(ranges, theta, anchor, strength, gradient, [&](const auto& in, auto* statistics) {
      sgd_step(threads, in, at<T>(theta_next), statistics);
    });
  });
}

template <class T>
void bind_block_ops(py::module_& m, const std::string& suffix) {
  const auto check = [](int size, const std::vector<Row>& rows) {
    if (size < 1 || size > kMaxBlockSize || static_cast<int>(rows.size()) != size)
      throw py::value_error("a block has 1 to 25 rows, and as many row descriptions");
  };
  m.def(("invert_blocks" + suffix).c_str(),
        [=](int threads, int64_t num_blocks, int size, int inner, const std::vector<Row>& rows, double scale,
            bool square_root, Address blocks, Address strength, Address inverse) {
          check(size, rows);
          const std::vector<BlockRow> parsed = block_rows(rows);
          const BlockLayout layout{num_blocks, size, inner, parsed.data()};
          py::gil_scoped_release release;
          return invert_blocks(threads, layout, scale, square_root, at<T>(blocks), at<T>(strength), at<T>(inverse));
        });
  m.def(("apply_blocks" + suffix).c_str(),
        [=](int threads, int64_t num_blocks, int size, int inner, const std::vector<Row>& rows, Address inverse,
            Address r, Address z) {
          check(size, rows);
          const std::vector<BlockRow> parsed = block_rows(rows);
          const BlockLayout layout{num_blocks, size, inner, parsed.data()};
          py::gil_scoped_release release;
          return apply_blocks(threads, layout, at<T>(inverse), at<T>(r), at<T>(z));
        });
}

template <class T>
void bind_image_ops(py::module_& m, const std::string& suffix) {
  const auto name = [&](const char* stem) { return stem + suffix; };
  const auto free_gil = py::call_guard<py::gil_scoped_release>();
  const auto target = [](Address y, Address mean, Address variance) {
    return SsimTarget<T>{at<T>(y), at<T>(mean), at<T>(variance)};
  };
  const auto partials = [](Address a, Address b, Address c) { return SsimPartials<T>{at<T>(a), at<T>(b), at<T>(c)}; };
  m.def(name("image_filter").c_str(), [](int threads, const Shape& shape, const std::vector<double>& taps,
                                            Address in, Address out) {
    if (!taps.empty() && taps.size() != kWindowTaps) throw py::value_error("the filter has 11 taps");
    py::gil_scoped_release release;
    image_filter(threads, image_shape(shape), taps.empty() ? nullptr : taps.data(), at<T>(in), at<T>(out));
  });
  m.def(name("ssim_target").c_str(), [](int threads, const Shape& shape, Address y, Address mean, Address variance) {
    ssim_target(threads, image_shape(shape), at<T>(y), at<T>(mean), at<T>(variance));
  }, free_gil);
  m.def(name("ssim_value").c_str(), [=](int threads, const Shape& shape, Address x, Address y, Address mean,
                                        Address variance, Address ssim, Address a, Address b, Address c) {
    return ssim_value(threads, image_shape(shape), at<T>(x), target(y, mean, variance), at<T>(ssim), at<T>(a),
                          at<T>(b), at<T>(c));
  }, free_gil);
  m.def(name("ssim_vjp").c_str(), [=](int threads, const Shape& shape, Address x, Address y, Address a, Address b,
                                      Address c, Address u, double scale, bool accumulate, Address out) {
    ssim_vjp(threads, image_shape(shape), at<T>(x), target(y, 0, 0), partials(a, b, c), at<T>(u), scale, accumulate,
                 at<T>(out));
  }, free_gil);
  m.def(name("ssim_jvp").c_str(), [=](int threads, const Shape& shape, Address x, Address y, Address a, Address b,
                                      Address c, Address v, Address out) {
    ssim_jvp(threads, image_shape(shape), at<T>(x), target(y, 0, 0), partials(a, b, c), at<T>(v), at<T>(out));
  }, free_gil);
  m.def(name("ssim_partials_jvp").c_str(), [=](int threads, const Shape& shape, Address x, Address y, Address mean,
                                               Address variance, Address v, Address a, Address b, Address c) {
    ssim_partials_jvp(threads, image_shape(shape), at<T>(x), target(y, mean, variance), at<T>(v), at<T>(a),
                          at<T>(b), at<T>(c));
  }, free_gil);
  m.def(name("pixel_loss").c_str(), [](int threads, int64_t n, int penalty, double delta, double scale, Address x,
                                          Address y, Address signs, Address gradient) {
    return pixel_loss(threads, n, static_cast<Penalty>(penalty), delta, scale, at<T>(x), at<T>(y), at<T>(signs),
                          at<T>(gradient));
  }, free_gil);
  m.def(name("pixel_hessian_product").c_str(), [](int threads, int64_t n, int penalty, double delta, double scale,
                                                     Address x, Address y, Address v, Address out) {
    pixel_hessian_product(threads, n, static_cast<Penalty>(penalty), delta, scale, at<T>(x), at<T>(y), at<T>(v),
                          at<T>(out));
  }, free_gil);
}

}  // namespace

void bind_solver(py::module_& m) {
  bind_vector_ops<float>(m, "_float32");
  bind_vector_ops<double>(m, "_float64");
  bind_block_ops<float>(m, "_float32");
  bind_block_ops<double>(m, "_float64");
  bind_image_ops<float>(m, "_float32");
  bind_image_ops<double>(m, "_float64");
}

}  // namespace ns_diff3r
