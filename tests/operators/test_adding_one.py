"""Adding an operator is one new file: here its content, an exponential mean per channel. Nothing else is told of it."""

from __future__ import annotations

import inspect

import pytest
import torch
import torch.nn.functional as F
from operators import test_operators as checks
from random_voxels import random_voxels
from torch import nn

from visionrnn.backbones.lion import LION
from visionrnn.kernels import diagonal_scan
from visionrnn.operators.base import Operator
from visionrnn.operators.bidirectional import Bidirectional
from visionrnn.registry import OPERATORS


class Toy(Operator):
    """h_t = a ⊙ h_{t-1} + W x_t with a learned a per channel."""

    def __init__(self, dim: int, backend: str = "auto"):
        super().__init__()
        self.proj, self.decay, self.backend = nn.Linear(dim, dim), nn.Parameter(torch.ones(dim)), backend

    def mix(self, x, state=None, cu_seqlens=None, max_seqlen=None):
        log_decay = F.logsigmoid(self.decay).expand(*x.shape)
        h, last = diagonal_scan(
            self.proj(x), log_decay, (state or {}).get("h"), return_final_state=True,
            cu_seqlens=cu_seqlens, max_seqlen=max_seqlen, backend=self.backend,
        )  # fmt: skip
        return h, {"h": last}


@pytest.fixture(autouse=True)
def toy():
    OPERATORS.register("toy")(Toy)
    yield
    del OPERATORS._classes["toy"]


def test_lion_takes_it():
    torch.manual_seed(0)
    model = LION(16, dict(type="toy"), [dict(window=(4, 4, 4), group_size=32)], out_group_size=16)
    mixers = [module for module in model.modules() if isinstance(module, Bidirectional)]
    assert mixers and all(isinstance(mixer.ahead, Toy) and isinstance(mixer.back, Toy) for mixer in mixers)
    voxels = random_voxels((40, 30), (8, 16, 16), 16)
    features = voxels.features.requires_grad_()
    model(voxels).features.square().sum().backward()
    assert features.grad.abs().max() > 0
    assert all(parameter.grad.abs().max() > 0 for mixer in mixers for parameter in mixer.parameters())


def test_the_operator_tests_find_it(monkeypatch):
    assert checks.configs()["toy"] == {"type": "toy"}
    ran = 0
    for name, check in vars(checks).items():
        if name.startswith("test_") and next(iter(inspect.signature(check).parameters), None) == "name" and "head" not in name:
            values = {"name": "toy", "length": 63, "dtype": torch.float64, "monkeypatch": monkeypatch}
            check(**{argument: values[argument] for argument in inspect.signature(check).parameters})
            ran += 1
    assert ran >= 12
