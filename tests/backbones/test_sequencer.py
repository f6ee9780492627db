"""Sequencer2D: images of any sizes, timm's interface, starting values, compiled and exported graphs."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from torch import nn

from visionrnn.backbones.sequencer import Sequencer2D
from visionrnn.layers.drop_path import DropPath
from visionrnn.layers.recurrent import Recurrent
from visionrnn.registry import BACKBONES

TINY = dict(num_classes=5, layers=(1, 2), patch_sizes=(4, 2), embed_dims=(12, 16), hidden_sizes=(3, 5), mlp_ratios=(2.0, 1.5))


def built(**options) -> Sequencer2D:
    torch.manual_seed(0)
    model = BACKBONES.build("sequencer2d", **{**TINY, **options})
    if model.num_classes:
        nn.init.normal_(model.head.fc.weight)
    return model


@pytest.mark.parametrize(
    "options", [{}, dict(cell="gru"), dict(cell="rnn", stem_norm=True), dict(union="flat", position=True, img_size=16)], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_images_of_different_sizes(options, dtype):
    model = built(**options).to(dtype).train()
    images = [torch.randn(3, *size, dtype=dtype, requires_grad=True) for size in ((24, 36), (17, 9), (8, 8), (24, 36))]
    bound = 1e-10 if dtype == torch.float64 else 1e-5
    features, alone = model.forward_features(images), [model.forward_features(image[None])[0] for image in images]
    for found, expected in zip(features, alone, strict=True):
        torch.testing.assert_close(found, expected, atol=bound, rtol=0)
    out, expected = model(images), torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(out, expected, atol=bound * 10, rtol=0)  # the head's weights are not small
    weight, of = torch.randn_like(out), [*images, *model.parameters()]
    grads = [torch.autograd.grad((value * weight).sum(), of) for value in (out, expected)]
    for found, wanted in zip(*grads, strict=True):
        assert (found - wanted).abs().max() <= bound * max(1, wanted.abs().max())


def test_what_is_left_of_an_image_is_not_seen():
    model, image = built().eval(), torch.randn(1, 3, 27, 33)
    assert torch.equal(model(image), model(image[:, :, :24, :32]))


def test_images_too_small():
    model = built()
    with pytest.raises(ValueError, match="smaller than a patch"):
        model(torch.randn(1, 3, 3, 8))
    for images in ([torch.randn(3, 16, 16), torch.randn(3, 4, 8)], torch.randn(2, 3, 4, 8)):
        with pytest.raises(ValueError, match="a map of 1 × 2 features, smaller than a patch of 2 × 2; give larger images"):
            model(images)


def test_stages_need_as_many_numbers():
    with pytest.raises(ValueError, match="1 layers, 2 patch_sizes"):
        built(layers=(1,))


def test_starting_values():
    model = Sequencer2D(layers=(1, 1, 1, 1), nlhb=True)
    assert not model.head.fc.weight.any() and torch.allclose(model.head.fc.bias, torch.tensor(-6.9077553))
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            spread = module.weight.detach().std().item()
            assert spread == pytest.approx(module.weight[0].numel() ** -0.5, rel=0.05) and not module.bias.any()
        elif isinstance(module, nn.Linear) and "head" not in name:
            bound = (6 / sum(module.weight.shape)) ** 0.5
            assert 0.95 * bound < module.weight.abs().max() <= bound
            assert 0 < module.bias.abs().max() < 1e-5 if "mlp" in name else not module.bias.any()
        elif isinstance(module, Recurrent):
            for weight in module.parameters():
                assert 0.9 * module.hidden_size**-0.5 < weight.abs().max() <= module.hidden_size**-0.5


def test_drop_path():
    def rates(**options) -> list[float]:
        return [module.rate for module in built(layers=(2, 3), **options).modules() if isinstance(module, DropPath)]

    assert rates(drop_path_rate=0.2) == [0.2] * 5
    assert rates(drop_path_rate=0.2, drop_path_ramp=True) == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    model = built(drop_path_rate=0.6).train()
    branch = model.stages[0].blocks[0]._dropped(torch.ones(64, 2, 3, 4), None)
    assert set(branch.amax((1, 2, 3)).tolist()) == {0.0, 2.5} and torch.equal(branch.amin((1, 2, 3)), branch.amax((1, 2, 3)))


def test_intermediate_features():
    model, image = built().eval(), torch.randn(2, 3, 24, 36)
    assert model.feature_info == [
        {"module": "stages.0", "num_chs": 12, "reduction": 4},
        {"module": "stages.1", "num_chs": 16, "reduction": 8},
    ]
    whole = model.forward_features(image)
    final, maps = model.forward_intermediates(image)
    assert torch.equal(final, whole) and [tuple(value.shape) for value in maps] == [(2, 12, 6, 9), (2, 16, 3, 4)]
    normed = model.forward_intermediates(image, 1, norm=True, output_fmt="NHWC", intermediates_only=True)
    assert len(normed) == 1 and torch.equal(normed[0], whole)
    final, maps = model.forward_intermediates(image, [0], norm=True, stop_early=True, output_fmt="NHWC")
    assert torch.equal(final, maps[0])
    assert torch.equal(model.stages[0](model.embed(image)), final)
    with pytest.raises(ValueError, match="output_fmt='NLC'"):
        model.forward_intermediates(image, output_fmt="NLC")
    with pytest.raises(ValueError, match="take forward_features"):
        model.forward_intermediates(list(image))


def test_pruning_and_heads():
    model, image = built().eval(), torch.randn(2, 3, 16, 16)
    expected = model.forward_intermediates(image, [0], intermediates_only=True)[0]
    assert model.get_classifier() is model.head and model.prune_intermediate_layers([0]) == [0]
    assert len(model.stages) == 1 and model.num_features == model.head_hidden_size == 12
    assert torch.equal(model(image), expected.permute(0, 2, 3, 1))
    model.reset_classifier(7, "avg")
    assert model(image).shape == (2, 7) and not model(image).any()  # a new head starts at zero
    model.reset_classifier(0)
    torch.testing.assert_close(model(image), expected.mean((2, 3)))
    assert torch.equal(model.forward_head(model.forward_features(image), pre_logits=True), model(image))


def test_other_channels():
    assert built(in_chans=1)(torch.randn(1, 1, 16, 16)).shape == (1, 5)


def test_checkpointing_keeps_gradients():
    model, image = built().double().train(), torch.randn(2, 3, 16, 24, dtype=torch.float64)
    expected = torch.autograd.grad(model(image).square().sum(), list(model.parameters()))
    model.set_grad_checkpointing()
    assert all(stage.grad_checkpointing for stage in model.stages)
    for found, wanted in zip(torch.autograd.grad(model(image).square().sum(), list(model.parameters())), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-12, rtol=0)


def test_no_weight_decay():
    model = built(union="flat", position=True, img_size=16)
    assert "pos_embed.embed" in model.no_weight_decay()
    assert not any(".weight" in name for name in model.no_weight_decay())


ONE_STAGE = dict(layers=(1,), patch_sizes=(4,), embed_dims=(8,), hidden_sizes=(3,), mlp_ratios=(2.0,))


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_compiled(cell):
    torch._dynamo.reset()
    model, image, results = built(cell=cell, **ONE_STAGE).train(), torch.randn(2, 3, 16, 24), []
    for run in (model, torch.compile(model, fullgraph=True, backend="aot_eager")):
        out = run(image)
        results.append([out, *torch.autograd.grad(out.square().sum(), list(model.parameters()))])
    for found, expected in zip(results[1], results[0], strict=True):
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_exported():
    model, image = built().eval(), torch.randn(2, 3, 16, 24)
    exported = torch.export.export(model, (image,), dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1, max=16)}})
    torch.testing.assert_close(exported.module()(image[:1]), model(image[:1]), atol=1e-5, rtol=0)


if find_spec("timm"):

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    def test_timm(dtype):
        """Its weights as they are; the same scores and gradients of all weights, and the same parameter groups."""
        from timm.models._manipulate import group_parameters
        from timm.models.sequencer import Sequencer2d

        ours, x = built().to(dtype), torch.randn(2, 3, 25, 38, dtype=dtype)
        theirs = Sequencer2d(**TINY).to(dtype)
        theirs.load_state_dict(ours.state_dict())
        bound = 1e-10 if dtype == torch.float64 else 1e-5
        outs = [model(x) for model in (ours, theirs)]
        torch.testing.assert_close(*outs, atol=bound, rtol=bound)
        names = [name for name, _ in ours.named_parameters()]
        grads = [
            torch.autograd.grad(out.square().sum(), [dict(model.named_parameters())[name] for name in names])
            for out, model in zip(outs, (ours, theirs), strict=True)
        ]
        for name, found, expected in zip(names, *grads, strict=True):
            assert (found - expected).abs().max() <= bound * expected.abs().max(), name
        for coarse in (False, True):
            matcher = ours.group_matcher(coarse)
            assert group_parameters(ours, matcher) == group_parameters(theirs, theirs.group_matcher(coarse))
