// SPDX-License-Identifier: Apache-2.0
// The solver's passes for Python. Every function exists with the suffix _float32 (on the host also _float64); results that
// are sums stay on the device, at addresses given by the caller.
#include "bind_solver.h"

#include <cmath>
#include <cstring>
#include <tuple>

#include "plan.h"

namespace ns_diff3r {
namespace cuda {
namespace {

using Row = std::tuple<int64_t, int64_t, bool>;                // base, stride, frozen
using Shape = std::tuple<int64_t, int64_t, int64_t, int64_t>;  // views, rows, width, channels

ImageShape image_shape(const Shape& shape) {
  const auto& [views, rows, width, channels] = shape;
  return {views, rows, width, channels};
}

template <class T>
void bind_steps(py::module_& m, const std::string& suffix) {
  m.def(("inner_step" + suffix).c_str(),
        [](const std::string& kind, const std::vector<Range>& ranges, const std::vector<Address>& vectors,
           const std::tuple<double, double, double, int64_t>& rates, Address partial, Address statistics, Address stream) {
          StepKernel<T> step{};
          step.kind = step_kind(kind);
          step.ranges = ranges_from(ranges);
          const auto& [beta1, beta2, epsilon, number] = rates;
          const auto [first_correction, second_correction] = adam_corrections(beta1, beta2, number);
          step.factors = {beta1, beta2, epsilon, first_correction, second_correction};
          step.theta = pointer<const T>(vectors.at(0));
          step.anchor = pointer<const T>(vectors.at(1));
          step.strength = pointer<const T>(vectors.at(2));
          step.gradient = pointer<T>(vectors.at(3));
          step.first_moment = pointer<T>(vectors.at(4));
          step.second_moment = pointer<T>(vectors.at(5));
          step.next = pointer<T>(vectors.at(6));
          step.partial = pointer<double>(partial);
          inner_step(step, pointer<double>(statistics), stream);
        });
}

template <class T>
void bind_images(py::module_& m, const std::string& suffix) {
  const auto name = [&](const char* stem) { return stem + suffix; };
  const auto target = [](Address y, Address mean, Address variance) {
    return SsimTarget<T>{pointer<const T>(y), pointer<const T>(mean), pointer<const T>(variance)};
  };
  const auto partials = [](Address a, Address b, Address c) {
    return SsimPartials<T>{pointer<const T>(a), pointer<const T>(b), pointer<const T>(c)};
  };
  m.def(name("image_filter").c_str(),
        [](const Shape& shape, const std::vector<double>& taps, Address in, Address out, Address stream) {
          if (!taps.empty() && taps.size() != size_t(kWindowTaps)) throw py::value_error("the filter has 11 taps");
          image_filter(image_shape(shape), taps.empty() ? nullptr : taps.data(), pointer<const T>(in), pointer<T>(out), stream);
        });
  m.def(name("ssim_target").c_str(), [](const Shape& shape, Address y, Address mean, Address variance, Address stream) {
    ssim_target(image_shape(shape), pointer<const T>(y), pointer<T>(mean), pointer<T>(variance), stream);
  });
  m.def(name("ssim_value").c_str(),
        [=](const Shape& shape, Address x, Address y, Address mean, Address variance, Address ssim, Address a, Address b,
            Address c, Address partial, Address sum, Address stream) {
          ssim_value(image_shape(shape), pointer<const T>(x), target(y, mean, variance), pointer<T>(ssim), pointer<T>(a),
                     pointer<T>(b), pointer<T>(c), pointer<double>(partial), pointer<double>(sum), stream);
        });
  m.def(name("ssim_vjp").c_str(), [=](const Shape& shape, Address x, Address y, Address a, Address b, Address c, Address u,
                                      double scale, bool accumulate, Address out, Address stream) {
    ssim_vjp(image_shape(shape), pointer<const T>(x), pointer<const T>(y), partials(a, b, c), pointer<const T>(u), scale,
             accumulate, pointer<T>(out), stream);
  });
  m.def(name("ssim_jvp").c_str(), [=](const Shape& shape, Address x, Address y, Address a, Address b, Address c, Address v,
                                      Address out, Address stream) {
    ssim_jvp(image_shape(shape), pointer<const T>(x), pointer<const T>(y), partials(a, b, c), pointer<const T>(v),
             pointer<T>(out), stream);
  });
  m.def(name("ssim_partials_jvp").c_str(),
        [=](const Shape& shape, Address x, Address y, Address mean, Address variance, Address v, Address a, Address b,
            Address c, Address stream) {
          ssim_partials_jvp(image_shape(shape), pointer<const T>(x), target(y, mean, variance), pointer<const T>(v),
                            pointer<T>(a), pointer<T>(b), pointer<T>(c), stream);
        });
  m.def(name("pixel_loss").c_str(),
        [](int64_t n, int penalty, double delta, double scale, Address x, Address y, Address signs, Address gradient,
           Address partial, Address sum, Address stream) {
          pixel_loss(n, static_cast<Penalty>(penalty), delta, scale, pointer<const T>(x), pointer<const T>(y),
                     pointer<const T>(signs), pointer<T>(gradient), pointer<double>(partial), pointer<double>(sum), stream);
        });
}

// A solve's addresses by name; those of the scene come with its plan.
template <class T>
SolveProblem<T> problem_from(const Scene<T>& scene, int64_t count, double scale, const std::vector<Range>& ranges,
                             const std::vector<std::tuple<Address, int64_t, int, std::vector<Row>>>& blocks,
                             const std::map<std::string, Address>& at) {
  const auto find = [&](const char* name) {
    const auto found = at.find(name);
    return found == at.end() ? Address(0) : found->second;
  };
  SolveProblem<T> s{};
  s.scene = scene;
  s.count = count;
  s.scale = T(scale);
  s.ranges = ranges_from(ranges);
  s.weights = pointer<const T>(find("weights"));
  s.window = pointer<const T>(find("window"));
  s.rendered = pointer<const T>(find("rendered"));
  s.photograph = pointer<const T>(find("photograph"));
  s.partials = {pointer<const T>(find("partial_mean")), pointer<const T>(find("partial_square")),
                pointer<const T>(find("partial_product"))};
  s.image = pointer<T>(find("image"));
  s.change = pointer<T>(find("change"));
  s.strength = pointer<const T>(find("strength"));
  s.inverse = pointer<const T>(find("inverse"));
  s.b = pointer<const T>(find("b"));
  s.x = pointer<T>(find("x"));
  s.r = pointer<T>(find("r"));
  s.z = pointer<T>(find("z"));
  s.p = pointer<T>(find("p"));
  s.q = pointer<T>(find("q"));
  s.partial = pointer<double>(find("partial"));
  s.history = pointer<double>(find("history"));
  s.state = pointer<SolveState>(find("state"));
  s.tangent_records = pointer<void>(find("tangents"));
  s.slots = pointer<T>(find("slots"));
  if (!blocks.empty() && blocks.size() != 2) throw py::value_error("blocks come for geometry and for colour, or not at all");
  for (size_t k = 0; k < blocks.size(); ++k) {
    const auto& [address, num_blocks, inner, rows] = blocks[k];
    if (rows.empty() || rows.size() > size_t(kMaxBlockRows)) throw py::value_error("a block has 1 to 25 rows");
    s.blocks[k] = pointer<const T>(address);
    s.num_blocks[k] = num_blocks;
    s.rows[k].size = int32_t(rows.size());
    s.rows[k].inner = inner;
    for (size_t j = 0; j < rows.size(); ++j)
      std::tie(s.rows[k].offset[j], s.rows[k].stride[j], s.rows[k].frozen[j]) = rows[j];
  }
  return s;
}

template <class T>
struct Solve {
  SolveProblem<T> problem;
  std::shared_ptr<void> graph;
};

template <class T>
void bind_solve(py::module_& m, const std::string& suffix) {
  using P = Solve<T>;
  py::class_<P>(m, ("Solve" + suffix).c_str(), py::module_local())
      .def_property_readonly("num_partials", [](const P& s) { return solve_partials(s.problem); })
      .def("set_partial", [](P& s, Address partial) { s.problem.partial = pointer<double>(partial); })
      .def("begin", [](const P& s, double tolerance, Address stream) { begin_solve(s.problem, tolerance, stream); })
      .def("iterate", [](P& s, int count, bool refresh, Address stream) {
        iterate(s.problem, s.graph, count, refresh, stream);
      });
  m.def(("solve" + suffix).c_str(), [](const Plan<T>& plan, int64_t count, double scale, const std::vector<Range>& ranges,
                                       const std::vector<std::tuple<Address, int64_t, int, std::vector<Row>>>& blocks,
                                       const std::map<std::string, Address>& at) {
    return Solve<T>{problem_from(plan.scene, count, scale, ranges, blocks, at), nullptr};
  });
}

template <class T>
void bind_for(py::module_& m, const std::string& suffix) {
  bind_steps<T>(m, suffix);
  bind_images<T>(m, suffix);
  bind_solve<T>(m, suffix);
}

}  // namespace

Ranges ranges_from(const std::vector<Range>& list) {
  if (list.size() > size_t(kMaxRanges)) throw py::value_error("at most 8 ranges of parameters");
  Ranges ranges{};
  for (const auto& [begin, end, rate, frozen] : list) {
    const int r = ranges.count++;
    ranges.begin[r] = begin;
    ranges.end[r] = end;
    ranges.learning_rate[r] = rate;
    ranges.frozen[r] = frozen;
  }
  return ranges;
}

StepKind step_kind(const std::string& name) {
  return name == "adam" ? StepKind::adam : (name == "sgd" ? StepKind::sgd : StepKind::prior_gradient);
}

std::pair<double, double> adam_corrections(double beta1, double beta2, int64_t number) {
  return {1.0 / (1.0 - std::pow(beta1, double(number))), 1.0 / (1.0 - std::pow(beta2, double(number)))};
}

void bind_solver(py::module_& m) {
  bind_for<float>(m, "_float32");
#if defined(NS_ON_HOST)
  bind_for<double>(m, "_float64");
#endif
  bind_run(m);
  m.def("image_partials", [](const Shape& shape) { return image_partials(image_shape(shape)); });
  m.def("pixel_partials", &pixel_partials);
  m.def("step_partials", [](const std::vector<Range>& ranges) { return step_partials(ranges_from(ranges)); });
  m.attr("state_bytes") = sizeof(SolveState);
  m.def("read_state", [](const py::bytes& bytes) {
    const std::string raw = bytes;
    if (raw.size() != sizeof(SolveState)) throw py::value_error("not the state of a solve");
    SolveState state;
    std::memcpy(&state, raw.data(), sizeof(state));
    return py::make_tuple(int(state.status), int(state.iterations));
  });
}

}  // namespace cuda
}  // namespace ns_diff3r
