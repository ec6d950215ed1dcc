// SPDX-License-Identifier: Apache-2.0
// Runs of inner steps for Python: a class InnerRun, with the suffix _float32 (on the host also _float64).
#include <cstring>

#include "bind_solver.h"
#include "inner_run.h"
#include "plan.h"

namespace ns_diff3r {
namespace cuda {
namespace {

template <class T>
struct PythonRun {
  InnerRun<T> run;
  RecordedSteps recorded;
};

using Loss = std::tuple<int, double, double, double>;          // penalty, delta, scale of its gradient, and SSIM's
using Rates = std::tuple<double, double, double>;              // β₁, β₂, ε
using Work = std::map<std::string, Address>;

template <class T>
PythonRun<T> run_from(const Plan<T>& plan, const std::array<Address, 6>& lists, size_t sort_bytes, size_t scan_bytes,
                      const Loss& loss, const std::string& kind, const std::vector<Range>& ranges, const Rates& rates,
                      const Work& at) {
  const auto find = [&](const char* name) {
    const auto found = at.find(name);
    return found == at.end() ? Address(0) : found->second;
  };
  InnerRun<T> run{};
  run.scene = plan.scene;
  run.scan_work = pointer<void>(find("scan"));
  run.scan_bytes = scan_bytes;
  run.list_work = {pointer<void>(lists[0]),     pointer<void>(lists[1]), pointer<uint32_t>(lists[2]), pointer<uint32_t>(lists[3]),
                   pointer<uint32_t>(lists[4]), pointer<void>(lists[5]), sort_bytes};
  run.rendered = pointer<T>(find("rendered"));
  run.slots = pointer<T>(find("slots"));
  run.penalty = static_cast<Penalty>(std::get<0>(loss));
  std::tie(std::ignore, run.delta, run.pixel_scale, run.ssim_scale) = loss;
  run.target = {pointer<const T>(find("photograph")), pointer<const T>(find("window_means")),
                pointer<const T>(find("window_variances"))};
  run.has_ssim = run.target.mean != nullptr;
  run.ssim = pointer<T>(find("ssim"));
  run.partials[0] = pointer<T>(find("partial_mean"));
  run.partials[1] = pointer<T>(find("partial_square"));
  run.partials[2] = pointer<T>(find("partial_product"));
  run.image_cotangent = pointer<T>(find("image_cotangent"));
  run.optimizer.kind = step_kind(kind);
  run.optimizer.ranges = ranges_from(ranges);
  run.optimizer.factors = {std::get<0>(rates), std::get<1>(rates), std::get<2>(rates), 1.0, 1.0};
  run.optimizer.schedule = pointer<const StepRates>(find("schedule"));
  run.optimizer.anchor = pointer<const T>(find("anchor"));
  run.optimizer.strength = pointer<const T>(find("strength"));
  run.optimizer.first_moment = pointer<T>(find("first_moment"));
  run.optimizer.second_moment = pointer<T>(find("second_moment"));
  run.state = pointer<RunState>(find("state"));
  run.history = pointer<double>(find("state")) + sizeof(RunState) / sizeof(double);
  return {run, {}};
}

template <class T>
void bind_run_for(py::module_& m, const std::string& suffix) {
  using R = PythonRun<T>;
  py::class_<R>(m, ("InnerRun" + suffix).c_str(), py::module_local())
      .def_property_readonly("num_partials", [](const R& r) { return run_partials(r.run); })
      .def("set_partial", [](R& r, Address partial) { r.run.partial = pointer<double>(partial); })
      .def("take_steps",
           [](R& r, const std::array<Address, 3>& theta, Address gradient, bool record, int first, int count, Address stream) {
             take_steps(r.run, {pointer<T>(theta[0]), pointer<T>(theta[1]), pointer<T>(theta[2])}, pointer<T>(gradient),
                        record ? &r.recorded : nullptr, first, count, stream);
           })
      .def("measure", [](const R& r, Address theta, Address gradient, Address stream) {
             measure(r.run, pointer<const T>(theta), pointer<T>(gradient), stream);
           })
      .def("take_measured_step", [](const R& r, Address theta, Address gradient, Address next, Address stream) {
        take_measured_step(r.run, pointer<const T>(theta), pointer<T>(gradient), pointer<T>(next), stream);
      });
  m.def(("inner_run" + suffix).c_str(), &run_from<T>);
}

}  // namespace

void bind_run(py::module_& m) {
  bind_run_for<float>(m, "_float32");
#if defined(NS_ON_HOST)
  bind_run_for<double>(m, "_float64");
#endif
  m.attr("halted_without_room") = int(Halt::no_room);
  m.def("schedule_rows",
        [](const std::vector<std::vector<double>>& learning_rates, double beta1, double beta2, int64_t first_number) {
          std::vector<StepRates> rows(learning_rates.size());
          for (size_t k = 0; k < rows.size(); ++k) {
            if (learning_rates[k].size() > size_t(kMaxRanges)) throw py::value_error("at most 8 ranges of parameters");
            std::tie(rows[k].first_correction, rows[k].second_correction) =
                adam_corrections(beta1, beta2, first_number + int64_t(k));
            for (size_t r = 0; r < learning_rates[k].size(); ++r) rows[k].learning_rate[r] = learning_rates[k][r];
          }
          py::array_t<double> out(py::ssize_t(rows.size() * sizeof(StepRates) / sizeof(double)));
          if (!rows.empty()) std::memcpy(out.mutable_data(), rows.data(), rows.size() * sizeof(StepRates));
          return out;
        },
        "A run's rates as its kernels read them; the first step is Adam's number `first_number`, from 1.");
}

}  // namespace cuda
}  // namespace ns_diff3r
