# SPDX-License-Identifier: Apache-2.0
"""scripts/check_official_weights.py, with a file of random weights and chunks of the bundled scene in place of the
published ones."""

import importlib.util
import json
import re
import sys
import zipfile

import pytest
import torch

from ns_diff3r.data import open_collection
from ns_diff3r.data.chunk_conversion import scenes_to_chunks
from tests.backbones.official_views import depthsplat
from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("checked", REPOSITORY / "scripts" / "check_official_weights.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_weights_are_loaded_strictly_and_measured(script, tmp_path, capsys, monkeypatch):
    path = tmp_path / "w.pth"
    torch.save({f"encoder.{name}": value for name, value in depthsplat().network.state_dict().items()}, path)
    scenes_to_chunks(open_collection(REPOSITORY / "examples" / "room"), tmp_path / "re10k", test=["room"])
    index = json.dumps({"room": {"context": [0, 2], "target": [1, 3]}, "other": None})
    with zipfile.ZipFile(tmp_path / "subset.zip", "w") as archive:
        for file in (tmp_path / "re10k" / "test").iterdir():
            archive.write(file, f"re10k_720p_test_subset/{file.name}")
    (tmp_path / "index.json").write_text(index)
    monkeypatch.setattr(script, "INDEX_URL", (tmp_path / "index.json").as_uri())
    hub = type("hub", (), {"hf_hub_download": staticmethod(lambda *_, **__: str(tmp_path / "subset.zip"))})
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)

    given = [str(path), "--size", "48", "64", "--subset", str(tmp_path / "subset")]
    with pytest.raises(script.WeightsError, match="not the index"):
        script.main(given)
    monkeypatch.setattr(script, "INDEX_SHA256", "")
    assert script.main(given) == 0
    shown = capsys.readouterr().out
    assert "loaded strictly: size small, recipe re10k" in shown
    assert len(re.findall(r"room: [\d.]+, [\d.]+ dB", shown)) == 1
    assert re.search(r"PSNR [\d.]+ dB \(2 images\); published: no number", shown)

    data = ["--data", str(tmp_path / "re10k" / "test"), "--index", str(tmp_path / "index.json")]
    assert script.main([*given[:4], *data]) == 0
    assert capsys.readouterr().out == shown


def test_what_cannot_be_loaded_or_fetched_is_said(script, tmp_path, capsys, monkeypatch):
    (tmp_path / "w.pth").write_bytes(b"PK\3\4")
    assert script.main([str(tmp_path / "w.pth"), "no-such-name"]) == 1
    shown = capsys.readouterr().out
    assert shown.count("FAILED") == 2
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(SystemExit, match="Without network: get re10k_720p_test_subset"):
        script.main(["x.pth", "--subset", str(tmp_path / "subset")])
    with pytest.raises(SystemExit):
        script.main(["x.pth", "--data", str(tmp_path)])
    assert "--data and --index together" in capsys.readouterr().err
