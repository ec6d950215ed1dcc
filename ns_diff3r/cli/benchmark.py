# SPDX-License-Identifier: Apache-2.0
"""`ns-diff3r benchmark`: times of the renderer's products, of the solver, of TTO and training steps, and memory."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from .benchmark_products import Problem

RATIOS = ("vjp", "jvp", "vjp_tangent", "hessian", "gauss_newton", "diagonal", "blocks")
AUTOGRAD_SIZES = (64, 48, 32, 24, 16)
BYTES_PER_PAIR = 1500
"""Rough need of torch autograd through the dense renderer, per (pixel, Gaussian); decides what fits into memory."""

Part = Literal[
    "products", "autograd", "step", "solve", "prior", "training", "pcg", "memory", "backward", "backward_memory"
]


@dataclass
class Benchmark:
    """Time forward, vjp, jvp, vjp_tangent, Gauss-Newton product, diagonal, PCG solve and TTO step on a generated scene.

    The scene is as a network makes it, two Gaussians per pixel, about 40 contributing pairs per pixel. Every time runs
    from raw parameters; binning and sorting (`plan`) happen once per linearisation and stand beside.
    """

    sizes: tuple[int, ...] = (64, 128, 256, 512)
    """Image sizes (squares)."""
    threads: tuple[int, ...] = ()
    """Numbers of threads; default: torch's own."""
    contributions: float = 40.0
    """(pixel, Gaussian) pairs per pixel."""
    sh_degree: int = 0
    """Degree of the spherical harmonics, 0 to 4."""
    preset: str = "gsplat-1.4.0"
    """Semantics of the renderer."""
    backend: Literal["auto", "native", "reference"] = "auto"
    """Which renderer is timed."""
    rounds: int = 7
    """Times are medians over at least this many rounds, each of which times everything once."""
    parts: tuple[Part, ...] = ("products", "autograd", "step", "solve", "prior", "training", "memory")
    """What to measure; also `pcg`, iterations on the systems of real scenes, which needs `data`; `backward`, times of
    the backward modes; and `backward_memory`, their memory against the number of steps."""
    data: tuple[Path, ...] = ()
    """Scenes (folders with a transforms.json) for the part `pcg`."""
    pcg_views: tuple[int, ...] = (0, 4)
    """Numbers of context views of the part `pcg`; 0: all that are not held out."""
    step_size: int = 128
    """Image size of the views of the TTO step, of the training step, and of the memory of the layer."""
    autograd_size: int = 0
    """Image size of the comparison with torch autograd; 0: the largest that fits into memory."""
    tto_steps: tuple[int, ...] = (50,)
    """Inner steps of the part `backward`."""
    chart: Path | None = None
    """Draw the part `backward_memory` here, as SVG."""
    json: Path | None = None
    """Write all numbers here."""

    def run(self) -> int:
        """Measure, print the tables, write the file."""
        import torch

        from .tables import environment, print_table, write_json

        where = environment()
        print(f"{where['processor']}, {where['cores']} cores, torch {where['torch']}", flush=True)
        results: dict[str, list[dict[str, Any]]] = {}
        measures = {
            "products": self._products,
            "autograd": self._autograd,
            "step": self._step,
            "solve": self._solve,
            "prior": self._prior,
            "training": self._training,
            "pcg": self._pcg,
            "memory": self._memory,
            "backward": self._backward,
            "backward_memory": self._backward_memory,
        }
        before = torch.get_num_threads()
        for part in self.parts:
            results[part] = []
            for threads in (self.threads or (before,)) if part in ("products", "step", "solve") else (before,):
                torch.set_num_threads(threads)
                try:
                    results[part] += [{"threads": threads, **row} for row in measures[part]()]
                finally:
                    torch.set_num_threads(before)
            title, caption = TITLES[part]
            print_table(title, results[part], caption)
        if self.json is not None:
            write_json(self.json, {"results": results})
        return 0

    def _problem(self, size: int) -> Problem:
        from .benchmark_products import make_problem

        return make_problem(
            size,
            contributions_per_pixel=self.contributions,
            sh_degree=self.sh_degree,
            preset=self.preset,
            backend=self.backend,
        )

    def _products(self) -> list[dict[str, Any]]:
        from .benchmark_products import count_pairs, product_times
        from .measure import ratio

        rows = []
        for size in self.sizes:
            problem = self._problem(size)
            times = product_times(problem, preset=self.preset, backend=self.backend, rounds=self.rounds)
            forward = statistics.median(times["forward"])
            pairs = count_pairs(problem.linearization)
            row = {
                "size": size,
                "Gaussians": problem.gaussians.num_gaussians,
                "pairs/pixel": pairs / size**2,
                "plan ms": 1e3 * max(0.0, statistics.median(times["linearize"]) - forward),
                "forward ms": 1e3 * forward,
                "ns/pair": 1e9 * forward / pairs,
            }
            rows.append({**row, **{name: ratio(times[name], times["forward"]) for name in RATIOS}})
        return rows

    def _autograd(self) -> list[dict[str, Any]]:
        """The Gauss-Newton product of one problem, native and through torch autograd of the dense reference."""
        from ..rasterization import linearize
        from .benchmark_products import make_problem
        from .measure import available_bytes, durations

        fits = [size for size in AUTOGRAD_SIZES if BYTES_PER_PAIR * 2 * size**4 < 0.6 * available_bytes()]
        size = self.autograd_size or (fits or [AUTOGRAD_SIZES[-1]])[0]
        problem = make_problem(size, contributions_per_pixel=self.contributions, preset=self.preset)
        weights = problem.loss.curvature
        reference = linearize(problem.gaussians, problem.cameras, preset=self.preset, backend="reference")
        backends = {"native": problem.linearization, "autograd": reference}
        results = {name: lin.gauss_newton(problem.tangent, weights) for name, lin in backends.items()}
        times = {
            name: statistics.median(
                durations({name: lambda lin=lin: lin.gauss_newton(problem.tangent, weights)}, 3)[name]
            )
            for name, lin in backends.items()
        }
        native, autograd = (results[name].flatten().double() for name in ("native", "autograd"))
        return [
            {
                "size": size,
                "Gaussians": problem.gaussians.num_gaussians,
                "native ms": 1e3 * times["native"],
                "autograd ms": 1e3 * times["autograd"],
                "ratio": times["autograd"] / times["native"],
                "relative difference": float((native - autograd).norm() / autograd.norm()),
            }
        ]

    def _step(self) -> list[dict[str, Any]]:
        from .benchmark_solver import step_time

        return [step_time(self.step_size)]

    def _solve(self) -> list[dict[str, Any]]:
        from .benchmark_solver import solve_time

        return [solve_time(size, sh_degree=self.sh_degree) for size in self.sizes]

    def _prior(self) -> list[dict[str, Any]]:
        from .benchmark_training import prior_cost

        return [prior_cost(self.step_size, self.rounds)]

    def _training(self) -> list[dict[str, Any]]:
        from .benchmark_training import training_step_times

        # Few iterations, as 3DGS-LM takes them, and as many as the default tolerance needs.
        return [training_step_times(self.step_size, 50, count, max(2, self.rounds // 2)) for count in (8, None)]

    def _pcg(self) -> list[dict[str, Any]]:
        from .benchmark_pcg import scene_iterations

        if not self.data:
            raise ValueError("the part pcg needs scenes: --data FOLDER …")
        systems = [(path, views) for views in self.pcg_views for path in self.data]
        return [row for path, views in systems for row in scene_iterations(path, num_context=views)]

    def _memory(self) -> list[dict[str, Any]]:
        from .benchmark_memory import memory_in_subprocess

        size = self.step_size
        jobs = [("implicit", steps, size, 2 * size**2) for steps in (10, 200)]
        # Unrolling needs the dense renderer, so it is compared on a small problem.
        jobs += [(kind, steps, 24, 300) for kind in ("implicit", "unroll") for steps in (10, 20)]
        rows = []
        for kind, steps, size, count in jobs:
            row = memory_in_subprocess(kind, steps, size, count)  # pyright: ignore[reportArgumentType]
            names = ("forward", "held for backward", "backward")
            rows.append({**row, **{name: f"{row[name] / 2**20:.1f} MiB" for name in names}})
        return rows

    def _backward(self) -> list[dict[str, Any]]:
        from .benchmark_backward import backward_times

        return [row for steps in self.tto_steps for row in backward_times(self.step_size, steps, self.rounds)]

    def _backward_memory(self) -> list[dict[str, Any]]:
        from .benchmark_backward import backward_memory, draw_memory

        rows = backward_memory(self.step_size)
        if self.chart is not None:
            draw_memory(rows, self.chart)
        return rows


TITLES: dict[str, tuple[str, str]] = {
    "products": (
        "Products, one view",
        "plan: binning and sorting, once per linearisation; vjp … blocks: times the forward, medians of ratios in a "
        "round; hessian: jvp, curvature of the loss and vjp_tangent together",
    ),
    "autograd": ("Gauss-Newton product against torch autograd of the dense reference", "the same problem, one run"),
    "step": ("One TTO step (Adam, 0.8 L1 + 0.2 (1 - SSIM))", "Python: outside the compiled extension"),
    "solve": ("PCG solve to 1e-3, zero start", "of A u = Jᵀe, preconditioner included"),
    "prior": (
        "One TTO step with a prior (λ per Gaussian and group) and without",
        "processor time of steps from the same point; ratio: median of the ratios of two steps in turn",
    ),
    "training": (
        "One training step, feed-forward (plain) and through TTO (bilevel)",
        "compact network, one scene, gradients and optimiser included; shares: of the bilevel step's additional time",
    ),
    "pcg": (
        "PCG iterations to a relative residual",
        "float32, zero start, residual in the norm of each preconditioner; empty: not within 500 iterations",
    ),
    "memory": (
        "Peak memory of a training step through TTO",
        "above what was resident before; unroll: autograd through gradient descent on the reference",
    ),
    "backward": (
        "Backward modes against the test-time optimisation (Adam, 0.8 L1 + 0.2 (1 - SSIM))",
        "processor time in multiples of a forward optimisation that keeps nothing; medians of ratios within a round",
    ),
    "backward_memory": (
        "Peak memory of a training step through TTO against the number of steps, MiB",
        "above what was resident before; unroll on a small scene, it needs the dense renderer",
    ),
}
