"""timm's own tests of its models, for ours: forward and backward passes, configuration, heads, features, optimizers."""

import copy
import pickle

import pytest
import timm
import torch
from timm.models import FeatureInfo, group_parameters
from timm.optim import create_optimizer_v2, param_groups_layer_decay
from timm_entries import NAMES, ONE_EACH, images, small
from torch import nn

from visionrnn.backbones.sequencer import Sequencer2D
from visionrnn.backbones.vil import ViL
from visionrnn.integrations.timm import ENTRIES
from visionrnn.layers.grid_conv import GridConv

every = pytest.mark.parametrize("name", NAMES)
one_each = pytest.mark.parametrize("name", ONE_EACH)
SIZE = (32, 48)


def loss(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    y = model(x)
    return (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum()


def gradients(model: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss(model, x).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


@every
def test_forward_and_backward(name):
    model = small(name, num_classes=7).train()
    found = gradients(model, images())
    assert model(images()).shape == (2, 7)
    assert set(found) == {name for name, _ in model.named_parameters()}
    assert all(gradient.isfinite().all() for gradient in found.values())
    assert sum(bool(gradient.any()) for gradient in found.values()) > 0.8 * len(found)


@every
def test_checkpointing_changes_nothing(name):
    model = small(name).train()
    plain, plain_gradients = loss(model, images()), gradients(model, images())
    model.set_grad_checkpointing()
    again, again_gradients = loss(model, images()), gradients(model, images())
    torch.testing.assert_close(again, plain, rtol=1e-6, atol=1e-6)
    for key, value in plain_gradients.items():
        torch.testing.assert_close(again_gradients[key], value, rtol=1e-5, atol=1e-6 * max(1.0, float(value.abs().max())))


@every
def test_configuration_and_heads(name):
    model = small(name).eval()
    cfg, weights = model.pretrained_cfg, model.state_dict()
    assert model.default_cfg is cfg and cfg["architecture"] == name and cfg["num_classes"] == 1000
    assert cfg["input_size"] == (3, 224, 224) and cfg["interpolation"] == "bicubic" and len(cfg["mean"]) == len(cfg["std"]) == 3
    assert cfg["crop_pct"] == (0.875 if isinstance(model, Sequencer2D) else 1.0)
    assert f"{cfg['classifier']}.weight" in weights and f"{cfg['first_conv']}.weight" in weights
    assert model.num_classes == 10 and model.num_features > 0 and model.head_hidden_size > 0 and model.in_chans == 3
    assert model.get_classifier() is model.head

    features = model.forward_features(images())
    assert features.shape[-1] == model.num_features
    assert (features.ndim == 4) == (getattr(model, "output_fmt", "NLC") == "NHWC")
    before = model.forward_head(features, pre_logits=True)
    assert before.shape == (2, model.head_hidden_size)
    torch.testing.assert_close(model.forward_head(features), model(images()))
    model.reset_classifier(2)
    assert not any(module.training for module in model.modules())
    model.reset_classifier(0)
    assert model.num_classes == 0
    torch.testing.assert_close(model(images()), before)
    model.reset_classifier(0, "")
    torch.testing.assert_close(model(images()).shape, features.shape)
    model.reset_classifier(5, "avg")
    assert model(images()).shape == (2, 5)
    assert small(name, num_classes=0).eval()(images()).shape == before.shape
    assert small(name, num_classes=0, global_pool="").eval()(images()).shape == features.shape


def check_maps(maps: list[torch.Tensor], info: FeatureInfo) -> None:
    assert len(maps) == len(info.channels())
    for value, channels, reduction in zip(maps, info.channels(), info.reduction(), strict=True):
        rows, columns = value.shape[2:]
        assert value.shape[:2] == (2, channels) and value.isfinite().all()
        assert all(abs(number - side / reduction) <= 1 for number, side in zip((rows, columns), SIZE, strict=True))


@every
def test_intermediates(name):
    model = small(name).eval()
    info = FeatureInfo(copy.deepcopy(model.feature_info), len(model.feature_info))
    assert len(info.channels()) >= 3
    modules = dict(model.named_modules())
    assert all(module in modules for module in info.module_name())
    features, maps = model.forward_intermediates(images())
    check_maps(maps, info)
    torch.testing.assert_close(features, model.forward_features(images()))
    other = "NLC" if features.ndim == 3 else "NHWC"
    torch.testing.assert_close(
        [value.flatten(2).transpose(1, 2) for value in maps],
        [value.flatten(1, -2) for value in model.forward_intermediates(images(), output_fmt=other, intermediates_only=True)],
    )
    torch.testing.assert_close(model.forward_intermediates(images(), indices=2, intermediates_only=True), maps[-2:])
    torch.testing.assert_close(model.forward_intermediates(images(), indices=[0, -2], intermediates_only=True), [maps[0], maps[-2]])
    _, early = model.forward_intermediates(images(), indices=[0], stop_early=True)
    torch.testing.assert_close(early, [maps[0]])
    (last,) = model.forward_intermediates(images(), indices=1, norm=True, output_fmt=other, intermediates_only=True)
    torch.testing.assert_close(last, features)
    model.set_grad_checkpointing()
    torch.testing.assert_close(model.train().forward_intermediates(images(), intermediates_only=True), maps)
    with pytest.raises(ValueError, match="output_fmt"):
        model.forward_intermediates(images(), output_fmt="NCL")
    with pytest.raises(ValueError, match="indices"):
        model.forward_intermediates(images(), indices=[99])


@every
def test_features_only(name):
    whole = small(name).eval()
    model = small(name, features_only=True).eval()
    assert type(model).__name__ == "FeatureGetterNet" and len(model.feature_info.channels()) >= 3
    assert "classifier" not in model.pretrained_cfg and model.in_chans == 3
    check_maps(model(images()), model.feature_info)
    for indices in ((0, 1), (0, -1), 2):
        model = small(name, features_only=True, out_indices=indices)
        assert not any("head" in key for key, _ in model.named_parameters())
        model.model.load_state_dict(whole.state_dict(), strict=False)
        maps = model.eval()(images())
        check_maps(maps, model.feature_info)
        taken = indices if isinstance(indices, int) else list(indices)
        torch.testing.assert_close(maps, whole.forward_intermediates(images(), indices=taken, intermediates_only=True))


@every
def test_channels_and_classes(name):
    model = small(name, in_chans=1, num_classes=3, drop_rate=0.1, drop_path_rate=0.2)
    assert model.train()(images(2, 1, 32, 48)).shape == (2, 3) and model.in_chans == 1
    with pytest.raises((RuntimeError, ValueError), match=r"channels|expected \[B, 1, H, W\]"):
        model(images())


@every
def test_shapes_without_memory(name):
    model = small(name, device="meta").eval()
    assert model(images().to("meta")).shape == (2, 10)
    assert model.to(torch.bfloat16)(images().to("meta", torch.bfloat16)).dtype == torch.bfloat16


@every
def test_device_type_and_unknown_arguments(name):
    with pytest.raises(TypeError, match="not_an_argument"):
        small(name, not_an_argument=1)
    model = timm.create_model(name, device="meta", dtype=torch.bfloat16)
    tensors = [*model.parameters(), *model.buffers()]
    assert {(value.device.type, value.dtype) for value in tensors} == {("meta", torch.bfloat16)}


def test_a_configuration_of_ones_own():
    model = small("vil2_tiny_patch16_224", pretrained_cfg=dict(num_classes=3, input_size=(1, 32, 48)), num_classes=None)
    assert model(images(2, 1, 32, 48)).shape == (2, 3) and model.in_chans == 1 and model.pretrained_cfg["num_classes"] == 3


@pytest.mark.parametrize("name", [name for name in ONE_EACH if "sequencer" not in name])
def test_sizes(name):
    model = small(name).eval()
    model.set_input_size((64, 48))
    rebuilt = small(name, img_size=(64, 48))
    assert {key: value.shape for key, value in model.state_dict().items()} == {k: v.shape for k, v in rebuilt.state_dict().items()}
    assert model(images(2, 3, 64, 48)).shape == (2, 10)
    with pytest.raises(ValueError, match="patch"):
        model.set_input_size(patch_size=9)
    if model.pretrained_cfg["fixed_input_size"]:
        with pytest.raises(ValueError, match="dynamic_img_size=True"):
            small(name)(images(1, 3, 80, 64))


@one_each
def test_images_of_different_sizes(name):
    model = small(name, **({"dynamic_img_size": True} if name.startswith(("vil", "visionrnn")) else {})).eval()
    small_image, large_image = images(3, 32, 48), images(3, 80, 64)
    with torch.no_grad():
        together = model([small_image, large_image])
        apart = torch.cat([model(image.unsqueeze(0)) for image in (small_image, large_image)])
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-5)


@every
def test_layer_groups(name):
    model = small(name)
    names = {key for key, _ in model.named_parameters()}
    for coarse in (False, True):
        groups = group_parameters(model, model.group_matcher(coarse=coarse), reverse=True)
        assert set(groups) == names and len(set(groups.values())) >= 4
        first, last = model.pretrained_cfg["first_conv"], model.pretrained_cfg["classifier"]
        assert groups[f"{first}.weight"] == min(groups.values()) and groups[f"{last}.weight"] == max(groups.values())
    layers = [layer for key, layer in groups.items() if "blocks.0." in key or "stages.0." in key]
    assert layers and min(layers) > min(groups.values())
    scaled = param_groups_layer_decay(model, layer_decay=0.5, no_weight_decay_list=model.no_weight_decay())
    assert sum(len(group["params"]) for group in scaled) == len(names) and min(group["lr_scale"] for group in scaled) < 0.2


@every
def test_optimizer(name):
    model = small(name)
    assert model.no_weight_decay() <= {key for key, _ in model.named_parameters()}
    optimizer = create_optimizer_v2(model, "adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.8)
    undecayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] == 0 for p in group["params"]}
    assert all(id(p) in undecayed for key, p in model.named_parameters() if p.ndim <= 1 or key in model.no_weight_decay())
    before = loss(model, images()).detach()
    gradients(model, images())
    optimizer.step()
    after = loss(model, images()).detach()
    assert after.isfinite() and after != before


@one_each
def test_copies(name):
    model = small(name).eval()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(other(images()), model(images()))
        other.load_state_dict(model.state_dict())


@pytest.mark.parametrize("name", ["vil_tiny_patch16_224", "vil2_base_patch16_224"])
def test_options_within_an_option(name):
    model = small(name, layer=dict(qkv_block=8))
    given = ENTRIES[name][1]["layer"]
    assert isinstance(model, ViL) and given["conv"] == ("causal" if "vil_" in name else "grid") and "qkv_block" not in given
    assert any(isinstance(part, GridConv) for part in model.modules()) == ("vil2" in name)


def test_pretrained_configurations_are_what_timm_resolves():
    data = timm.data.resolve_model_data_config(small("vil2_tiny_patch16_224", img_size=224))
    assert data["input_size"] == (3, 224, 224) and data["crop_pct"] == 1.0 and data["interpolation"] == "bicubic"
