"""Vision-LSTM's published names ↔ ours, without stored cases; tests/parity has the whole lists."""

from __future__ import annotations

import pytest
import torch

from visionrnn.backbones.vil import V1, V2, ViL
from visionrnn.checkpoints import as_official, from_official, load_official

VERSIONS = {
    "v1": (V1, "xlstm.blocks.1.xlstm.conv1d.conv.weight", "blocks.1.layer.conv1d.conv.weight"),
    "v2": (V2, "xlstm.blocks.1.xlstm.conv1d.weight", "blocks.0.rowwise_from_bot_right.layer.conv.weight"),
}


def small(version: str) -> ViL:
    torch.manual_seed(0)
    return ViL(16, 8, num_classes=3, dim=16, depth=2, **VERSIONS[version][0])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("family", ["vil", "vil_package"])
def test_there_and_back(version, family):
    model, other = small(version), small(version)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    published = as_official(model.state_dict(), family)
    assert VERSIONS[version][1 + (family == "vil_package")] in published
    load_official(other, published, "vil")  # takes both kinds of names
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    again = as_official(other.state_dict(), family)
    assert published.keys() == again.keys()
    assert all(torch.equal(published[name], again[name]) for name in published)


@pytest.mark.parametrize("version", VERSIONS)
def test_norms_keep_their_place(version):
    """The package calls the norm behind the layers ``legacy_norm`` in the first version and the one before the head in the second."""
    model = small(version)
    with torch.no_grad():
        model.norm.weight.fill_(0.25)
        model.head_norm.weight.fill_(0.75)
    released, package = (as_official(model.state_dict(), family) for family in ("vil", "vil_package"))
    assert released["xlstm.post_blocks_norm.weight"].unique() == 0.25
    assert released["head.0.weight"].unique() == 0.75
    behind, before = ("legacy_norm", "norm") if version == "v1" else ("norm", "legacy_norm")
    assert package[f"{behind}.weight"].unique() == 0.25
    assert package[f"{before}.weight"].unique() == 0.75


def test_masks_of_older_checkpoints_are_ignored():
    model = small("v1")
    published = as_official(model.state_dict(), "vil")
    masks = {f"xlstm.blocks.{i}.xlstm.mlstm_cell.causal_mask": torch.ones(4, 4).tril().bool() for i in range(2)}
    assert from_official({**published, **masks}, "vil").keys() == model.state_dict().keys()
    load_official(model, {**published, **masks}, "vil")


def test_a_missing_gate_is_named():
    published = as_official(small("v2").state_dict(), "vil")
    del published["xlstm.blocks.0.xlstm.mlstm_cell.igate.weight"]
    with pytest.raises(ValueError, match=r"blocks\.0\.layer\.gates\.weight: 1 of the 2"):
        from_official(published, "vil")
