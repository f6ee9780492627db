"""Rules translate names and shapes both ways; parts that belong together stay together."""

import pytest
import torch

from visionrnn.checkpoints import as_official, from_official
from visionrnn.official import FAMILIES, Rule, to_official, to_ours

INNER = (Rule("w", "weight"), Rule("q.*", "both.*", part=(0, 2)), Rule("k.*", "both.*", part=(1, 2)))
TABLE = (
    Rule("layer_*.**", "layers.*.**", INNER),
    Rule("flat", "grown", own_axes=(1,)),
    Rule("conv.weight", "linear.weight", unit_axes=(1, 2)),
    Rule("moved", "turned", unit_axes=(0,), own_axes=(2,)),
)


def test_both_ways():
    published = {
        "layer_3.w": torch.randn(2),
        "layer_3.q.bias": torch.randn(2),
        "layer_3.k.bias": torch.randn(2),
        "flat": torch.randn(4, 3),
        "conv.weight": torch.randn(5, 1, 1, 7),
        "moved": torch.randn(1, 2, 3),
        "unknown": torch.randn(1),
    }
    ours = to_ours(published, TABLE)
    shapes = {name: tuple(value.shape) for name, value in ours.items()}
    assert shapes == {
        "layers.3.weight": (2,),
        "layers.3.both.bias": (4,),
        "grown": (4, 1, 3),
        "linear.weight": (5, 7),
        "turned": (2, 3, 1),
        "unknown": (1,),
    }
    assert torch.equal(ours["layers.3.weight"], published["layer_3.w"])
    assert torch.equal(ours["layers.3.both.bias"], torch.cat([published["layer_3.q.bias"], published["layer_3.k.bias"]]))
    back = to_official(ours, TABLE)
    assert back.keys() == published.keys()
    assert all(torch.equal(back[name], value) for name, value in published.items())


def test_a_missing_part_is_told():
    with pytest.raises(ValueError, match=r"layers.0.both.bias: 1 of the 2 published tensors"):
        to_ours({"layer_0.q.bias": torch.zeros(2)}, TABLE)


def test_counters_are_left_out_and_written_back():
    state = {"global_step": torch.tensor([12]), "vfe.pfn_layers.0.norm.weight": torch.ones(2)}
    ours = from_official(state)
    assert list(ours) == ["voxel_encoder.layers.0.1.weight"]
    assert as_official(ours).keys() == {"vfe.pfn_layers.0.norm.weight"}
    assert torch.equal(as_official(ours, step=12)["global_step"], torch.tensor([12]))
    assert as_official(ours, step=0)["global_step"].dtype == torch.int64


def test_families():
    assert list(FAMILIES) == ["lion", "sequencer", "vil", "vil_package"]
    with pytest.raises(KeyError, match="unknown family 'tiger'; expected one of"):
        from_official({}, "tiger")
