"""The small detector on drawn shapes (synthetic): files, loss, boxes, and the commands from data to mAP."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

pytest.importorskip("mmdet")
pytest.importorskip("visionrnn.integrations.mmdet")  # first: makes mmdet importable
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData
from PIL import Image

from visionrnn import cli
from visionrnn.cli.configs import find_config
from visionrnn.datasets.drawn_shapes import CLASSES, draw, write_shapes

NAME = "fcos_pyramidrnn-mamba_1xb8_shapes-2d-3class"


def detector(**changes) -> torch.nn.Module:
    torch.manual_seed(0)
    config = Config.fromfile(find_config(NAME))
    config.merge_from_dict(changes)
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(config.model)
    model.init_weights()
    return model


def batch(number: int = 4) -> dict:
    """Drawn pictures as mmdet's pipeline gives them."""
    from mmdet.structures import DetDataSample

    inputs, samples = [], []
    for i in range(number):
        picture, shapes = draw(np.random.default_rng(i), 64)
        boxes = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in (shape["bbox"] for shape in shapes)], dtype=torch.float32)
        labels = torch.tensor([shape["category_id"] - 1 for shape in shapes])
        meta = dict(img_shape=(64, 64), ori_shape=(64, 64), scale_factor=(1.0, 1.0), img_id=i, batch_input_shape=(64, 64))
        sample = DetDataSample(metainfo=meta, gt_instances=InstanceData(bboxes=boxes, labels=labels))
        inputs.append(torch.from_numpy(picture[..., ::-1].copy()).permute(2, 0, 1))
        samples.append(sample)
    return {"inputs": inputs, "data_samples": samples}


def test_drawn_shapes_are_where_their_boxes_say(tmp_path):
    files = write_shapes(tmp_path, 6, 2, seed=3)
    content = json.loads(files[0].read_text())
    assert content["info"]["description"].startswith("synthetic") and [part["name"] for part in content["categories"]] == list(CLASSES)
    assert len(content["images"]) == 6 and sorted(path.name for path in (tmp_path / "val").iterdir()) == ["000000.png", "000001.png"]
    assert {note["category_id"] for note in content["annotations"]} <= {1, 2, 3}
    for note in content["annotations"]:
        picture = np.asarray(Image.open(tmp_path / "train" / f"{note['image_id'] - 1:06d}.png")).astype(float)
        x, y, width, height = note["bbox"]
        assert min(x, y) >= 0 and max(x + width, y + height) <= 128 and 0.4 * width * height < note["area"] <= width * height
        middle = picture[y + height // 2 - 2 : y + height // 2 + 3, x + width // 2 - 2 : x + width // 2 + 3].mean((0, 1))
        corner = picture[max(y - 6, 0) : y, max(x - 6, 0) : x].mean((0, 1)) if x > 2 and y > 2 else None
        assert corner is None or np.abs(middle - corner).max() > 15
    again = write_shapes(tmp_path / "again", 6, 2, seed=3)
    assert again[0].read_bytes() == files[0].read_bytes()
    assert (tmp_path / "again/train/000005.png").read_bytes() == (tmp_path / "train/000005.png").read_bytes()
    with pytest.raises(ValueError, match="at least 32"):
        write_shapes(tmp_path, 1, 1, size=16)


def test_training_lowers_the_loss_and_boxes_come_out():
    torch.set_num_threads(2)
    model = detector().train()
    data = model.data_preprocessor(batch(), training=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        parts = model(**data, mode="loss")
        loss = sum(value if torch.is_tensor(value) else sum(value) for name, value in parts.items() if "loss" in name)
        loss.backward()
        assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.75 * losses[0], losses
    model.eval()
    with torch.no_grad():
        found = model.test_step(batch())
    assert len(found) == 4
    for sample in found:
        instances = sample.pred_instances
        assert instances.bboxes.shape[1] == 4 and instances.bboxes.isfinite().all() and (instances.scores > 0).all()
        from torchvision.ops import box_iou

        same = instances.labels[:, None] == instances.labels[None]
        overlap = box_iou(instances.bboxes, instances.bboxes).fill_diagonal_(0)
        assert not (overlap[same] > 0.5 + 1e-5).any()  # what suppression leaves


@pytest.mark.parametrize("name", ["vil2_tiny_patch16_224", "visionrnn_xlstm_tiny_patch16_224"])
def test_a_plain_backbone_with_the_simple_pyramid(name):
    backbone = dict(_delete_=True, type="ImageBackbone", name=name, dim=32, depth=2)
    neck = dict(_delete_=True, type="SimplePyramid", in_channels=32, out_channels=48, scales=(2, 1, 0.5))
    model = detector(**{"model.backbone": backbone, "model.neck": neck}).train()
    losses = model(**model.data_preprocessor(batch(2), training=True), mode="loss")
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in model.backbone.parameters())


def test_a_two_stage_detector_trains():
    """Faster R-CNN needs aligned regions too, forward and backward."""
    base = Config.fromfile(find_config(NAME)).model
    anchors = dict(type="AnchorGenerator", scales=[4], ratios=[0.5, 1.0, 2.0], strides=[8, 16, 32])
    coder = dict(type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=[0.1, 0.1, 0.2, 0.2])
    assigner = dict(type="MaxIoUAssigner", pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0.3)
    sampler = dict(type="RandomSampler", num=32, pos_fraction=0.5, neg_pos_ub=-1, add_gt_as_proposals=True)
    stage = dict(assigner=assigner, sampler=sampler, pos_weight=-1, allowed_border=-1, debug=False)
    proposals = dict(nms_pre=100, max_per_img=50, nms=dict(type="nms", iou_threshold=0.7), min_bbox_size=0)
    region = dict(
        type="SingleRoIExtractor",
        out_channels=48,
        featmap_strides=[8, 16],
        roi_layer=dict(type="RoIAlign", output_size=5, sampling_ratio=0),
    )
    head = dict(
        type="Shared2FCBBoxHead",
        in_channels=48,
        fc_out_channels=32,
        roi_feat_size=5,
        num_classes=3,
        bbox_coder=coder,
        reg_class_agnostic=True,
    )
    config = ConfigDict(
        type="FasterRCNN",
        data_preprocessor=base.data_preprocessor,
        backbone=base.backbone,
        neck=base.neck,
        rpn_head=dict(type="RPNHead", in_channels=48, feat_channels=48, anchor_generator=anchors, bbox_coder=coder),
        roi_head=dict(type="StandardRoIHead", bbox_roi_extractor=region, bbox_head=head),
        train_cfg=dict(rpn={**stage, "sampler": {**sampler, "add_gt_as_proposals": False}}, rpn_proposal=proposals, rcnn=stage),
        test_cfg=dict(rpn=proposals, rcnn=dict(score_thr=0.05, nms=dict(type="soft_nms", iou_threshold=0.5), max_per_img=20)),
    )
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(config).train()
        losses = model(**model.data_preprocessor(batch(2), training=True), mode="loss")
        total = sum(value if torch.is_tensor(value) else sum(value) for name, value in losses.items() if "loss" in name)
        total.backward()
        assert total.isfinite() and all(parameter.grad is not None for parameter in model.backbone.parameters())
        with torch.no_grad():
            found = model.eval().test_step(batch(2))
    assert all(sample.pred_instances.bboxes.isfinite().all() for sample in found)


@pytest.mark.slow
def test_commands_from_data_to_map(tmp_path, capsys):
    pytest.importorskip("pycocotools")
    data, work = tmp_path / "shapes", tmp_path / "work"
    assert cli.main(["train", NAME, "--work-dir", str(work), "--cfg-options", f"data_root={data}"]) == 2
    assert f"visionrnn create-data shapes --out {data}" in capsys.readouterr().err
    assert cli.main(["create-data", "shapes", "--out", str(data), "--train", "24", "--val", "8"]) == 0
    options = ["--work-dir", str(work), "--cfg-options", f"data_root={data}", "model.test_cfg.score_thr=0.001"]  # so little training
    assert cli.main(["train", NAME, *options, "train_cfg.max_epochs=2", "train_cfg.val_interval=2"]) == 0
    assert (work / "epoch_2.pth").is_file()
    capsys.readouterr()
    assert cli.main(["test", NAME, str(work / "epoch_2.pth"), *options]) == 0
    assert "coco/bbox_mAP" in "".join(capsys.readouterr())
