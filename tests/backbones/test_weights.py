# SPDX-License-Identifier: Apache-2.0
"""Published weights: read without running code, loaded strictly, reports and messages that help."""

import hashlib
import os
import pickle
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ns_diff3r.backbones.depth_anything_3 import DepthAnything3Backbone, DepthAnything3Config
from ns_diff3r.backbones.depthsplat import DepthSplatBackbone, DepthSplatConfig
from ns_diff3r.backbones.weights.catalogue import CATALOGUE, find_published
from ns_diff3r.backbones.weights.fetching import WeightsError, fetch_weights
from ns_diff3r.backbones.weights.loading import check_fit, load_published_weights, load_weights_strictly
from ns_diff3r.backbones.weights.matching import compare_keys
from ns_diff3r.backbones.weights.reading import read_weights
from ns_diff3r.cli.main import main


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def backbone() -> DepthSplatBackbone:
    torch.manual_seed(0)
    return DepthSplatBackbone(DepthSplatConfig())


def on_meta(**settings) -> DepthSplatBackbone:
    with torch.device("meta"):
        return DepthSplatBackbone(DepthSplatConfig(**settings))


def small_state() -> dict[str, torch.Tensor]:
    return {"encoder.a": torch.arange(6.0).reshape(2, 3), "encoder.b.c": torch.ones(4)}


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_files_of_every_kind(tmp_path, wrapper):
    state = small_state()
    torch.save(state if wrapper is None else {wrapper: state, "epoch": 3}, tmp_path / "file.pth")
    read = read_weights(tmp_path / "file.pth", ("other.", "encoder."))
    assert set(read) == {"a", "b.c"}
    assert torch.equal(read["a"], state["encoder.a"])
    save_file(state, tmp_path / "file.safetensors")
    assert torch.equal(read_weights(tmp_path / "file.safetensors", ("encoder.",))["b.c"], torch.ones(4))
    assert "encoder.a" in read_weights(tmp_path / "file.safetensors", ("encoder.b",))


class Malicious:
    """Leaves a file behind if it is ever unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("how", ["torch", "legacy", "pickle"])
def test_a_malicious_file_is_refused(tmp_path, how):
    trace, path = tmp_path / "was_run", tmp_path / "weights.pth"
    content = {"state_dict": {"a": torch.ones(2)}, "hook": Malicious(trace)}
    if how == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(WeightsError, match=r"refused|damaged") as raised:
        read_weights(path)
    assert not trace.exists()
    assert how == "pickle" or "more than tensors" in str(raised.value)
    with pytest.raises(ValueError, match=str(path)):
        load_published_weights(on_meta(), str(path), say=lambda text: None)
    assert not trace.exists()


def test_files_that_are_cut_off(tmp_path):
    torch.save(small_state(), tmp_path / "whole.pth")
    save_file(small_state(), tmp_path / "whole.safetensors")
    for suffix in ("pth", "safetensors"):
        whole = (tmp_path / f"whole.{suffix}").read_bytes()
        for kept in (0, 10, len(whole) // 2, len(whole) - 5):
            path = tmp_path / f"part.{suffix}"
            path.write_bytes(whole[:kept])
            with pytest.raises(WeightsError, match="part"):
                read_weights(path)


@pytest.mark.parametrize("content", [[1, 2], {"a": 3}, {}, {"state_dict": {"a": "text"}}])
def test_files_of_something_else(tmp_path, content):
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(WeightsError, match="no table of weights"):
        read_weights(tmp_path / "file.pth")


@pytest.mark.parametrize("name", ["file.pth", "model.safetensors"])
@pytest.mark.parametrize(
    "text", ["<!doctype html><html>not found</html>", "version https://git-lfs.github.com/spec/v1\n"]
)
def test_a_page_or_a_pointer_instead_of_the_file(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(WeightsError, match=f"text that begins '{text[:9]}"):
        read_weights(tmp_path / name)


def test_official_names_are_loaded_to_the_bit(tmp_path, backbone):
    torch.manual_seed(1)
    other = DepthSplatBackbone(DepthSplatConfig())
    torch.save({f"encoder.{name}": value for name, value in other.network.state_dict().items()}, tmp_path / "w.pth")
    said: list[str] = []
    loaded = load_published_weights(backbone, str(tmp_path / "w.pth"), say=said.append)
    assert loaded.sha256 == hashlib.sha256((tmp_path / "w.pth").read_bytes()).hexdigest()
    assert loaded.sha256 in said[-1]
    for name, value in other.network.state_dict().items():
        assert torch.equal(backbone.network.state_dict()[name], value)


def test_a_report_names_what_differs(backbone):
    state = dict(backbone.network.state_dict())
    before = {name: value.clone() for name, value in state.items()}
    del state["gaussian_head.2.bias"]
    state["gaussian_head.2.weight"] = torch.zeros(36, 37, 3, 3)
    state["something.else"] = torch.zeros(1)
    with pytest.raises(WeightsError) as raised:
        load_weights_strictly(backbone, state, "file.pth")
    text = str(raised.value)
    assert "file.pth does not fit" in text
    assert "1 missing: gaussian_head.2.bias" in text
    assert "1 unexpected: something.else" in text
    assert "gaussian_head.2.weight [36, 37, 3, 3] instead of [37, 37, 3, 3]" in text
    assert all(torch.equal(backbone.network.state_dict()[name], value) for name, value in before.items())
    state = before | {"gaussian_head.2.bias": torch.full((37,), float("nan"))}
    with pytest.raises(WeightsError, match="not finite"):
        load_weights_strictly(backbone, state, "file.pth")


def test_settings_of_another_model_are_named():
    shapes = {name: tuple(v.shape) for name, v in on_meta(size="base", recipe="dl3dv").network.state_dict().items()}
    with pytest.raises(WeightsError) as raised:
        check_fit(on_meta(size="small"), shapes, "file.pth")
    text = str(raised.value)
    assert "the file is of size base, recipe dl3dv" in text
    assert "these settings are of size small, recipe re10k" in text
    assert len(text) < 3000
    assert check_fit(on_meta(size="base", recipe="dl3dv"), shapes, "file.pth") == ()


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ({"model.backbone.pretrained.camera_token": (1, 2, 384)}, "Depth Anything 3, size small, without"),
        (
            {"model.da3.head.norm.bias": (1,), "model.da3_metric.head.norm.bias": (1,)},
            "Depth Anything 3 NESTED.* take da3-giant",
        ),
        ({"pretrained.cls_token": (1, 1, 384), "regressor.0.0.bias": (1,)}, "the depth branch of DepthSplat alone"),
        ({"pretrained.cls_token": (1, 1, 384), "depth_head.norm": (1,)}, "Depth Anything V2"),
        ({"first.weight": (1,)}, "another network"),
    ],
)
def test_networks_that_are_not_meant_are_named(names, words):
    with pytest.raises(WeightsError, match=f"the weights are of {words}"):
        check_fit(on_meta(), names, "file.pth")


def test_a_whole_gaussian_head_may_be_absent():
    with torch.device("meta"):
        network = DepthAnything3Backbone(DepthAnything3Config(size="small"))
    shapes = {name: tuple(value.shape) for name, value in network.network.state_dict().items()}
    without = {name: shape for name, shape in shapes.items() if not name.startswith("gs_head.")}
    assert check_fit(network, shapes, "f") == ()
    assert check_fit(network, without, "f") == ("gs_head.",)
    with pytest.raises(WeightsError, match="missing"):
        check_fit(network, without | {"gs_head.projects.0.bias": (48,)}, "f")


def test_many_differences_are_summed_up():
    report = compare_keys({}, {f"part.{i % 3}.weight{i}": (1,) for i in range(100)})
    assert "100 missing" in str(report)
    assert "part.0.* (34)" in str(report)
    assert not report.fits
    assert compare_keys({"a": (1,)}, {"a": [1]}).fits


def test_another_digest_is_refused(tmp_path):
    path = tmp_path / "w.pth"
    torch.save(small_state(), path)
    _, digest = fetch_weights(str(path))
    assert fetch_weights(str(path), digest[:8])[1] == digest
    with pytest.raises(WeightsError, match="expected 00ff"):
        fetch_weights(str(path), "00ff")


def test_a_known_file_is_checked_by_its_name_and_its_licence_shown_once(tmp_path):
    file = CATALOGUE[1]
    path = tmp_path / file.file
    path.write_bytes(b"not it")
    said: list[str] = []
    for _ in range(2):
        with pytest.raises(WeightsError, match=f"expected {file.sha256}"):
            fetch_weights(str(path), say=said.append)
    assert len(said) == 1
    assert "non-commercial" in said[0]


def test_the_catalogue_agrees_with_itself():
    assert len({file.name for file in CATALOGUE}) == len(CATALOGUE)
    for file in CATALOGUE:
        assert find_published(file.name) is file
        assert find_published(file.reference) is file
        assert file.licence
        if file.sha256:
            assert file.file.endswith(f"-{file.sha256}.pth")
    names = {file.file for file in CATALOGUE}
    assert "depthsplat-gs-small-re10kdl3dv-448x768-randview4-10-c08188db.pth" in names
    assert "depthsplat-gs-large-re10k-256x256-view2-e0f0f27a.pth" in names


def test_what_official_means():
    assert DepthSplatConfig().weights_reference() is None
    reference = DepthSplatConfig(size="base", checkpoint="official").weights_reference()
    assert reference == "haofeixu/depthsplat/depthsplat-gs-base-re10k-256x256-view2-ca7b6795.pth"
    assert DepthAnything3Config(checkpoint="official").weights_reference() == (
        "depth-anything/DA3-GIANT-1.1/model.safetensors"
    )
    with pytest.raises(ValueError, match="no weights are published"):
        DepthSplatConfig(size="large", recipe="dl3dv", checkpoint="official").weights_reference()
    with pytest.raises(ValueError, match="no weights are published"):
        DepthSplatConfig(num_scales=2, upsample_factor=2, checkpoint="official").weights_reference()


def test_without_the_hub_client_it_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(WeightsError) as raised:
        fetch_weights("depthsplat-small-re10k-256x256")
    text = str(raised.value)
    assert "ns-diff3r[weights]" in text
    assert "https://huggingface.co/haofeixu/depthsplat/resolve/main/depthsplat-gs-small-re10k" in text
    with pytest.raises(WeightsError, match="no such file"):
        fetch_weights("nowhere.pth")
    with pytest.raises(WeightsError, match="no such file"):
        fetch_weights("./some/folder/nowhere.pth")


def test_the_command(tmp_path, capsys, backbone):
    assert main(["weights", "list"]) == 0
    assert "depthsplat-base-dl3dv-256x448" in capsys.readouterr().out
    path = tmp_path / "w.safetensors"
    save_file({f"encoder.{name}": value for name, value in backbone.network.state_dict().items()}, path)
    assert main(["weights", "check", str(path)]) == 0
    assert "fits DepthSplatBackbone, size small, recipe re10k" in capsys.readouterr().out
    state = {name: value.clone() for name, value in backbone.network.state_dict().items()}
    state["gaussian_head.2.bias"][1] = float("inf")
    save_file(state, path)
    assert main(["weights", "check", str(path)]) == 1
    assert "not finite in 1 of its tensors, such as gaussian_head.2.bias" in capsys.readouterr().err
    save_file({"a": torch.ones(2)}, path)
    assert main(["weights", "check", str(path)]) == 1
    assert "of no network that is known" in capsys.readouterr().err
