# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: whole or not there, readable without running code."""

import errno
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from ns_diff3r.training import checkpoint
from ns_diff3r.training.checkpoint import (
    checkpoints,
    is_complete,
    last_complete_checkpoint,
    load_checkpoint,
    save_checkpoint,
)

STATE = {"step": 3, "weights": torch.arange(2000.0), "rates": [0.5, 0.25], "nested": {"name": "ü"}}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_saved_is_read_back(tmp_path):
    path = save_checkpoint(tmp_path / "checkpoints", 3, STATE)
    assert path.name == "step-000000003.ckpt"
    state = load_checkpoint(path)
    assert torch.equal(state.pop("weights"), STATE["weights"])
    assert state == {name: value for name, value in STATE.items() if name != "weights"}


def test_the_previous_checkpoint_goes_after_the_next_is_there(tmp_path):
    folder = tmp_path / "checkpoints"
    save_checkpoint(folder, 3, STATE)
    (folder / "notes.txt").touch()
    save_checkpoint(folder, 10, STATE)
    assert names(folder) == ["notes.txt", "step-000000010.ckpt"]
    save_checkpoint(folder, 11, STATE, keep_previous=True)
    assert [path.name for path in checkpoints(folder)] == ["step-000000010.ckpt", "step-000000011.ckpt"]
    assert names(tmp_path) == ["checkpoints"]


def test_the_folder_holds_only_whole_checkpoints_while_one_is_written(tmp_path, monkeypatch):
    """nerfstudio takes every file in it for a checkpoint, and reads its number from the name."""
    folder = tmp_path / "checkpoints"
    save_checkpoint(folder, 3, STATE)
    seen = []
    synchronize = os.fsync
    monkeypatch.setattr(checkpoint.os, "fsync", lambda stream: (seen.append(names(folder)), synchronize(stream)))
    save_checkpoint(folder, 4, STATE)
    assert seen == [["step-000000003.ckpt"], ["step-000000003.ckpt", "step-000000004.ckpt"]]


@pytest.mark.parametrize("moment", ["writing", "synchronising", "renaming"])
def test_a_failed_save_leaves_the_previous_checkpoint_and_no_rubbish(moment, tmp_path, monkeypatch):
    folder = tmp_path / "checkpoints"
    first = save_checkpoint(folder, 3, STATE)

    def full(*arguments: object, **options: object) -> None:
        for stream in arguments:
            if hasattr(stream, "write"):
                stream.write(b"PK half of it")  # pyright: ignore[reportAttributeAccessIssue]
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    where = {
        "writing": (torch, "save"),
        "synchronising": (checkpoint.os, "fsync"),
        "renaming": (checkpoint.os, "replace"),
    }
    monkeypatch.setattr(*where[moment], full)
    with pytest.raises(OSError, match=r"000000004.ckpt: the checkpoint could not be written: No space left"):
        save_checkpoint(folder, 4, STATE)
    monkeypatch.undo()
    assert last_complete_checkpoint(folder) == first
    assert names(folder) == [first.name]
    assert names(tmp_path) == ["checkpoints"]


def test_torchs_own_report_of_a_failed_write_is_an_os_error(tmp_path, monkeypatch):
    def fails(*_: object) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc] . PytorchStreamWriter failed writing file")

    monkeypatch.setattr(torch, "save", fails)
    with pytest.raises(OSError, match=r"could not be written: .enforce fail"):
        save_checkpoint(tmp_path / "checkpoints", 4, STATE)

    def fails_on_a_full_disk(*_: object) -> None:
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            fails()

    monkeypatch.setattr(torch, "save", fails_on_a_full_disk)
    with pytest.raises(OSError, match="could not be written: No space left"):
        save_checkpoint(tmp_path / "checkpoints", 4, STATE)


def test_files_that_were_cut_off_are_passed_over(tmp_path):
    folder = tmp_path / "checkpoints"
    for step in (1, 2, 3, 4):
        save_checkpoint(folder, step, STATE, keep_previous=True)
    whole = (folder / "step-000000004.ckpt").read_bytes()
    for fraction in (0.0, 0.3, 0.9, 1 - 5 / len(whole)):
        (folder / "step-000000004.ckpt").write_bytes(whole[: int(fraction * len(whole))])
        assert last_complete_checkpoint(folder) == folder / "step-000000003.ckpt"
    (folder / "step-000000003.ckpt").write_bytes(bytes(len(whole)))  # as a file system may leave it
    assert last_complete_checkpoint(folder) == folder / "step-000000002.ckpt"
    with zipfile.ZipFile(folder / "step-000000009.ckpt", "w") as archive:
        archive.writestr("readme.txt", "no checkpoint")
    assert last_complete_checkpoint(folder) == folder / "step-000000002.ckpt"


def test_no_folder_no_checkpoint(tmp_path):
    assert last_complete_checkpoint(tmp_path / "nowhere") is None
    assert last_complete_checkpoint(tmp_path) is None


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch evil",)


def test_files_that_are_no_checkpoint_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing.ckpt"):
        load_checkpoint(tmp_path / "nothing.ckpt")
    broken = tmp_path / "broken.ckpt"
    broken.write_bytes(pickle.dumps({"step": 1}))
    with pytest.raises(ValueError, match=r"broken.ckpt: not a complete checkpoint"):
        load_checkpoint(broken)
    torch.save([1, 2], tmp_path / "list.ckpt")
    with pytest.raises(ValueError, match=r"list.ckpt: not a checkpoint, but a list"):
        load_checkpoint(tmp_path / "list.ckpt")


def test_a_checkpoint_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"step": 1, "evil": _Evil()}, tmp_path / "evil.ckpt")
    assert is_complete(tmp_path / "evil.ckpt")
    with pytest.raises(ValueError, match=r"evil.ckpt: cannot be read"):
        load_checkpoint(tmp_path / "evil.ckpt")
    assert not (tmp_path / "evil").exists()
