"""Sequencer2D against timm's and the original repository's: models, a block, its layers, names of weights; forward and gradients."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from visionrnn.backbones.sequencer import Sequencer2D, SequencerBlock
from visionrnn.checkpoints import as_official, from_official
from visionrnn.layers.bidirectional_rnn2d import BidirectionalRNN2D

LAYERS = {"s": (4, 3, 8, 3), "m": (4, 3, 14, 3), "l": (8, 8, 16, 4)}
ORIGINAL = {
    "LSTM2D": dict(cell="lstm"),
    "GRU2D": dict(cell="gru"),
    "RNN2D": dict(cell="rnn"),
    "LSTM": dict(cell="lstm", union="flat", with_fc=False),
    "GRU": dict(cell="gru", union="flat", with_fc=False),
}
PLAIN = dict(
    num_classes=9, img_size=28, layers=(1, 1), patch_sizes=(7, 1), embed_dims=(16, 16), hidden_sizes=(8, 8), mlp_ratios=(3, 3),
    union="flat", with_fc=False, position=True,
)  # fmt: skip

dtypes = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


def compare(model: nn.Module, golden, dtype: torch.dtype, close, renamed=lambda group: group) -> None:
    """The output, the features and the gradients that are stored."""
    model.to(dtype).load_state_dict(renamed(golden.group("sd/", dtype)))
    features, stored = {}, golden.group("feat/")
    for name in stored:
        model.get_submodule(name).register_forward_hook(lambda module, inputs, out, name=name: features.update({name: out}))
    x = golden["x"].to(dtype).requires_grad_()
    out = model(x)
    bound = 1e-6 if dtype == torch.float64 else 1e-5
    for name, value in stored.items():
        close(features[name], value, bound, name)
    close(out, golden["out"], bound, "out")
    out.backward(golden["grad_out"].to(dtype))
    bound = 2e-6 if dtype == torch.float64 else 2e-5
    weights = dict(model.named_parameters())
    for name, value in renamed(golden.group("grad/")).items():
        close(x.grad if name == "x" else weights[name].grad, value, bound, name)


@dtypes
@pytest.mark.goldens("sequencer", "tiny_*.npz")
def test_models(golden, dtype, close):
    compare(Sequencer2D(**golden.config["kwargs"]), golden, dtype, close)


@dtypes
@pytest.mark.goldens("sequencer", "block.npz")
def test_block(golden, dtype, close):
    compare(SequencerBlock(**golden.config), golden, dtype, close)


@dtypes
@pytest.mark.goldens("sequencer", "lstm2d_*.npz")
def test_scans(golden, dtype, close):
    compare(BidirectionalRNN2D(**golden.config), golden, dtype, close)


@dtypes
@pytest.mark.goldens("sequencer", "orig_*[2f][dl]*.npz")
def test_other_scans(golden, dtype, close):
    options = dict(golden.config)
    compare(BidirectionalRNN2D(**ORIGINAL[options.pop("cls")], **options), golden, dtype, close)


@dtypes
@pytest.mark.goldens("sequencer", "orig_vanilla_ape.npz")
def test_plain_model(golden, dtype, close):
    compare(Sequencer2D(**PLAIN), golden, dtype, close, lambda group: from_official(group, "sequencer"))


@pytest.mark.goldens("sequencer", "tiny_*.npz")
def test_original_names(golden):
    theirs = {name: golden["sd/" + ours] for ours, name in golden.config["original_keys"].items()}
    model = Sequencer2D(**golden.config["kwargs"])
    model.load_state_dict(from_official(theirs, "sequencer"))
    assert all(torch.equal(model.state_dict()[name], value) for name, value in golden.group("sd/").items())
    back = as_official(model.state_dict(), "sequencer")
    assert set(back) == set(theirs)
    assert all(torch.equal(back[name], value) for name, value in theirs.items())


@pytest.mark.parametrize("size", LAYERS)
def test_published_models(goldens_folder, size):
    folder = goldens_folder / "sequencer"
    if not folder.is_dir():
        pytest.skip(f"no stored key lists in {goldens_folder}")
    keys = json.loads((folder / f"keys_sequencer2d_{size}.json").read_text())
    facts = json.loads((folder / "models.json").read_text())[f"sequencer2d_{size}"]
    with torch.device("meta"):
        model = Sequencer2D(layers=LAYERS[size])
        original = {name: torch.empty(shape) for name, shape in keys["original_repo"].items()}
    state = model.state_dict()
    assert shapes(state) == keys["official"] and len(state) == facts["n_tensors"]
    assert sum(parameter.numel() for parameter in model.parameters()) == keys["n_params"] == facts["n_params"]
    assert model.feature_info == facts["feature_info"]
    ours = from_official(original, "sequencer")
    assert shapes(ours) == keys["official"] and shapes(as_official(state, "sequencer")) == keys["original_repo"]
    assert all(ours[keys["original_to_timm"][name]] is value for name, value in original.items())


def shapes(state: dict[str, torch.Tensor]) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in state.items()}
