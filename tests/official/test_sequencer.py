"""Names of the authors' repository and ours, in both directions."""

from __future__ import annotations

import torch

from visionrnn.backbones.sequencer import Sequencer2D
from visionrnn.checkpoints import as_official, from_official, load_official

TINY = dict(num_classes=5, layers=(2, 1, 12), patch_sizes=(4, 2, 1), embed_dims=(8,) * 3, hidden_sizes=(2,) * 3, mlp_ratios=(1.0,) * 3)


def test_there_and_back():
    torch.manual_seed(0)
    model = Sequencer2D(**TINY)
    theirs = as_official(model.state_dict(), "sequencer")
    names = {"blocks.0.2.down.weight", "blocks.1.1.down.bias", "blocks.2.11.rnn_tokens.rnn_h.weight_ih_l0_reverse", "head.weight"}
    assert names <= set(theirs) and not any(name.startswith("stages") for name in theirs)
    other = Sequencer2D(**TINY)
    load_official(other, theirs, "sequencer")
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())


def test_plain_model():
    model = Sequencer2D(**TINY, union="flat", position=True)
    theirs = as_official(model.state_dict(), "sequencer")
    assert "absolute_pos_embed" in theirs and set(from_official(theirs, "sequencer")) == set(model.state_dict())


def test_our_names_stay():
    state = Sequencer2D(**TINY).state_dict()
    assert list(from_official(state, "sequencer")) == list(state)
