# SPDX-License-Identifier: Apache-2.0
"""The CUDA backend: the plan of a linearisation in torch's memory, its passes as launches on torch's current stream.

`CudaLinearization` is the native linearisation over a `CudaPlan` instead of the CPU's compiled plan. On tensors of a
CUDA device the kernels run there; on CPU tensors the same kernel bodies are executed thread by thread, which is how
they are tested where there is no device, and far too slow for anything else. See docs/cuda.md.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..cuda_launch import current_stream, module_for, suffix_for
from ..splats import Cameras, Gaussians
from .config import RasterizationConfig
from .native import NativeLinearization
from .native_plans import Addresses, addresses

_camera_rows: WeakKeyDictionary[Cameras, tuple[tuple[object, ...], Tensor]] = WeakKeyDictionary()


class CudaLinearization(NativeLinearization):
    """The renderer around one point, by the CUDA kernels; see `protocol.Linearization` for what the members mean.

    Decisions are not listed but taken again in every pass, from the same numbers by the same operations; with
    freeze="pairs" from the records of the point where they were frozen, which stay in memory for that.
    """

    def _new_plan(self) -> CudaPlan:
        return CudaPlan(self._dtype, self.device)

    def _retire_plan(self, plan: Any) -> None:
        """Nothing to keep: torch's allocator reuses the memory."""

    def _build_plan(self) -> None:
        self._plan.build(self.gaussians, self.cameras, self.config, self._background)

    # --- for solves that stay on the device ---

    @property
    def compiled_plan(self) -> Any:
        """The plan of the compiled module (`ns_diff3r._cuda`), whose memory this object holds."""
        return self._plan.plan

    @property
    def cuda_plan(self) -> CudaPlan:
        """The plan, for others to be made like it."""
        return self._plan

    def exclusive(self) -> AbstractContextManager[Any]:
        """Held while others launch products with this linearisation's work memory."""
        return self._turn

    def product_workspaces(self) -> dict[str, int]:
        """Addresses of the work memory of Gauss-Newton products, by the names of csrc/cuda/solver.h."""
        return self._plan.product_workspaces()

    @cached_property
    def _visible(self) -> Bool[Tensor, " N"]:
        return self._plan.contributing()

    @property
    def statistics(self) -> dict[str, int]:
        """Counts: visible (view, Gaussian) records, tile intersections, and 4x4 cells that these can reach."""
        plan = self._plan
        return {
            "records": plan.num_records,
            "intersections": plan.num_intersections,
            "candidates": plan.num_candidates,
            "bytes": plan.bytes_held(),
        }

    def reproject(self) -> None:
        """Nothing to do: every product projects from the raw parameters again."""


class CudaPlan:
    """What `ns_diff3r._cpu.PlanFloat32` is on the CPU, with memory from torch; arrays come and go as addresses.

    Raises:
        TypeError: float64 on a device, whose kernels are compiled for float32 only.
        ImportError: the package was built without CUDA.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.suffix = suffix_for(dtype, device)
        self.module = module_for(device)
        self.dtype = dtype
        self.device = device
        self.memory: dict[str, Tensor] = {}
        self._work: dict[str, Tensor] = {}

    # --- memory and streams ---

    def _empty(self, shape: int | tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
        return torch.empty(shape, dtype=dtype or self.dtype, device=self.device)

    def _keep(self, **tensors: Tensor) -> None:
        self.memory.update(tensors)
        self.plan.set({name: tensor.data_ptr() for name, tensor in tensors.items()})

    def _workspace(self, name: str, numbers: int) -> int:
        """Address of work memory that the products of this plan share; they follow one another on one stream."""
        if name not in self._work or self._work[name].numel() < numbers:
            self._work[name] = self._empty(numbers)
        return self._work[name].data_ptr()

    def product_workspaces(self) -> dict[str, int]:
        """Addresses of what a Gauss-Newton product writes in between."""
        self._require_pairs()
        return {"tangents": self._tangent_records(), "slots": self._slots(self.module.vjp_slot)}

    def _slots(self, numbers: int) -> int:
        return self._workspace("slots", self.plan.room * numbers)

    def _tangent_records(self) -> int:
        return self._workspace("tangents", self.num_views * self.num_gaussians * self.module.tangent_numbers)

    def bytes_held(self) -> int:
        """Memory that this plan has of its own or shares with its origin, in bytes."""
        tensors = (*self.memory.values(), *self._work.values())
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    # --- the point ---

    def _begin(self, settings: tuple[int, int, int, int, int], config: dict[str, Any]) -> None:
        self.settings, self.config = settings, config
        self.num_gaussians, _, self.num_views, self.width, self.height = settings
        self.plan = getattr(self.module, "Plan" + self.suffix)(*settings, config, {})
        self.has_pairs = False

    def build(
        self,
        gaussians: Gaussians,
        cameras: Cameras,
        config: RasterizationConfig,
        background: Float[Tensor, "V 3"],
    ) -> None:
        """Project, cull, sort and list; waits for the device once, to learn how many intersections there are."""
        n, coefficients = gaussians.num_gaussians, (gaussians.sh_degree + 1) ** 2
        self._begin((n, coefficients, cameras.num_views, cameras.width, cameras.height), asdict(config))
        self._keep(
            cameras=self._camera_rows(cameras, config.clamp),
            background=background.to(self.dtype).to(self.device),
        )
        self._keep_records()
        params = addresses(gaussians)
        self.plan.set_parameters(params)
        with current_stream(self.device) as stream:
            scan = self._scan_work()
            self.plan.project(scan.data_ptr(), scan.numel(), stream)
            self.plan.room = self.possible(int(self.memory["record_slots"][-1]) & 0xFFFFFFFF)
            self._keep_lists()
            work = self._list_work()
            self.plan.make_lists([x.data_ptr() for x in work], work[-1].numel(), stream)
            self.plan.make_masks(stream)

    def possible(self, intersections: int) -> int:
        """The number as it is; RuntimeError if kernels gave up counting."""
        if intersections >= self.module.too_many_intersections:
            raise RuntimeError(
                f"{self.num_gaussians} Gaussians cover 2^32 tiles or more of {self.num_views} views of "
                f"{self.height}x{self.width} pixels: their scales have grown without bound (lower the learning rate of "
                '"scales"), or there are too many views for one linearisation'
            )
        return intersections

    def _keep_records(self) -> None:
        """Memory for what is known of every (view, Gaussian)."""
        n, records = self.num_gaussians, self.num_views * self.num_gaussians
        self._keep(
            records=self._empty((records, self.module.record_numbers)),
            flags=self._empty(records, torch.uint8),
            tiles=self._empty((records, 4), torch.int16),
            counts=self._empty(records + 1, torch.int32),
            record_slots=self._empty(records + 1, torch.int32),
            contributes=self._empty(n, torch.uint8),
        )

    def _scan_work(self) -> Tensor:
        return self._empty(self.plan.scan_bytes(), torch.uint8)

    def _keep_lists(self) -> None:
        """Memory for as many intersections as the plan has room for."""
        self._keep(
            tile_offsets=self._empty(self.plan.num_tiles + 1, torch.int32),
            entries=self._empty((self.plan.room, 2), torch.int32),
            masks=self._empty(self.plan.room, torch.int16),
        )

    def _list_work(self) -> list[Tensor]:
        """Temporary memory of making them: keys, sorted keys, three times numbers, and what sorting needs."""
        count, key_bytes = self.plan.room, getattr(self.module, "key_bytes" + self.suffix)
        keys = [self._empty(count * key_bytes, torch.uint8) for _ in range(2)]
        numbers = [self._empty(count, torch.int32) for _ in range(3)]
        return [*keys, *numbers, self._empty(self.plan.sort_bytes(), torch.uint8)]

    def _keep_pixels(self) -> None:
        """Memory for where each pixel's list ends, and what light is left there."""
        shape = (self.num_views, self.height, self.width)
        self._keep(stops=self._empty(shape, torch.int32), transmittances=self._empty(shape))

    def _camera_rows(self, cameras: Cameras, clamp: str) -> Tensor:
        """The cameras as the kernels read them; once made they stay, since TTO linearises again and again."""
        versions = (cameras.viewmats._version, cameras.Ks._version, clamp, self.dtype, self.device)
        known = _camera_rows.get(cameras)
        if known is not None and known[0] == versions:
            return known[1]
        viewmats, Ks = (x.detach().double().cpu().numpy() for x in (cameras.viewmats, cameras.Ks))
        rows = getattr(self.module, "cameras" + self.suffix)(
            viewmats, Ks, cameras.width, cameras.height, clamp == "inria"
        )
        tensor = torch.from_numpy(rows).to(self.device)
        _camera_rows[cameras] = (versions, tensor)
        return tensor

    def rebase(self, origin: CudaPlan, params: Addresses, frozen: bool, threads: int) -> None:
        """Other parameters with the lists of `origin`; frozen: also with its contributing pairs, caps and clamps."""
        if frozen:
            origin._require_pairs()
        self._begin(origin.settings, origin.config)
        self.plan.room = origin.plan.room
        shared = ("cameras", "background", "tiles", "record_slots", "tile_offsets", "entries")
        self._keep(**{name: origin.memory[name] for name in shared})
        self._keep(records=torch.empty_like(origin.memory["records"]), flags=torch.empty_like(origin.memory["flags"]))
        if frozen:
            first = origin.memory
            self._keep(masks=first["masks"], contributes=first["contributes"])
            self._keep(
                origin_records=first.get("origin_records", first["records"]),
                origin_stops=first.get("origin_stops", first["stops"]),
            )
        else:
            self._keep(
                masks=torch.empty_like(origin.memory["masks"]), contributes=self._empty(self.num_gaussians, torch.uint8)
            )
        self.plan.set_parameters(params)
        with current_stream(self.device) as stream:
            self.plan.reproject(origin.memory["flags"].data_ptr(), stream)
            if not frozen:
                self.plan.make_masks(stream)

    def render(self, rgb: int, alpha: int, depth: int, linearize: bool, threads: int) -> None:
        """Draw; with `linearize` also keep what the products start from."""
        if linearize:
            self._keep_pixels()
        self.has_pairs = linearize
        with current_stream(self.device) as stream:
            self.plan.render(rgb, alpha, depth, linearize, stream)

    def _require_pairs(self) -> None:
        if not self.has_pairs:
            raise RuntimeError("this plan was rendered for its images only: its contributing pairs are unknown")

    # --- products ---

    def jvp(self, tangents: Addresses, out: int, threads: int) -> None:
        """J v."""
        self._require_pairs()
        with current_stream(self.device) as stream:
            self.plan.jvp(tangents, self._tangent_records(), out, stream)

    def vjp(self, rgb: int, alpha: int, depth_sum: int, out: Addresses, camera_sums: int, threads: int) -> None:
        """Jᵀu, with the sums that camera cotangents are made of if their address is not 0."""
        self._require_pairs()
        partial = 0
        if camera_sums:
            blocks = -(-self.num_gaussians // self.module.camera_block)
            self._work["cameras"] = self._empty((self.num_views, blocks, 18), torch.float64)
            partial = self._work["cameras"].data_ptr()
        with current_stream(self.device) as stream:
            slots = self._slots(self.module.vjp_slot)
            self.plan.vjp(rgb, alpha, depth_sum, slots, out, partial, camera_sums, stream)

    def gauss_newton(self, tangents: Addresses, weights: int, out: Addresses, threads: int) -> None:
        """JᵀWJ v for a diagonal W."""
        self._require_pairs()
        with current_stream(self.device) as stream:
            slots = self._slots(self.module.vjp_slot)
            self.plan.gauss_newton(tangents, weights, self._tangent_records(), slots, out, stream)

    def blocks(self, weights: int, diagonal: Addresses, geometry: int, sh: int, threads: int) -> None:
        """diag(JᵀWJ) and, at addresses that are not 0, its blocks."""
        self._require_pairs()
        with current_stream(self.device) as stream:
            self.plan.blocks(weights, self._slots(self.module.moment_slot), diagonal, geometry, sh, stream)

    def vjp_tangent(self, tangents: Addresses, u: int, du: int, out: Addresses, threads: int) -> None:
        """Jᵀdu + d/dε J(θ + εv)ᵀu."""
        self._require_pairs()
        with current_stream(self.device) as stream:
            slots = self._slots(self.module.tangent_slot)
            self.plan.vjp_tangent(tangents, u, du, self._tangent_records(), slots, out, stream)

    # --- counts ---

    def contributing(self) -> Tensor:
        """[N] bool: Gaussians that contribute to some pixel of some view."""
        self._require_pairs()
        return self.memory["contributes"] != 0

    @property
    def num_records(self) -> int:
        """Visible (view, Gaussian) pairs."""
        return int((self.memory["flags"] >= 128).sum())

    @property
    def num_intersections(self) -> int:
        """Entries of all tiles' lists."""
        return self.plan.room

    @property
    def num_candidates(self) -> int:
        """(entry, 4x4 cell) pairs that can show."""
        masks = self.memory["masks"].to(torch.int32) & 0xFFFF
        return sum(int(((masks >> bit) & 1).sum()) for bit in range(16))
