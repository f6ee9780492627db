"""LION and the baselines on a quarter of the synthetic set's range: they build, train a step and predict on a CPU."""

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("mmdet3d")
pytest.importorskip("visionrnn.integrations.mmdet3d")  # first: makes mmdet3d importable
from mmdet3d.registry import MODELS
from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData

CONFIGS = Path(__file__).parents[2] / "configs"
SMALLER = {51.2: 12.8, 25.6: 6.4, -25.6: -6.4, 512: 128, 256: 64}
NAMES = [
    "lion/lion-mamba_1xb2_synthetic-3d-3class.py",
    "baselines/second_1xb2_synthetic-3d-3class.py",
    "baselines/pointpillars_1xb2_synthetic-3d-3class.py",
    "baselines/centerpoint-pillar_1xb2_synthetic-3d-3class.py",
]
BOXES = [[3.0, 1.0, -1.7, 3.9, 1.6, 1.5, 0.3], [6.0, -3.0, -1.7, 0.8, 0.6, 1.7, 1.0], [8.0, 3.0, -1.7, 1.8, 0.6, 1.7, 2.0]]


@pytest.fixture(autouse=True)
def one_thread():
    """The layers are too small for two."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def shrink(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: shrink(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(shrink(item) for item in value)
    return SMALLER.get(value, value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def build(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    config = ConfigDict(shrink(Config.fromfile(CONFIGS / name).model.to_dict()))
    with DefaultScope.overwrite_default_scope("mmdet3d"):
        model = MODELS.build(config)
    model.init_weights()
    return model


def sample(count: int, seed: int) -> tuple[torch.Tensor, Det3DDataSample]:
    """A flat ground with points on and in three boxes, and the boxes (bottom centre, as mmdet3d has them)."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(count, 4, generator=generator)
    ground = noise * torch.tensor([12.8, 12.8, 0.1, 1.0]) + torch.tensor([0.0, -6.4, -1.75, 0.0])
    objects = [noise[: count // 10] * torch.tensor([1.0, 0.6, 1.5, 1.0]) + torch.tensor([b[0] - 0.5, b[1] - 0.3, b[2], 0.0]) for b in BOXES]
    data = Det3DDataSample(gt_instances_3d=InstanceData(bboxes_3d=LiDARInstance3DBoxes(BOXES), labels_3d=torch.tensor([0, 1, 2])))
    data.set_metainfo(dict(box_type_3d=LiDARInstance3DBoxes, box_mode_3d=0))
    return torch.cat([ground, *objects])[:count], data


def batch(samples: list[tuple[torch.Tensor, Det3DDataSample]]) -> dict[str, Any]:
    return dict(inputs=dict(points=[points for points, _ in samples]), data_samples=[data for _, data in samples])


def predict(model: torch.nn.Module, samples: list[tuple[torch.Tensor, Det3DDataSample]]) -> list[InstanceData]:
    model.eval()
    with torch.no_grad():
        out = model(**model.data_preprocessor(batch(samples), False), mode="predict")
    return [data.pred_instances_3d for data in out]


@pytest.mark.parametrize("name", NAMES)
def test_steps_and_predictions(name):
    model = build(name).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    totals = []
    for step in range(5):
        losses = model(**model.data_preprocessor(batch([sample(2000, 1), sample(1500, 2)]), True), mode="loss")
        total, _ = model.parse_losses(losses)
        optimizer.zero_grad()
        total.backward()
        if step == 0:
            used = {key: p.grad for key, p in model.named_parameters() if ".vel." not in key}  # velocities have no weight in the loss
            assert [key for key, gradient in used.items() if gradient is None or not gradient.isfinite().all()] == []
            assert (
                sum(bool(gradient.abs().sum() > 0) for gradient in used.values()) >= len(used) - 2
            )  # two samples' signs may cancel in a bias
        optimizer.step()
        totals.append(total.item())
    assert all(0 < total < 1e4 for total in totals) and totals[-1] < 0.8 * totals[0]

    if "centerpoint" in name:
        model.pts_bbox_head.bbox_coder.score_threshold = model.pts_bbox_head.test_cfg["score_threshold"] = 0.0
    else:
        model.bbox_head.test_cfg.score_thr = 0.0
    cloud = sample(2000, 3)
    (alone,) = predict(model, [cloud])
    assert len(alone.scores_3d) > 3 and alone.bboxes_3d.tensor.shape == (len(alone.scores_3d), 7)
    assert alone.bboxes_3d.tensor.isfinite().all() and (alone.bboxes_3d.dims > 0).all()
    assert ((alone.scores_3d >= 0) & (alone.scores_3d <= 1)).all() and set(alone.labels_3d.tolist()) <= {0, 1, 2}

    empty = (torch.zeros(0, 4), sample(10, 4)[1])  # a sample without voxels changes nothing for its neighbour, wherever it stands
    for together, place in (([cloud, empty], 0), ([empty, cloud], 1)):
        result = predict(model, together)[place]
        torch.testing.assert_close(result.scores_3d, alone.scores_3d)
        torch.testing.assert_close(result.bboxes_3d.tensor, alone.bboxes_3d.tensor)
    assert len(predict(model, [empty, empty])) == 2
