# SPDX-License-Identifier: Apache-2.0
"""Controls in nerfstudio's viewer. Work happens in their callbacks, which hold the lock that training and rendering
take; nothing is done while the panel is built or drawn."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nerfstudio.cameras.cameras import Cameras
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation
from nerfstudio.viewer.viewer_elements import (
    ViewerButton,
    ViewerControl,
    ViewerDropdown,
    ViewerElement,
    ViewerSlider,
    ViewerText,
)
from torch import nn

from .nerfstudio_cameras import OPENGL_AXES
from .splats import GROUPS
from .splats.rotations import rotations_to_quats
from .training.inference import Reconstruction

if TYPE_CHECKING:
    from nerfstudio.engine.trainer import Trainer
    from nerfstudio.viewer.viewer import Viewer
    from viser import ClientHandle, GuiMarkdownHandle, ViserServer
    from viser._gui_handles import GuiProgressBarHandle

    from .pipeline import Diff3RPipeline

AFTER, BEFORE = "after optimisation", "before (prediction)"
MAX_STEPS = 500
VISER_NERFSTUDIO_SCALE_RATIO = 10.0
"""By which nerfstudio enlarges its world in the viewer."""


class ViewerProgress(ViewerElement[float]):
    """A bar from 0 to 1, without a callback."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.value = 0.0
        self.bar: GuiProgressBarHandle | None = None

    def install(self, viser_server: ViserServer) -> None:
        """Put it into the viewer."""
        self.bar = viser_server.gui.add_progress_bar(100.0 * self.value)

    def _create_gui_handle(self, viser_server: ViserServer) -> None:
        self.install(viser_server)

    def show(self, value: float) -> None:
        """Move the bar; a change below one percent is not sent."""
        if abs(value - self.value) >= 0.01 or value in (0.0, 1.0):
            self.value = value
            if self.bar is not None:
                self.bar.value = 100.0 * value


class ViewerNote(ViewerElement[str]):
    """Lines of text that only we write."""

    def __init__(self, name: str, text: str = "") -> None:
        super().__init__(name)
        self.text = text
        self.label: GuiMarkdownHandle | None = None

    def install(self, viser_server: ViserServer) -> None:
        """Put it into the viewer."""
        self.label = viser_server.gui.add_markdown(self.text)

    def _create_gui_handle(self, viser_server: ViserServer) -> None:
        self.install(viser_server)

    def show(self, text: str) -> None:
        """Replace the text (Markdown)."""
        self.text = text
        if self.label is not None:
            self.label.content = text


class ViewerStart(ViewerControl):
    """nerfstudio's control, which also puts every new visitor where a photograph of the scene was taken: the viewer's
    own first camera may look past it."""

    def __init__(self, first_camera: Callable[[], Cameras]) -> None:
        """`first_camera` gives one perspective camera in nerfstudio's world, [1]."""
        self._first_camera = first_camera

    def _setup(self, viewer: Viewer) -> None:
        super()._setup(viewer)
        viewer.viser_server.on_client_connect(lambda client: self._place(client, viewer.config.camera_frustum_scale))

    def _place(self, client: ClientHandle, frustum_scale: float) -> None:
        camera = self._first_camera()
        pose = camera.camera_to_worlds[0].double().cpu()
        before_photograph = -pose[:, 2] * 1.2 * photograph_distance(camera, frustum_scale)
        with client.atomic():
            client.camera.position = (VISER_NERFSTUDIO_SCALE_RATIO * pose[:, 3] + before_photograph).numpy()
            client.camera.wxyz = rotations_to_quats(pose[:, :3] * pose.new_tensor(OPENGL_AXES)).numpy()
            client.camera.fov = 2.0 * math.atan(float(camera.height / (2.0 * camera.fy)))


def photograph_distance(camera: Cameras, frustum_scale: float) -> float:
    """How far before a training camera the viewer hangs its photograph, in the viewer's units: a visitor who stands
    where the camera stood sees nothing else.

    The viewer draws pyramids of one volume, and takes the horizontal field of view for the vertical one.
    """
    half_height = float(camera.cx / camera.fx)
    half_width = half_height * float(camera.cx / camera.cy)
    return frustum_scale / (half_width * half_height / 3.0) ** (1.0 / 3.0)


class ViewerPanel(nn.Module):
    """Scene, context views, steps, re-fit, before/after, uncertainty. A module without state, because nerfstudio looks
    for controls in modules only; it lists them in the order of their attributes' names."""

    def __init__(self, pipeline: Diff3RPipeline) -> None:
        super().__init__()
        # In a tuple: as a plain attribute the pipeline would become a submodule of its own part.
        self._owner = (pipeline,)
        data = pipeline.datamanager
        names = list(data.collection.names)
        steps = pipeline.model.core.config.evaluation_config().num_steps
        self.control = ViewerStart(self._first_camera)
        self.element_1_scene = ViewerDropdown(
            "Scene", names[data.active], names, cb_hook=self._scene_chosen, visible=len(names) > 1
        )
        self.element_2_context = ViewerText(
            "Context views",
            _listed(pipeline.context_frames),
            hint="Training images that the scene is predicted from and fitted to: numbers, separated by commas",
        )
        self.element_3_steps = ViewerSlider("Steps", steps, 0, max(MAX_STEPS, steps), 1, hint="Of optimisation")
        self.element_4_refit = ViewerButton("Re-fit", cb_hook=self._refit)
        self.element_5_progress = ViewerProgress("Progress")
        self.element_6_show = ViewerDropdown("Show", AFTER, [AFTER, BEFORE], cb_hook=self._show_chosen)
        self.element_7_uncertainty = ViewerDropdown(
            "Uncertainty of",
            GROUPS[0],
            list(GROUPS),
            cb_hook=self._uncertainty_chosen,
            hint="For the output uncertainty",
        )
        self.element_8_note = ViewerNote("Note")

    @property
    def _pipeline(self) -> Diff3RPipeline:
        return self._owner[0]

    def callbacks(self, trainer: Trainer | None) -> list[TrainingCallback]:
        """Keeps the scene on show fresh while training is watched."""
        if trainer is None or trainer.viewer_state is None:
            return []
        every = max(1, self._pipeline.config.refresh_every)

        def refresh(step: int) -> None:
            never = self._pipeline.scene_step < 0
            if never or step - self._pipeline.scene_step >= every:
                self._pipeline.show_scene(step)

        return [TrainingCallback([TrainingCallbackLocation.BEFORE_TRAIN_ITERATION], refresh)]

    def _first_camera(self) -> Cameras:
        """The camera of the middle one of the context views."""
        dataset, frames = self._pipeline.datamanager.train_dataset, self._pipeline.context_frames
        middle = frames[len(frames) // 2]
        index = dataset.frames.index(middle) if middle in dataset.frames else 0
        return dataset.cameras[index : index + 1]

    # --- callbacks of the controls; the viewer calls them with the lock held ---

    def _scene_chosen(self, element: Any) -> None:
        index = self._pipeline.datamanager.collection.names.index(element.value)
        if index != self._pipeline.datamanager.active:
            self._pipeline.set_active_scene(index)
            self.element_2_context.value = _listed(self._pipeline.context_frames)
            self._redraw_cameras()
            self._refit(element)

    def _refit(self, element: Any) -> None:
        """Predict and optimise with what the controls say; what is wrong is written below them."""
        try:
            frames = parse_frames(self.element_2_context.value, self._pipeline.datamanager.train_dataset.frames)
            steps = int(self.element_3_steps.value)
            self.element_5_progress.show(0.0)
            result = self._pipeline.refresh_scene(frames, steps, lambda step, loss: self._report(step, steps, loss))
        except ValueError as error:
            self.element_8_note.show(f"**{error}**")
            return
        self.element_5_progress.show(1.0)
        self.element_8_note.show(describe(result))

    def _report(self, step: int, steps: int, loss: float) -> None:
        self.element_5_progress.show(step / max(1, steps))
        if step % 10 == 0:
            self.element_8_note.show(f"step {step} of {steps}, inner loss {loss:.4f}")

    def _show_chosen(self, element: Any) -> None:
        self._pipeline.model.show_after = element.value == AFTER

    def _uncertainty_chosen(self, element: Any) -> None:
        self._pipeline.model.uncertainty_group = element.value

    def _redraw_cameras(self) -> None:
        """Photographs of the scene that is now on show."""
        viewer = getattr(self.control, "viewer", None)
        if viewer is None:
            return
        for handle in viewer.camera_handles.values():
            handle.remove()
        data = self._pipeline.datamanager
        viewer.init_scene(data.train_dataset, viewer.train_state, data.eval_dataset)


def parse_frames(text: str, allowed: tuple[int, ...]) -> tuple[int, ...]:
    """Frame numbers from "1, 4, 7", ascending and each once. ValueError naming what is not one of `allowed`, or < 2."""
    words = [word for word in text.replace(",", " ").split() if word]
    wrong = [word for word in words if not word.isdigit() or int(word) not in allowed]
    if wrong:
        raise ValueError(f"Context views: {wrong[0]!r} is no training image; they are {_listed(allowed)}")
    frames = tuple(sorted({int(word) for word in words}))
    if len(frames) < 2:
        raise ValueError(f"Context views: at least two are needed, got {len(frames)}")
    return frames


def describe(result: Reconstruction) -> str:
    """What a re-fit did, in lines of Markdown."""
    lines = [f"{result.before.num_gaussians:,} Gaussians, predicted in {result.predict_seconds:.2f} s"]
    if result.solution is not None:
        curve = result.solution.loss_curve
        lines.append(f"{result.solution.num_steps} steps in {result.tto_seconds:.2f} s")
        if curve:
            lines.append(
                f"inner loss {curve[0]:.4f} → {curve[-1]:.4f}, stationarity {result.solution.stationarity:.2g}"
            )
        lines += result.solution.warnings
    return "  \n".join(lines)


def _listed(frames: tuple[int, ...]) -> str:
    return ", ".join(map(str, frames))
