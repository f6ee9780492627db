"""Weights through timm, without a network: released files, other sizes and heads, safetensors, folders as the hub has them."""

from __future__ import annotations

import os
import shutil
from collections import OrderedDict
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import save_for_hf
from timm.models.sequencer import Sequencer2d
from timm_entries import NAMES, ONE_EACH, SMALL, images, small
from torch import nn

from visionrnn.backbones.sequencer import Sequencer2D
from visionrnn.checkpoints import as_official
from visionrnn.errors import CheckpointError
from visionrnn.layers.patch_embed import resample_positions

VERSIONS = ("vil_tiny_patch16_224", "vil2_tiny_patch16_224")
OF_TEN = dict(num_classes=10)  # what the configuration says of a file's classes, where small models stand in for the released ones


def released(model: nn.Module, family: str = "vil", **more: object) -> dict:
    """What the authors' training code saves: weights by their names beside other things."""
    return {"state_dict": as_official(model.state_dict(), family), "ctor_kwargs": {"dim": 32, "pooling": {"kind": "first"}}, **more}


def alike(model: nn.Module, source: nn.Module, *shape: int) -> None:
    torch.testing.assert_close(model.eval()(images(*shape)), source.eval()(images(*shape)))


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """torch.hub's folder of downloaded files, empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("tag", timm.list_pretrained("vil*"))
def test_every_released_address(tag, cache, monkeypatch):
    def refuse(url: str, *_args: object, **_kwargs: object) -> None:
        raise OSError(f"no network in tests: {url}")

    monkeypatch.setattr("timm.models._hub.download_url_to_file", refuse)
    url = timm.get_pretrained_cfg(tag).url
    assert url.startswith("https://ml.jku.at/research/vision_lstm/download/vil") and url.endswith(".th")
    with pytest.raises(OSError, match="no network"):
        small(tag, pretrained=True, pretrained_cfg_overlay=OF_TEN)
    source = small(tag)
    torch.save(released(source), cache / url.rpartition("/")[2])
    model = small(tag, pretrained=True, pretrained_cfg_overlay=OF_TEN)
    alike(model, source)
    assert "state_dict" not in model.pretrained_cfg and model.pretrained_cfg["url"] == url and model.pretrained_cfg["license"] == "mit"


@pytest.mark.parametrize("name", VERSIONS)
def test_address_on_disk(name, cache, tmp_path):
    source, path = small(name), tmp_path / "released.th"
    torch.save(released(source), path)
    overlay = dict(OF_TEN, url=path.as_uri())
    alike(small(name, pretrained=True, pretrained_cfg_overlay=overlay), source)
    path.unlink()
    alike(small(name, pretrained=True, pretrained_cfg_overlay=overlay), source)  # torch.hub keeps what it has fetched
    assert (cache / path.name).is_file()


@pytest.mark.parametrize("name", VERSIONS)
def test_other_sizes_and_heads(name, tmp_path):
    source, path = small(name).eval(), tmp_path / "released.th"
    torch.save(released(source), path)

    def load(**kwargs: object) -> nn.Module:
        return small(name, pretrained=True, pretrained_cfg_overlay=dict(OF_TEN, file=str(path)), **kwargs).eval()

    alike(load(), source)
    features = source.forward_features(images())
    heads = (dict(num_classes=3), dict(num_classes=0), dict(num_classes=0, global_pool=""), dict(num_classes=3, global_pool="avg"))
    for kwargs in heads:
        model = load(**kwargs)
        torch.testing.assert_close(model.forward_features(images()), features)
        assert model(images()).shape[-1] == (kwargs["num_classes"] or model.head_hidden_size)
    grey = images(2, 1, 32, 48)
    torch.testing.assert_close(load(in_chans=1)(grey), source(grey.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(load(img_size=(64, 48)).pos_embed.embed, resample_positions(source.pos_embed.embed, (4, 3)))
    alike(load(dynamic_img_size=True), small(name, dynamic_img_size=True), 1, 3, 80, 64)
    maps = load(features_only=True, out_indices=(1, 3))(images())
    torch.testing.assert_close(maps, source.forward_intermediates(images(), indices=[1, 3], intermediates_only=True))


@pytest.mark.parametrize("name", [*VERSIONS, "lstm_sequencer2d_s", "gru_sequencer2d_s"])
def test_files_of_every_kind(name, tmp_path):
    source = small(name)
    family = "sequencer" if isinstance(source, Sequencer2D) else "vil"
    training = {"state_dict": {f"backbone.{key}": value for key, value in source.state_dict().items()}, "meta": {"epoch": 3}}
    kinds = {"released": released(source, family), "ours": source.state_dict(), "training": training}
    if family == "vil":
        kinds["package"] = {"state_dict": as_official(source.state_dict(), "vil_package")}
        mask = {"xlstm.blocks.0.xlstm.mlstm_cell.causal_mask": torch.ones(6, 6).tril().bool()}
        kinds["with a mask"] = {"state_dict": {**kinds["released"]["state_dict"], **mask}}
    for kind, content in kinds.items():
        path = tmp_path / f"{kind}.pth"
        torch.save(content, path)
        alike(small(name, checkpoint_path=str(path)), source)
        alike(small(name, pretrained=True, pretrained_cfg_overlay=dict(OF_TEN, file=str(path))), source)
        state = content.get("state_dict", content)
        alike(small(name, pretrained=True, pretrained_cfg_overlay=dict(OF_TEN, state_dict=state)), source)
        save_file({key: value.contiguous() for key, value in state.items()}, path.with_suffix(".safetensors"))
        alike(small(name, checkpoint_path=str(path.with_suffix(".safetensors"))), source)
    with pytest.raises(RuntimeError, match="Missing key"):
        torch.save(small("visionrnn_mamba_tiny_patch16_224").state_dict(), path)
        small(name, checkpoint_path=str(path))


@pytest.mark.parametrize("name", [*VERSIONS, "visionrnn_mamba_tiny_patch16_224"])
def test_checkpoint_path_of_another_size(name, tmp_path):
    source, path = small(name), tmp_path / "ours.pth"
    torch.save({"state_dict": {f"backbone.{key}": value for key, value in source.state_dict().items()}}, path)
    model = small(name, img_size=(64, 48), checkpoint_path=str(path))
    torch.testing.assert_close(model.pos_embed.embed, resample_positions(source.pos_embed.embed, (4, 3)))
    source.set_input_size((64, 48))
    alike(model, source, 2, 3, 64, 48)


def test_sequencer_takes_the_weights_of_timms_own(tmp_path, monkeypatch):
    kwargs = {key: value for key, value in SMALL[Sequencer2D].items() if key != "img_size"}
    torch.manual_seed(3)
    theirs = Sequencer2d(num_classes=10, patch_sizes=(7, 2, 1, 1), **kwargs).eval()
    with torch.no_grad():
        theirs.head.fc.weight.normal_()
    asked = []

    def from_hub(repository: str, **_kwargs: object) -> dict[str, torch.Tensor]:
        asked.append(repository)
        return theirs.state_dict()

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", from_hub)
    for size in "sml":
        ours = small(f"lstm_sequencer2d_{size}.in1k", pretrained=True, pretrained_cfg_overlay=OF_TEN).eval()
        torch.testing.assert_close(ours(images()), theirs(images()), rtol=1e-5, atol=1e-5)
    assert asked == [f"timm/sequencer2d_{size}.in1k" for size in "sml"]
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    ours = small("lstm_sequencer2d_s", checkpoint_path=str(tmp_path / "theirs.pth")).eval()
    torch.testing.assert_close(ours(images()), theirs(images()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ONE_EACH)
@pytest.mark.parametrize("safe", [True, False])
def test_saved_as_the_hub_has_it(name, safe, tmp_path):
    source = small(name, in_chans=2, num_classes=4, drop_path_rate=0.1)
    shape = (2, 2, 32, 48)
    if name.startswith(("vil", "visionrnn")):
        source.set_input_size((64, 48))
        shape = (2, 2, 64, 48)
    save_for_hf(source, tmp_path / "model", safe_serialization=safe)
    shutil.move(tmp_path / "model", tmp_path / "moved")
    restored = timm.create_model(f"local-dir:{tmp_path / 'moved'}", pretrained=True)
    alike(restored, source, *shape)
    assert restored.num_classes == 4 and restored.in_chans == 2 and type(restored) is type(source)
    assert timm.data.resolve_model_data_config(restored)["input_size"][0] == 2
    other = timm.create_model(f"local-dir:{tmp_path / 'moved'}", pretrained=True, num_classes=6)
    torch.testing.assert_close(other.eval().forward_features(images(*shape)), source.eval().forward_features(images(*shape)))
    assert other(images(*shape)).shape == (2, 6)
    maps = timm.create_model(f"local-dir:{tmp_path / 'moved'}", pretrained=True, features_only=True, out_indices=(-1,)).eval()
    torch.testing.assert_close(maps(images(*shape)), source.forward_intermediates(images(*shape), indices=1, intermediates_only=True))


class Setting:
    """An object of the authors' code beside the weights."""


class Harmful:
    """Unpickled without restriction, it makes a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


class Misused:
    """A restricted reader fails on it with a TypeError, which must not have the file read again without restriction."""

    def __reduce__(self):
        return OrderedDict, (1, 2, 3)


def test_nothing_in_a_file_is_executed(cache, tmp_path, monkeypatch):
    source, made, load, restricted = small("vil2_tiny_patch16_224"), tmp_path / "made", torch.load, []

    def recorded(*args, weights_only=None, **kwargs):
        restricted.append(weights_only)
        return load(*args, weights_only=weights_only, **kwargs)

    monkeypatch.setattr(torch, "load", recorded)
    files = {"setting": [Setting()], "harmful": [Harmful(made)], "misused": [Misused(), Harmful(made)]}
    for name, others in files.items():
        path = tmp_path / f"{name}.th"
        torch.save(released(source, others=others), path)
        by_address = dict(pretrained=True, pretrained_cfg_overlay=dict(OF_TEN, url=path.as_uri()))
        if name == "setting":  # the weights beside it are read
            alike(small("vil2_tiny_patch16_224", **by_address), source)
        else:
            with pytest.raises((CheckpointError, TypeError)):
                small("vil2_tiny_patch16_224", **by_address)
        for kwargs in (dict(checkpoint_path=str(path)), dict(pretrained=True, pretrained_cfg_overlay=dict(file=str(path)))):
            with pytest.raises(RuntimeError, match="weights_only"):
                small("vil2_tiny_patch16_224", **kwargs)
    assert not made.exists() and len(restricted) > 8 and set(restricted) == {True}


def test_only_entries_with_weights_are_listed_as_pretrained():
    ours = {name for name in timm.list_pretrained() if name.partition(".")[0] in NAMES}
    assert {name.partition(".")[0] for name in ours} == {name for name in NAMES if name.startswith(("vil_", "vil2_", "lstm_"))}
    assert all("." in name for name in ours) and len(ours) == 14 + 3
    for name in ("visionrnn_mamba_tiny_patch16_224", "pyramidrnn_xlstm_tiny_224", "gru_sequencer2d_s"):
        assert not timm.is_model_pretrained(name)
        with pytest.raises(RuntimeError, match="No pretrained weights exist"):
            small(name, pretrained=True)
