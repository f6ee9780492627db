"""Vision-LSTM against its authors' package: models, what is inside them, names of released weights, starting values."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch
from vil_cases import OUT, built, compare, load

from visionrnn.checkpoints import as_official, from_official, load_official
from visionrnn.official.rules import to_official
from visionrnn.official.vil import package_table

dtypes = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
RELEASED = [*(f"vil-{size}" for size in ("tiny", "tinyplus", "small", "base")), *(f"vil2-{size}" for size in ("tiny", "small", "base"))]


def our_module(name: str, second: bool) -> str:
    """Name of our module whose output is that of a published one."""
    if not second:
        return "head_norm" if name == "norm" else name
    name = re.sub(r"blocks\.(\d+)\.rowwise_from_top_left", lambda found: f"blocks.{2 * int(found[1])}", name)
    name = re.sub(r"blocks\.(\d+)\.rowwise_from_bot_right", lambda found: f"blocks.{2 * int(found[1]) + 1}", name)
    return name


@dtypes
@pytest.mark.goldens("vil", "v[12]_*.npz")
def test_model(golden, dtype, close):
    config = golden.config
    model, second = built(config), "VisionLSTM2" in config["cls"]
    load(model, golden, dtype)
    found: dict = {}
    stored = golden.group("feat/")
    pairs = {name: int(name.split(".")[1]) for name in stored if second and re.fullmatch(r"blocks\.\d+", name)}
    for name in stored.keys() - {"pos_embed"}:
        ours = f"blocks.{2 * pairs[name] + 1}" if name in pairs else our_module(name, second)
        model.get_submodule(ours).register_forward_hook(lambda module, inputs, out, name=name: found.update({name: out}))
    x = golden["x"].to(dtype).requires_grad_()
    out = model(x)
    found["pos_embed"], grids = model.embed(x)
    found["patch_embed"] = found["patch_embed"][0]
    for name, value in stored.items():
        close(found[name].view(value.shape), value, OUT[dtype], name)
    if config["kwargs"].get("pooling") == "to_image":
        out = out.transpose(1, 2).unflatten(2, grids.sizes[0])
        close(model.forward_intermediates(x, 1, norm=True, intermediates_only=True)[0], out.detach(), 0, "the last features as an image")
    compare(model, out, {"x": x}, golden, close)


@pytest.fixture
def keys(request: pytest.FixtureRequest, goldens_folder: Path) -> dict:
    path = goldens_folder / "vil" / f"keys_{request.param}.json"
    if not path.is_file():
        pytest.skip(f"no stored key lists in {path.parent}")
    return {**json.loads(path.read_text()), "arguments": json.loads((path.parent / "models.json").read_text())[request.param]}


@pytest.mark.parametrize("keys", RELEASED, indirect=True)
def test_released_names(keys):
    """All names and shapes of the released models, as released and as the package has them, ↔ those of our models."""
    arguments = keys["arguments"]
    with torch.device("meta"):
        model = built({"class_": arguments["class_"], "kwargs": arguments["ctor_kwargs"]})
    assert sum(value.numel() for value in model.parameters()) == arguments["n_params"]
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    for kind, family in (("raw_checkpoint", "vil"), ("official", "vil_package")):
        published = {name: torch.empty(shape, device="meta") for name, shape in keys[kind].items()}
        ours = from_official(published, "vil")
        assert {name: list(value.shape) for name, value in ours.items()} == shapes, kind
        back = as_official(ours, family)
        assert {name: list(value.shape) for name, value in back.items()} == keys[kind], kind
    assert len(keys["raw_checkpoint"]) == arguments["n_tensors"]


@pytest.mark.goldens("vil", "v[12]_cls_legacynorm.npz")
def test_released_weights_land_where_the_package_puts_them(golden, goldens_folder):
    second = "VisionLSTM2" in golden.config["cls"]
    renamed = json.loads((goldens_folder / "vil" / "raw_tiny_key_maps.json").read_text())[
        "v2_cls_legacynorm" if second else "v1_cls_legacynorm"
    ]
    package = golden.group("sd/")
    released = {raw: package[name] for raw, name in renamed.items()}
    assert len(released) == len(package)
    models = [built(golden.config) for _ in range(2)]
    for model, state in zip(models, (package, released), strict=True):
        load_official(model, state, "vil")
    for name, value in models[0].state_dict().items():
        assert torch.equal(value, models[1].state_dict()[name]), name
    back = as_official(models[1].state_dict(), "vil")
    assert back.keys() == released.keys()
    assert all(torch.equal(back[name], released[name]) for name in released)


STARTS = {
    "v1_tiny": ("VisionLSTM", "original"),
    "v2_tiny": ("VisionLSTM2", "original"),
    "v2_tiny_original-fixed": ("VisionLSTM2", "original-fixed"),
}


@pytest.mark.parametrize("name", STARTS)
def test_starting_values(name, goldens_folder):
    """Spread and mean of every parameter, as far as chance allows."""
    path = goldens_folder / "vil" / "init_stats.json"
    if not path.is_file():
        pytest.skip(f"no stored starting values in {path.parent}")
    class_, init = STARTS[name]
    torch.manual_seed(0)
    model = built({"class_": class_, "kwargs": {"dim": 192, "depth": 12 if class_[-1] == "2" else 24, "init_weights": init}})
    state = to_official(model.state_dict(), package_table(model.state_dict()))
    stored = json.loads(path.read_text())[name]
    assert state.keys() == stored.keys()
    for key, expected in stored.items():
        value = state[key].double()
        assert list(value.shape) == expected["shape"], key
        chance = 6 * expected["std"] / math.sqrt(value.numel())  # standard errors of the mean, of both sides, and almost of the spread
        if key.endswith("igate.bias"):
            assert value.abs().max() < 0.5, key  # four draws from N(0, 0.1²)
        else:
            assert abs(value.mean() - expected["mean"]) <= chance + 1e-12, key
            assert abs(value.std() - expected["std"]) <= chance + 1e-6, key
