"""Image classifiers as backbones: maps of the promised sizes, any image size, frozen parts, weights of classifiers."""

from __future__ import annotations

import pytest
import timm
import torch

pytest.importorskip("mmengine")
pytest.importorskip("mmcv")
from mmengine.registry import MODELS, DefaultScope

from visionrnn.checkpoints import as_official
from visionrnn.errors import CheckpointError, DataError
from visionrnn.integrations.mmdet import ImageBackbone, SimplePyramid

VIL = dict(name="vil2_tiny_patch16_224", dim=32, depth=4)
STAGES = [dict(dim=16, depth=1, window=4, group_size=16), dict(dim=32, depth=2, window=4, group_size=16)]
PYRAMID = dict(name="pyramidrnn_retnet_tiny_224", stages=STAGES)
VISION = dict(name="visionrnn_retnet_tiny_patch16_224", dim=32, depth=3)
SEQUENCER = dict(name="lstm_sequencer2d_s", layers=(1, 1, 1, 1), embed_dims=(16, 24, 24, 24), hidden_sizes=(4, 6, 6, 6))


def images(height: int = 64, width: int = 64) -> torch.Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("scope", ["mmengine", "mmdet"])
def test_every_scope_finds_it(scope):
    registry = MODELS
    if scope == "mmdet":
        pytest.importorskip("mmdet")
        from mmdet.registry import MODELS as registry
    with DefaultScope.overwrite_default_scope(scope):
        built = registry.build(dict(type="ImageBackbone", **VIL))
    assert isinstance(built, ImageBackbone) and built.channels == [32] and built.strides == [16]


@pytest.mark.parametrize(
    ("options", "channels", "strides"),
    [
        (dict(VIL), [32], [16]),
        (dict(VIL, out_indices=(0, 2, -1)), [32, 32, 32], [16, 16, 16]),
        (dict(VISION, out_indices=(1,), out_norm=True), [32], [16]),
        (dict(PYRAMID), [16, 32], [4, 8]),
        (dict(PYRAMID, out_indices=(0,)), [16], [4]),
        (dict(SEQUENCER), [16, 24], [7, 14]),
        (dict(name="resnet18", out_indices=(2, 3)), [128, 256], [8, 16]),
    ],
)
def test_maps(options, channels, strides):
    backbone = ImageBackbone(**options).eval()
    assert (backbone.channels, backbone.strides) == (channels, strides)
    for height, width in ((64, 64), (96, 48)):
        maps = backbone(images(height, width))
        assert [tuple(value.shape[:2]) for value in maps] == [(2, width_of) for width_of in channels]
        if "sequencer" not in options["name"]:  # patches of 7 pixels do not divide these sizes
            assert [tuple(value.shape[2:]) for value in maps] == [(height // stride, width // stride) for stride in strides]
        assert all(value.isfinite().all() for value in maps)
    if options.get("out_norm"):
        torch.testing.assert_close(maps[0].mean(1), torch.zeros_like(maps[0][:, 0]), atol=1e-5, rtol=0)


def test_maps_are_those_of_timm():
    torch.manual_seed(0)
    backbone = ImageBackbone(**VIL, out_indices=(1, 3)).eval()
    options = {key: value for key, value in VIL.items() if key != "name"}
    model = timm.create_model(VIL["name"], features_only=True, out_indices=(1, 3), dynamic_img_size=True, **options)
    model.eval().model.load_state_dict(backbone.model.state_dict())
    for ours, theirs in zip(backbone(images()), model(images()), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("options", [VIL, PYRAMID, SEQUENCER], ids=["vil", "pyramid", "sequencer"])
def test_every_weight_is_used(options):
    backbone = ImageBackbone(**options)
    sum(value.square().mean() for value in backbone(images(56, 56))).backward()
    assert [name for name, parameter in backbone.named_parameters() if parameter.grad is None] == []


def test_frozen_stages_stay():
    backbone = ImageBackbone(**VIL, frozen_stages=2, drop_path_rate=0.5).train()
    frozen = {name for name, parameter in backbone.model.named_parameters() if not parameter.requires_grad}
    assert {name.split(".")[0] for name in frozen} == {"patch_embed", "pos_embed", "blocks"}
    assert {name.split(".")[1] for name in frozen if name.startswith("blocks")} == {"0", "1"}
    assert [block.training for block in backbone.model.blocks] == [False, False, True, True]
    assert not backbone.model.blocks[0].training and all(not part.training for part in backbone.model.blocks[0].modules())
    assert all(parameter.requires_grad for parameter in ImageBackbone(**PYRAMID).parameters())


@pytest.mark.parametrize("names", ["ours", "published"])
def test_weights_of_a_classifier(names, tmp_path):
    """A file of other classes and of another size of images: the head is left, positions are re-sampled."""
    torch.manual_seed(0)
    kwargs = {key: value for key, value in VIL.items() if key != "name"}
    classifier = timm.create_model(VIL["name"], num_classes=7, img_size=64, **kwargs)
    state = classifier.state_dict() if names == "ours" else as_official(classifier.state_dict(), "vil")
    torch.save({"state_dict": {f"backbone.{name}": value for name, value in state.items()}}, tmp_path / "classifier.pth")
    init = dict(type="Pretrained", checkpoint=str(tmp_path / "classifier.pth"), prefix="backbone.")
    backbone = ImageBackbone(**VIL, out_indices=(0, 2), img_size=64, init_cfg=init)
    backbone.init_weights()
    for name, value in backbone.model.state_dict().items():
        assert torch.equal(value, classifier.state_dict()[name]), name
    larger = ImageBackbone(**VIL, out_indices=(0, 2), img_size=128, init_cfg=init)
    larger.init_weights()
    assert larger.model.pos_embed.embed.shape[1:3] == (8, 8)


def test_weights_that_do_not_fit(tmp_path):
    torch.save({"state_dict": {"blocks.0.norm.weight": torch.zeros(32)}}, tmp_path / "part.pth")
    part = dict(type="Pretrained", checkpoint=str(tmp_path / "part.pth"))
    with pytest.raises(CheckpointError, match="missing from the file"):
        ImageBackbone(**VIL, init_cfg=part).init_weights()
    with pytest.raises(CheckpointError, match=r"no weight's name starts with 'backbone\.'"):
        ImageBackbone(**VIL, init_cfg=dict(part, prefix="backbone.")).init_weights()
    with pytest.raises(ValueError, match="expected dict"):
        ImageBackbone(**VIL, init_cfg=dict(type="Xavier")).init_weights()


def test_initialising_a_detector_leaves_loaded_weights():
    backbone = ImageBackbone(**VIL)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    backbone.init_weights()
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


def test_refusals():
    with pytest.raises(DataError, match="timm knows no such model"):
        ImageBackbone("vil3_tiny")
    with pytest.raises(ValueError, match="4 intermediate features"):
        ImageBackbone(**VIL, out_indices=(4,))
    for indices in ((2, 0), (3, -1)):  # maps come in the model's order, each once
        with pytest.raises(ValueError, match="rising numbers"):
            ImageBackbone(**VIL, out_indices=indices)


def test_simple_pyramid():
    neck = SimplePyramid(32, 24, scales=(4, 2, 1, 0.5, 0.25))
    maps = neck([torch.zeros(1), torch.randn(2, 32, 8, 12)])
    assert [tuple(value.shape) for value in maps] == [(2, 24, 8 * s // 4, 12 * s // 4) for s in (16, 8, 4, 2, 1)]
    sum(value.square().mean() for value in maps).backward()
    assert all(parameter.grad is not None for parameter in neck.parameters())
    for scales, message in (((3,), "scale 3"), ((0.3,), "scale 0.3")):
        with pytest.raises(ValueError, match=message):
            SimplePyramid(32, 24, scales=scales)
    with pytest.raises(ValueError, match="in_channels=30"):
        SimplePyramid(30, 24)
