"""The quadratic form of Vision-LSTM, with which speed is compared, gives what the linear one gives."""

from __future__ import annotations

import pytest
import torch
from quadratic_vil import quadratic_vil

from visionrnn.backbones.vil import V1, V2, ViL
from visionrnn.testing import error


@pytest.mark.parametrize("version", [V1, V2], ids=["v1", "v2"])
def test_same_outputs_and_gradients(version):
    torch.manual_seed(0)
    model = ViL(img_size=(48, 64), patch_size=8, num_classes=5, dim=24, depth=3, **version).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2 if parameter.dim() > 1 else 0.5)
    images, quadratic = torch.randn(2, 3, 48, 64, dtype=torch.float64), quadratic_vil(model)
    found = {"linear": model(images), "quadratic": quadratic(images)}
    assert error(found["linear"], found["quadratic"]) <= 1e-6  # eps: see the module
    wanted = dict(quadratic.named_parameters())
    gradients = torch.autograd.grad(found["linear"].square().sum(), list(model.parameters()))
    expected = torch.autograd.grad(found["quadratic"].square().sum(), [wanted[name] for name, _ in model.named_parameters()])
    for (name, _), gradient, exact in zip(model.named_parameters(), gradients, expected, strict=True):
        assert error(gradient, exact) <= 1e-5, name
    assert error(model.float()(images.float()), found["quadratic"]) <= 1e-4
