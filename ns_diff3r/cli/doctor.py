# SPDX-License-Identifier: Apache-2.0
"""`ns-diff3r doctor`: what is installed, and which renderer backends work here."""

from __future__ import annotations

import platform
from dataclasses import dataclass

PACKAGES = ("torch", "numpy", "jaxtyping", "plyfile", "pillow", "rich", "tyro", "safetensors")
OPTIONAL = ("nerfstudio", "gsplat", "lpips", "torchmetrics", "gsply")


@dataclass
class Doctor:
    """Show versions and which backends work; fails if rendering does not."""

    def run(self) -> int:
        """Print the table; status 1 if the renderer gives no result."""
        from rich.console import Console
        from rich.table import Table

        table = Table("what", "state", title="ns-diff3r doctor")
        table.add_row("ns-diff3r", _version("ns-diff3r"))
        table.add_row("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
        for package in PACKAGES:
            table.add_row(package, _version(package))
        for package in OPTIONAL:
            table.add_row(f"{package} (optional)", _version(package))
        table.add_row("device", _device())
        table.add_row("kernels", _kernels())
        table.add_row("CUDA kernels", _cuda())
        table.add_row("gsplat backend", _gsplat())
        problem, state = _rendering()
        table.add_row("rendering", state)
        Console().print(table)
        return 1 if problem else 0


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _device() -> str:
    import torch

    threads = f"CPU, {torch.get_num_threads()} threads"
    if torch.version.cuda is None:
        return f"{threads}; this torch has no CUDA"
    return f"{threads}; {torch.cuda.get_device_name()}" if torch.cuda.is_available() else f"{threads}; no CUDA device"


def _kernels() -> str:
    from .. import extension

    try:
        return extension.describe()
    except ImportError as error:
        return f"MISSING: {error}"


def _cuda() -> str:
    """Whether the package has them and torch can use them; where one is missing, what to do."""
    import torch

    from .. import extension

    if not extension.has_cuda():
        if not torch.cuda.is_available():
            return "not built, and torch sees no device"
        return "not built: install the package where nvcc (11.8 or newer) is found"
    try:
        module = extension.cuda()
    except ImportError as error:
        return f"BROKEN: {error}"
    built = f"for {module.architectures()}, runtime {module.runtime_version() // 1000}"
    if torch.cuda.is_available():
        return f"{built}; on {torch.cuda.get_device_name()} a rendering {_rendering('cuda')[1]}"
    missing = "this torch has no CUDA" if torch.version.cuda is None else "torch sees no device (driver?)"
    return f"{built}; not used, {missing}"


def _gsplat() -> str:
    """Which of our presets the installed gsplat draws."""
    from ..rasterization import gsplat

    version = gsplat.installed_version()
    if version is None:
        return "not installed (optional)"
    preset = gsplat.VERSIONS.get(version)
    return f'{version}, draws "{preset}" on CUDA' if preset else f"{version}: draws none of our presets"


def _rendering(device: str = "cpu") -> tuple[bool, str]:
    """Render a few Gaussians on a device with its default backend: (whether that failed, how it went)."""
    try:
        from ..data.generated import pixel_aligned_scene
        from ..rasterization import render

        gaussians, cameras = pixel_aligned_scene(image_size=16)
        rgb = render(gaussians.to(device=device), cameras.to(device=device)).rgb
        return not bool(rgb.isfinite().all()), f"works, mean colour {float(rgb.mean()):.3f}"
    except (ImportError, OSError, RuntimeError) as error:
        return True, f"FAILS: {error}"
