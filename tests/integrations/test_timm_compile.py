"""torch.compile without a graph break, torch.export and bfloat16 autocast of every entry; entries of one name differ in size alone."""

import pytest
import torch
from timm_entries import NAMES, ONE_EACH, images, small

TINY = [name for name in NAMES if "_tiny_" in name or name.endswith("sequencer2d_s")]
BFLOAT16 = {"pyramidrnn": 0.025}
"""Largest difference of class scores over the largest score; 0.015, four roundings of bfloat16, for models not named."""


def marked(names: list[str], fast: tuple[str, ...] | list[str]) -> list:
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in names]


def close(found: torch.Tensor, expected: torch.Tensor, bound: float = 1e-5) -> None:
    assert (found - expected).abs().max() <= bound * expected.abs().max()


@pytest.mark.parametrize("name", marked(TINY, ONE_EACH[1:2]))
def test_compiled(name):
    model = small(name, **({"depth": 2} if name.startswith(("vil", "visionrnn")) else {})).eval()
    torch._dynamo.reset()
    with torch.no_grad():
        close(torch.compile(model, fullgraph=True, backend="aot_eager")(images()), model(images()))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vil2_tiny_patch16_224", "visionrnn_mamba_tiny_patch16_224"])
def test_trained_with_inductor(name):
    model = small(name, depth=2)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True)
    weights = torch.linspace(-1, 1, 20).view(2, 10)
    gradients = []
    for function in (model, compiled):
        model.zero_grad()
        (function(images()) * weights).sum().backward()
        gradients.append({key: parameter.grad.clone() for key, parameter in model.named_parameters()})
    for key, expected in gradients[0].items():
        close(gradients[1][key], expected, 1e-4)


@pytest.mark.parametrize("name", marked(NAMES, ONE_EACH))
def test_exported(name):
    model = small(name, **({"depth": 2} if name.startswith(("vil", "visionrnn")) else {})).eval()
    exported = torch.export.export(model, (images(),))
    with torch.no_grad():
        close(exported.module()(images()), model(images()))


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16(name):
    model = small(name).eval()
    with torch.no_grad():
        expected = model(images())
        with torch.autocast("cpu", torch.bfloat16):
            found = model(images())
    close(found.float(), expected, BFLOAT16.get(name.partition("_")[0], 0.015))
