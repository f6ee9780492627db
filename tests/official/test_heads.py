"""Published weights of nets and heads on bird's-eye maps mean the same in ours: computed, not only named."""

import pytest
import torch
import torch.nn.functional as F

from visionrnn.checkpoints import as_official, from_official
from visionrnn.layers.sparse_conv import SparseConvTensor, SubMConv3d


def test_dense_and_sparse_centre_heads_share_names_but_not_places():
    dense = ["heads_list.0.center.0.0.weight", "heads_list.0.hm.1.bias"]
    sparse = ["heads_list.0.center.0.0.weight", "heads_list.0.heatmap.1.bias", "heads_list.5.center.1.weight"]
    for names, ours in (
        (dense, ["branches.center.0.0.weight", "branches.hm.1.bias"]),
        (sparse, ["heads.0.center.conv.weight", "heads.0.heatmap.out.bias", "heads.5.center.out.weight"]),
    ):
        state = {f"dense_head.{name}": torch.zeros(2, 1, 1, 2) for name in names}
        translated = from_official(state)
        assert list(translated) == [f"bbox_head.{name}" for name in ours]
        assert {name: value.shape for name, value in as_official(translated).items()} == {k: v.shape for k, v in state.items()}


def test_sparse_convolution_in_the_plane():
    """[out, y, x, in] becomes a kernel of height 1: on a map with all cells occupied it equals a dense convolution."""
    torch.manual_seed(0)
    published = torch.randn(5, 3, 3, 4)
    name = "heads_list.0.heatmap.0.0.weight"
    weight = from_official({f"dense_head.{name}": published})["bbox_head.heads.0.heatmap.conv.weight"]
    y, x = (axis.flatten() for axis in torch.meshgrid(torch.arange(6), torch.arange(7), indexing="ij"))
    zero = torch.zeros_like(y)
    conv = SubMConv3d(4, 5, (1, 3, 3), bias=False)
    conv.load_state_dict({"weight": weight})
    features = torch.randn(42, 4)
    out = conv(SparseConvTensor(features, torch.stack([zero, zero, y, x], 1), (1, 6, 7), 1)).features
    dense = F.conv2d(features.view(6, 7, 4).permute(2, 0, 1)[None], published.permute(0, 3, 1, 2), padding=1)
    assert torch.allclose(out, dense[0].permute(1, 2, 0).flatten(0, 1), atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
def test_second_pads_in_the_convolution(stride):
    """The published net pads by a layer of its own, so its convolution k is number 3 k + 1 of a stage, ours number 3 k."""
    pytest.importorskip("mmdet3d")
    pytest.importorskip("visionrnn.integrations.mmdet3d")
    from mmdet3d.models.backbones import SECOND

    torch.manual_seed(0)
    norm = {"type": "BN", "eps": 1e-3, "momentum": 0.01}
    ours = SECOND(in_channels=3, layer_nums=[1], layer_strides=[stride], out_channels=[4], norm_cfg=norm)
    first = [torch.nn.ZeroPad2d(1), torch.nn.Conv2d(3, 4, 3, stride, bias=False), torch.nn.BatchNorm2d(4, 1e-3, 0.01), torch.nn.ReLU()]
    second = [torch.nn.Conv2d(4, 4, 3, padding=1, bias=False), torch.nn.BatchNorm2d(4, 1e-3, 0.01), torch.nn.ReLU()]
    published = torch.nn.Sequential(*first, *second)
    state = {f"backbone_2d.blocks.0.{name}": value for name, value in published.state_dict().items()}
    renamed = {name.removeprefix("backbone."): value for name, value in from_official(state).items()}
    ours.load_state_dict(renamed)
    x = torch.randn(2, 3, 9, 8)
    assert torch.allclose(ours.train()(x)[0], published.train()(x), atol=1e-6)


def test_anchors_of_a_cell():
    """Output channels go by anchor: class by class, the yaws within each, at every cell (y, x): as the published head orders them."""
    pytest.importorskip("mmdet3d")
    pytest.importorskip("visionrnn.integrations.mmdet3d")
    from mmdet3d.registry import MODELS
    from mmengine.config import Config
    from mmengine.registry import DefaultScope

    from visionrnn.cli.configs import find_config

    whole = Config.fromfile(find_config("lion-mamba_8xb2-80e_kitti-3d-3class"))
    assert whole.train_dataloader.dataset.metainfo.classes == ["Car", "Pedestrian", "Cyclist"]
    config = whole.model
    with DefaultScope.overwrite_default_scope("mmdet3d"):
        head = MODELS.build({**config.bbox_head, "in_channels": 4, "feat_channels": 4})
    anchors = head.prior_generator.grid_anchors([(5, 3)], device="cpu")[0].reshape(5, 3, 3, 2, 7)  # y, x, class, yaw
    assert torch.allclose(anchors[2, 1, :, 0, 3:6], torch.tensor([[3.9, 1.6, 1.56], [0.8, 0.6, 1.73], [1.76, 0.6, 1.73]]))
    assert torch.allclose(anchors[0, 0, 0, :, 6], torch.tensor([0.0, 1.57]))
    assert anchors[1, 2, 0, 0, :2].tolist() == pytest.approx([70.4, -20.0])  # x along the columns, ends included
    # a box on the anchor's bottom but 6 cm lower: its geometric centre lies 3 cm below the anchor's
    anchor = anchors[0, 0, 0, 0]
    box = anchor + torch.tensor([0.5, 0.0, 0.0, 0.0, 0.0, -0.06, 0.3])
    delta = head.bbox_coder.encode(anchor[None], box[None])[0]
    diagonal = float((anchor[3] ** 2 + anchor[4] ** 2).sqrt())
    expected = [0.5 / diagonal, 0.0, -0.03 / 1.56, 0.0, 0.0, float(torch.log(torch.tensor(1.5 / 1.56))), 0.3]
    assert delta.tolist() == pytest.approx(expected, abs=1e-6)
