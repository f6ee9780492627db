"""What plain classifiers share, shown on Vision-LSTM: timm's interface, image sizes, heads; tests/integrations asks timm itself."""

from __future__ import annotations

import pytest
import torch

from visionrnn.backbones.classifier import take_indices
from visionrnn.backbones.vil import V1, V2, ViL
from visionrnn.layers.patch_embed import resample_positions


def model(version: dict = V2, **options) -> ViL:
    torch.manual_seed(0)
    built = ViL(**{**version, "img_size": (32, 48), "patch_size": 8, "num_classes": 5, "dim": 16, "depth": 4, **options})
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return built.double()


def images(height: int = 32, width: int = 48, number: int = 2) -> torch.Tensor:
    return torch.randn(number, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("stride", [None, 4])
@pytest.mark.parametrize("version", [V1, V2], ids=["v1", "v2"])
def test_set_input_size_is_a_model_built_for_that_size(version, stride):
    """Same shapes of weights, same scores: the convolution knows the grid it has."""
    resized, built = model(version, stride=stride), model(version, stride=stride, img_size=(40, 64))
    positions = resample_positions(resized.pos_embed.embed.detach(), (5, 8))
    resized.set_input_size((40, 64))
    built.load_state_dict(resized.state_dict())
    assert torch.equal(built.pos_embed.embed, positions)
    x = images(40, 64)
    assert torch.equal(resized(x), built(x))
    assert resized.patch_embed.grid_size == built.patch_embed.grid_size == ((5, 8) if stride is None else (9, 15))
    with pytest.raises(ValueError, match="built for 40 × 64"):
        resized(images())
    with pytest.raises(ValueError, match="patches of a built model stay"):
        resized.set_input_size(64, patch_size=4)


@pytest.mark.parametrize("version", [V1, V2], ids=["v1", "v2"])
def test_dynamic_size_equals_a_model_built_for_that_size(version):
    dynamic = model(version, dynamic_img_size=True)
    for height, width in ((32, 48), (48, 32), (24, 64), (16, 40)):  # the second has as many patches, in other rows
        built = model(version, img_size=(height, width))
        state = dynamic.state_dict()
        state["pos_embed.embed"] = resample_positions(state["pos_embed.embed"], (height // 8, width // 8))
        built.load_state_dict(state)
        torch.testing.assert_close(dynamic(images(height, width)), built(images(height, width)), rtol=0, atol=1e-12)


def test_no_size_is_stored_beside_the_weights():
    assert not list(model().buffers())
    small, large = (model(img_size=size).state_dict() for size in (16, 64))
    assert [name for name in small if small[name].shape != large[name].shape] == ["pos_embed.embed"]


def test_heads():
    net, x = model(), images()
    features = net.forward_features(x)
    assert features.shape == (2, 24, 16)
    assert net.get_classifier() is net.head
    assert net.head_hidden_size == 32
    ends = torch.cat([features[:, 0], features[:, -1]], -1)
    torch.testing.assert_close(net.forward_head(features, pre_logits=True), net.head_norm(ends), rtol=0, atol=0)
    torch.testing.assert_close(net(x), net.head(net.head_norm(ends)), rtol=0, atol=0)
    norm = net.head_norm
    net.reset_classifier(3)
    assert net.head_norm is norm  # as wide as before: what was learned stays
    assert net(x).shape == (2, 3)
    net.reset_classifier(7, "bilateral_avg")
    assert net.head_norm.weight.shape == (16,)
    assert net.head_norm.eps == norm.eps
    assert net(x).shape == (2, 7)
    assert net.head.weight.dtype == net.head_norm.weight.dtype == torch.float64
    net.reset_classifier(0, "avg")
    torch.testing.assert_close(net(x), net.head_norm(net.forward_features(x).mean(1)), rtol=0, atol=0)
    net.reset_classifier(0, "")
    assert net(x).shape == (2, 24, 16)
    with pytest.raises(ValueError, match="global_pool='max'; expected one of"):
        net.reset_classifier(2, "max")
    assert net.global_pool == ""


def test_intermediates():
    net, x = model().eval(), images()
    final, kept = net.forward_intermediates(x)
    assert len(kept) == 4
    torch.testing.assert_close(final, net.forward_features(x), rtol=0, atol=0)
    tokens = net.forward_intermediates(x, [1, -1], norm=True, output_fmt="NLC", intermediates_only=True)
    torch.testing.assert_close(tokens[1], final, rtol=0, atol=0)
    torch.testing.assert_close(tokens[0].transpose(1, 2).view(2, 16, 4, 6), net.norm(kept[1].permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
    assert [info["num_chs"] for info in net.feature_info] == [kept[0].shape[1]] * 4
    assert {info["reduction"] for info in net.feature_info} == {32 // kept[0].shape[2]}
    assert all(isinstance(net.get_submodule(info["module"]), torch.nn.Module) for info in net.feature_info)
    early = net.forward_intermediates(x, [1], stop_early=True, intermediates_only=True)
    assert torch.equal(early[0], kept[1])
    assert net.prune_intermediate_layers([1], prune_norm=True) == [1]
    assert torch.equal(net.forward_intermediates(x, [1], intermediates_only=True)[0], kept[1])
    assert len(net.blocks) == 2
    with pytest.raises(ValueError, match="output_fmt='NHWC'"):
        net.forward_intermediates(x, output_fmt="NHWC")
    with pytest.raises(ValueError, match="take forward_features"):
        net.forward_intermediates(list(x))


def test_an_empty_batch():
    for version in (V1, V2):
        net = model(version)
        scores = net(images(number=0))
        assert scores.shape == (0, 5)
        scores.sum().backward()
        assert not any(parameter.grad.any() for parameter in net.parameters())


def test_indices():
    assert take_indices(4, 2) == [2, 3]
    assert take_indices(4, None) == [0, 1, 2, 3]
    assert take_indices(4, (-1, 0)) == [3, 0]
    for wrong in (0, 5, (4,), (-5,), ()):
        with pytest.raises(ValueError, match="there are 4 intermediate features"):
            take_indices(4, wrong)


def test_checkpointing_gives_the_same_gradients():
    net, x = model().train(), images()
    gradients = []
    for enable in (False, True):
        net.set_grad_checkpointing(enable)
        net.zero_grad()
        net(x).square().sum().backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in net.named_parameters()})
    for name, found in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], found, rtol=0, atol=1e-12)


def test_weight_decay_leaves_out_what_the_authors_leave_out():
    net = model()
    names = {name for name, parameter in net.named_parameters() if parameter.ndim > 1} - net.no_weight_decay()
    kinds = {name.removeprefix("blocks.0.") for name in names if not name.startswith(("blocks.1", "blocks.2", "blocks.3"))}
    weights = {f"layer.{part}.weight" for part in ("up_proj", "down_proj", "conv", "gates")} | {"layer.qkv_weight"}
    assert kinds == weights | {"patch_embed.proj.weight", "head.weight"}


def test_groups_by_depth():
    import re

    net = model()
    matcher = net.group_matcher()
    (pattern, _), _ = matcher["blocks"]
    depths = {name: re.match(pattern, name) for name, _ in net.named_parameters() if name.startswith("blocks")}
    assert {int(match[1]) for match in depths.values()} == {0, 1, 2, 3}
    assert {name for name, _ in net.named_parameters() if re.match(matcher["stem"], name)} == {
        "pos_embed.embed",
        "patch_embed.proj.weight",
        "patch_embed.proj.bias",
    }
