# SPDX-License-Identifier: Apache-2.0
"""A CUDA device that is none: what happens between torch and the kernels, where there is no GPU.

Its tensors say that they are on cuda:0, hold a CPU tensor, and obey a device's rules: no operation takes tensors of two
devices (but numbers, copies and indices), no generator of the other device, no numpy, kernels in float32 only. The
kernels are the host-executed ones. So the Python of a device runs to its end, and a tensor that is left on the wrong
side is an error here as it would be there. What it cannot show: streams, memory, and everything that is in a kernel.
"""

from __future__ import annotations

import time
import types
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_iter, tree_map_only

from ns_diff3r import extension

DEVICE = torch.device("cuda", 0)
aten = torch.ops.aten
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}


class PretendTensor(Tensor):
    """A tensor on the pretended device; for torch's own C++ it is on the CPU, and without data."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor) -> PretendTensor:
        made = Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype
        )
        made.inner = inner
        return made

    @property
    def device(self) -> torch.device:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Where it says it is."""
        return DEVICE

    @property
    def is_cuda(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """It says so."""
        return True

    def data_ptr(self) -> int:
        """Where the kernels find it."""
        return self.inner.data_ptr()

    def untyped_storage(self) -> Any:
        """Shared by views, as on a device."""
        return self.inner.untyped_storage()

    def tolist(self) -> Any:
        """Copied, as from a device."""
        return self.inner.tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        """Refused, as on a device."""
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    __array__ = numpy

    def __repr__(self, *_: Any, **__: Any) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        return f"PretendTensor({self.inner!r})"

    def __deepcopy__(self, memo: Any) -> Tensor:
        return self.detach().clone().requires_grad_(self.requires_grad)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run it on what the tensors hold; what comes of it is there too."""
        kwargs = kwargs or {}
        _require_one_device(func, args, kwargs)
        if isinstance(kwargs.get("generator"), torch.Generator):
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        held = {id(x.inner): x for x in tree_iter((args, kwargs)) if isinstance(x, PretendTensor)}
        args, kwargs = tree_map_only(PretendTensor, lambda x: x.inner, (args, kwargs))
        results = func(*args, **kwargs)
        # an operation in place returns what it was given
        return tree_map_only(Tensor, lambda x: held[id(x)] if id(x) in held else PretendTensor(x), results)


def _require_one_device(func: Any, args: Any, kwargs: Any) -> None:
    if func is aten.copy_.default:
        return
    indices = list(tree_iter(args[1])) if func in INDEXED else []
    for x in tree_iter((args, kwargs)):
        here = isinstance(x, Tensor) and not isinstance(x, PretendTensor) and x.dim() > 0
        if here and not any(x is index for index in indices):
            raise RuntimeError(f"Expected all tensors to be on the same device, but found cuda:0 and cpu: {func}")


class _Move(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, there: bool) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.there = there
        return PretendTensor(x.detach().clone()) if there else x.inner.clone()  # pyright: ignore

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _moved(gradient, not ctx.there), None


def _moved(x: Tensor, there: bool) -> Tensor:
    return x if isinstance(x, PretendTensor) == there else _Move.apply(x, there)  # pyright: ignore[reportReturnType]


def _is_device(x: Any) -> bool:
    return isinstance(x, torch.device) or (isinstance(x, str) and x.split(":")[0] in ("cpu", "cuda"))


class _Devices(TorchFunctionMode):
    """What makes tensors on a device, or moves them there."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (Tensor.cpu, Tensor.cuda):
            return _moved(args[0], func is Tensor.cuda)
        if func is Tensor.to:
            return self._to(*args, **kwargs)
        device = kwargs.get("device")
        if func is Tensor.new_tensor and device is None:
            device = args[0].device
        if device is None:
            return func(*args, **kwargs)
        there = torch.device(device).type == "cuda"
        if there and isinstance(kwargs.get("generator"), torch.Generator):
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        made = func(*args, **{**kwargs, "device": "cpu"})
        if not isinstance(made, Tensor) or isinstance(made, PretendTensor) == there:
            return made
        if isinstance(made, PretendTensor):
            return made.inner
        return PretendTensor(made.detach()).requires_grad_(made.requires_grad)

    @staticmethod
    def _to(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        places = [kwargs.pop("device", None), *(a for a in args if _is_device(a))]
        args = tuple(a for a in args if not _is_device(a) and a is not None and not isinstance(a, bool))
        for other in [*args, kwargs.pop("other", None)]:
            if isinstance(other, Tensor):
                places.append(other.device)
                args = tuple(a for a in args if a is not other)
                kwargs["dtype"] = other.dtype
        places = [torch.device(place).type for place in places if place is not None]
        out = Tensor.to(x, *args, **kwargs) if args or kwargs else x
        return _moved(out, places[0] == "cuda") if places else out


class _Event:
    def __init__(self, **_: Any) -> None:
        self.at = 0.0

    def record(self) -> None:
        self.at = time.perf_counter()

    def elapsed_time(self, other: _Event) -> float:
        return 1e3 * (other.at - self.at)


@contextmanager
def pretended() -> Iterator[list[int]]:
    """torch sees a device, and this package has kernels for it. Gives the devices that kernels were told to use."""
    host, told = extension.cuda_host(), []
    kernels = types.SimpleNamespace(
        **{name: getattr(host, name) for name in dir(host) if not name.startswith("__")},
        use_device=told.append,
        architectures=lambda: "pretended",
        runtime_version=lambda: 0,
    )
    of_torch = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_name": lambda *_: "a pretended device",
        "get_device_capability": lambda *_: (9, 0),
        "synchronize": lambda *_: None,
        "device": lambda *_: nullcontext(),
        "current_stream": lambda *_: types.SimpleNamespace(cuda_stream=0),
        "get_sync_debug_mode": lambda: 0,
        "set_sync_debug_mode": lambda mode: None,
        "reset_peak_memory_stats": lambda *_: None,
        "max_memory_allocated": lambda *_: 0,
        "memory_allocated": lambda *_: 0,
        "empty_cache": lambda: None,
        "Event": _Event,
    }
    devices, run_backward = _Devices(), torch.autograd._engine_run_backward  # pyright: ignore[reportAttributeAccessIssue]

    def backward(*args: Any, **kwargs: Any) -> Any:
        with devices:  # torch takes a mode away while it runs a function that the mode was asked about
            return run_backward(*args, **kwargs)

    whole_modules = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # a module's parameters become others
    try:
        with (
            mock.patch.multiple(torch.cuda, create=True, **of_torch),
            mock.patch.object(extension, "cuda", return_value=kernels),
            mock.patch.object(extension, "has_cuda", return_value=True),
            mock.patch.object(torch.autograd, "_engine_run_backward", backward),
            devices,
        ):
            yield told
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(whole_modules)
