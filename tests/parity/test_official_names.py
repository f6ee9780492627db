"""Key lists of the 18 published detectors: our configs' models have a place for every key, of the same shape, and the way back."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmdet3d")
pytest.importorskip("visionrnn.integrations.mmdet3d")  # first: makes mmdet3d importable
from mmdet3d.registry import MODELS
from mmengine.config import Config
from mmengine.registry import DefaultScope

from visionrnn.checkpoints import as_official, from_official
from visionrnn.cli.configs import find_config

CONFIGS = {
    "KITTI": "lion-{}_8xb2-80e_kitti-3d-3class",
    "Waymo": "lion-{}_8xb2-24e_waymo-3d-3class",
    "WaymoL": "lion-{}-large_8xb2-24e_waymo-3d-3class",
    "nuScenes": "lion-{}_8xb2-36e_nuscenes-3d-10class",
    "Argo2": "lion-{}_8xb2-12e_argoverse2-3d-26class",
    "ONCE": "lion-{}_8xb2-80e_once-3d-5class",
}
MODELS_STORED = [
    *(f"KITTI/{operator}" for operator in ("mamba", "rwkv", "retnet", "xLSTM", "TTT")),
    *(f"{data}/{operator}" for data in ("Waymo", "nuScenes", "Argo2", "ONCE") for operator in ("mamba", "rwkv", "retnet")),
    "WaymoL/mamba",
]


@cache
def key_lists(path: Path) -> dict[str, dict[str, tuple[int, ...]]]:
    models = json.loads(gzip.decompress(path.read_bytes()))["models"]
    return {name: {key: tuple(shape) for key, shape in model["keys"].items()} for name, model in models.items()}


@pytest.fixture
def stored(goldens_folder: Path) -> dict[str, dict[str, tuple[int, ...]]]:
    """Model → published key → shape."""
    path = goldens_folder / "lion" / "checkpoint_keys.json.gz"
    if not path.is_file():
        pytest.skip(f"no stored key lists in {path.parent}")
    return key_lists(path)


def built(name: str) -> torch.nn.Module:
    """The model of our config for a published one, without memory for its weights."""
    data, operator = name.split("/")
    config = Config.fromfile(find_config(CONFIGS[data].format(operator.lower())))
    with DefaultScope.overwrite_default_scope("mmdet3d"), torch.device("meta"):
        return MODELS.build(config.model)


def shapes(state: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in state.items()}


def test_every_list_is_covered(stored):
    assert sorted(stored) == sorted(MODELS_STORED)


@pytest.mark.parametrize("name", MODELS_STORED)
def test_every_key_has_a_place_and_the_way_back(stored, name):
    published = {key: torch.empty(shape, device="meta") for key, shape in stored[name].items()}
    ours = built(name).state_dict()
    assert shapes(from_official({**published, "global_step": torch.zeros(1)})) == shapes(ours)
    assert shapes(as_official(ours)) == stored[name]
    assert shapes(as_official(ours, step=7)) == {**stored[name], "global_step": (1,)}


@pytest.mark.parametrize("name", [*MODELS_STORED[:5], "WaymoL/mamba", "nuScenes/rwkv", "Argo2/retnet", "ONCE/mamba"])
def test_values_come_back(stored, name):
    generator = torch.Generator().manual_seed(0)
    published = {key: torch.randn(shape, generator=generator) for key, shape in stored[name].items()}
    back = as_official(from_official(published))
    assert back.keys() == published.keys()
    for key, value in published.items():
        assert torch.equal(back[key], value), key
