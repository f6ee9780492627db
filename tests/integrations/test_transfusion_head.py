"""The TransFusion head: windows, attention, boxes, assignment, losses, predictions."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

pytest.importorskip("mmdet3d")

import visionrnn.integrations.mmdet3d  # noqa: F401  (makes mmdet3d importable)

# isort: split
from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
from mmengine.structures import InstanceData

from visionrnn.geometry import iou3d
from visionrnn.integrations.mmdet3d.heads.transfusion import LIONTransFusionHead, Proposals
from visionrnn.integrations.mmdet3d.heads_common.grid import Grid
from visionrnn.integrations.mmdet3d.transfusion import BoxCode, DecoderLayer, HungarianAssigner, RowsAreX, window_bias

GRID = {"point_cloud_range": [-6, -4, -3, 6, 4, 1], "voxel_size": [0.5, 0.5, 0.5], "stride": 2}  # 12 × 8 cells of a metre
CAR = [1.3, -1.6, -1.0, 4.0, 2.0, 1.5, 0.7, 3.0, -1.0]
CONE = [-4.2, 2.3, -1.4, 0.4, 0.4, 0.8, 0.0, 0.0, 0.0]


def sample(boxes: list[list[float]], labels: list[int]) -> Det3DDataSample:
    """Ground truth from boxes with geometric centres."""
    tensor = torch.tensor(boxes, dtype=torch.float32).reshape(len(boxes), -1 if boxes else 9)
    truth = LiDARInstance3DBoxes(tensor, tensor.shape[1], origin=(0.5, 0.5, 0.5))
    made = Det3DDataSample(gt_instances_3d=InstanceData(bboxes_3d=truth, labels_3d=torch.tensor(labels, dtype=torch.long)))
    made.set_metainfo({"box_type_3d": LiDARInstance3DBoxes})
    return made


def head(num_classes: int = 3, seed: int = 0, **options: Any) -> LIONTransFusionHead:
    torch.manual_seed(seed)
    small = {"point_classes": [2], "num_proposals": 12, "test_cfg": {"nms_classes": [2]}}
    decoder = {"channels": 16, "num_heads": 2, "ffn_channels": 32, "radius": 2}
    return LIONTransFusionHead(6, num_classes, GRID, **{**small, "decoder": decoder, **options})


def maps(batch: int = 1, seed: int = 1) -> list[Tensor]:
    return [torch.randn(batch, 6, 8, 12, generator=torch.Generator().manual_seed(seed))]


def neighbours(x: int, y: int, shape: tuple[int, int], radius: int, wrap: bool) -> set[int]:
    """Cells y · X + x of a window, neighbour by neighbour; ``wrap``: as indices x · Y + y, kept while they are on the map."""
    rows, columns = shape
    seen = set()
    for dx in range(-radius, radius + 1):
        for dy in range(-radius, radius + 1):
            if wrap:
                index = (x + dx) * rows + y + dy
                if 0 <= index < rows * columns:
                    seen.add(index % rows * columns + index // rows)
            elif 0 <= x + dx < columns and 0 <= y + dy < rows:
                seen.add((y + dy) * columns + x + dx)
    return seen


@pytest.mark.parametrize("wrap", [False, True])
def test_windows(wrap):
    """Every cell of the map as the query's; with ``wrap``, the neighbourhoods the published head has."""
    shape = (7, 9)
    cells = torch.tensor([[x, y] for y in range(7) for x in range(9)])
    bias = window_bias(cells[None], shape, 2, wrap)[0]
    assert set(bias.unique().tolist()) == {0.0, -torch.inf}
    for (x, y), row in zip(cells.tolist(), bias, strict=True):
        assert set((row == 0).nonzero().flatten().tolist()) == neighbours(x, y, shape, 2, wrap)


@pytest.mark.parametrize("wrap", [False, True])
def test_attention_is_that_of_each_query_alone_with_its_cells(wrap):
    """Forward and gradients, in float64, against torch's own attention modules on each query's gathered neighbours."""
    torch.manual_seed(0)
    layer = DecoderLayer(16, 4, 32, radius=2, wrap_borders=wrap).double().eval()
    for embedding in (layer.self_posembed, layer.cross_posembed):
        embedding.position_embedding_head[1].running_mean += 3
    shape, batch, number = (6, 7), 2, 5
    cells = torch.stack([torch.randint(0, 7, (batch, number)), torch.randint(0, 6, (batch, number))], -1)
    queries = torch.randn(batch, number, 16, dtype=torch.float64, requires_grad=True)
    tokens = torch.randn(batch, 42, 16, dtype=torch.float64, requires_grad=True)
    out = layer(queries, cells, tokens, shape)
    assert out.shape == queries.shape

    rows = []
    for b in range(batch):
        for p in range(number):
            x, y = cells[b, p].tolist()
            window = sorted(neighbours(x, y, shape, 2, wrap))
            places = torch.tensor([[cell % 7 + 0.5, cell // 7 + 0.5] for cell in window], dtype=torch.float64)
            keys = tokens[b, window] + layer.cross_posembed(places)
            own = layer.self_posembed(torch.tensor([[x + 0.5, y + 0.5]], dtype=torch.float64))
            query = queries[b, p][None]
            query = layer.norm1(query + layer.self_attn(query + own, query + own, query + own)[0])
            query = layer.norm2(query + layer.multihead_attn(query + own, keys, keys)[0])
            rows.append(layer.norm3(query + layer.linear2(layer.linear1(query).relu())))
    expected = torch.cat(rows).view_as(out)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-12)

    cotangent = torch.randn_like(out)
    inputs = [queries, tokens, *layer.parameters()]
    found, wanted = (torch.autograd.grad((value * cotangent).sum(), inputs) for value in (out, expected))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def published(made: LIONTransFusionHead, feats: Tensor, radius: int) -> dict[str, Tensor]:
    """The published order of work, without batches: the map turned so that rows are x, neighbours gathered by adding to indices, each
    query a batch of its own with torch's attention modules."""
    features = F.conv2d(feats.transpose(2, 3), made.shared_conv.weight, made.shared_conv.bias, padding=1)
    first, last = made.heatmap_head
    hidden = first.bn(F.conv2d(features, first.conv.weight, first.conv.bias, padding=1)).relu()
    heat = F.conv2d(hidden, last.weight, last.bias, padding=1)  # [1, K, X, Y]
    scores, rows = heat.sigmoid(), heat.shape[3]
    best = torch.zeros_like(scores)
    best[:, :, 1:-1, 1:-1] = F.max_pool2d(scores, 3, 1)
    best[:, list(made.point_classes)] = scores[:, list(made.point_classes)]
    peaks = (scores * (scores == best)).flatten()
    top = peaks.argsort(descending=True)[: made.num_proposals]
    labels, places = top // scores[0, 0].numel(), top % scores[0, 0].numel()
    tokens = features[0].flatten(1).t()
    centres = torch.stack([places // rows + 0.5, places % rows + 0.5], 1)
    queries = tokens[places] + made.class_encoding.weight[:, labels, 0].t() + made.class_encoding.bias
    steps = torch.arange(-radius, radius + 1)
    window = places[:, None] + (steps[:, None] * rows + steps).flatten()
    outside = (window < 0) | (window >= len(tokens))
    window = window.clamp(0, len(tokens) - 1)
    layer = made.decoder
    spots = torch.stack([window // rows + 0.5, window % rows + 0.5], -1)
    own, theirs = layer.self_posembed(centres)[None], layer.cross_posembed(spots).transpose(0, 1)
    x = queries[None]
    x = layer.norm1(x + layer.self_attn(x + own, x + own, x + own)[0])
    keys = tokens[window].transpose(0, 1) + theirs
    x = layer.norm2(x + layer.multihead_attn(x + own, keys, keys, key_padding_mask=outside)[0])
    x = layer.norm3(x + layer.linear2(layer.linear1(x).relu()))
    out = {name: branch(x.transpose(1, 2))[0].t() for name, branch in made.prediction_head.items()}
    out["center"] = out["center"] + centres
    return {**out, "labels": labels, "peaks": peaks[top], "dense": heat.transpose(2, 3)}


def test_forward_is_the_published_one():
    made, (feats,) = head(decoder={"channels": 16, "num_heads": 2, "ffn_channels": 32, "radius": 3, "wrap_borders": True}).eval(), maps()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        expected, found = published(made, feats, 3), made([feats])
    assert torch.equal(found.labels[0], expected["labels"]) and len(found.labels[0].unique()) > 1
    codes = torch.cat([expected[name] for name in ("center", "height", "dim", "rot", "vel")], 1)
    pairs = [(found.codes, codes), (found.logits, expected["heatmap"]), (found.overlaps, expected["iou"][:, 0])]
    for value, wanted in [*pairs, (found.peaks, expected["peaks"]), (found.heat, expected["dense"][0])]:
        torch.testing.assert_close(value[0], wanted, rtol=1e-4, atol=1e-5)


def test_kernels_are_stored_for_turned_maps():
    conv, x = RowsAreX(3, 4), torch.randn(2, 3, 5, 7)
    turned = F.conv2d(x.transpose(2, 3), conv.weight, conv.bias, padding=1).transpose(2, 3)
    torch.testing.assert_close(conv(x), turned)


def test_codes_by_hand_and_back():
    code = BoxCode(Grid(**GRID))
    boxes = torch.tensor([CAR, CONE])
    codes = code.encode(boxes)
    expected = [7.3, 2.4, -0.25, *torch.tensor(CAR[3:6]).log().tolist(), 0.644218, 0.764842, 3.0, -1.0]  # z: the top face
    torch.testing.assert_close(codes[0], torch.tensor(expected), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(code.decode(codes), boxes, rtol=1e-5, atol=1e-5)
    assert code.encode(boxes[:, :7])[:, 8:].isnan().all()


def test_assignment_by_hand():
    """Boxes 0 and 1 lie on objects 1 and 0; then equal boxes, told apart by their classes; then boxes that are no numbers."""
    boxes = torch.tensor([[0, 0, 0, 2, 2, 2, 0], [1, 0, 0, 2, 2, 2, 0], [9, 9, 0, 2, 2, 2, 0]], dtype=torch.float32)
    targets, labels = boxes[[1, 0]], torch.tensor([0, 1])
    assigner = HungarianAssigner()
    cost = assigner.cost(boxes, torch.zeros(3, 2), targets, labels, (10.0, 10.0))
    class_cost = 0.15 * 0.25 * (0.25 - 0.75) * torch.tensor(2.0).log()
    overlap = torch.tensor([[1 / 3, 1], [1, 1 / 3], [0, 0]])
    distance = torch.tensor([[0.1, 0], [0, 0.1], [1.7, 1.8]])
    torch.testing.assert_close(cost, class_cost + 0.25 * distance - 0.25 * overlap, rtol=1e-5, atol=1e-6)
    queries, objects = assigner(boxes, torch.zeros(3, 2), targets, labels, (10.0, 10.0))
    assert queries.tolist() == [0, 1] and objects.tolist() == [1, 0]

    certain = torch.tensor([[-9.0, 9.0], [9.0, -9.0], [0.0, 0.0]])  # both lie alike for both queries: the classes decide
    same = boxes[[0, 0, 2]]
    queries, objects = assigner(same, certain, boxes[[0, 0]], labels, (10.0, 10.0))
    assert queries.tolist() == [0, 1] and objects.tolist() == [1, 0]
    broken = boxes.clone()
    broken[0] = torch.nan
    assert assigner(broken, torch.zeros(3, 2), targets, labels, (10.0, 10.0))[0].tolist() == [1, 2]
    assert len(assigner(boxes, torch.zeros(3, 2), targets[:0], labels[:0], (10.0, 10.0))[0]) == 0
    assert len(assigner(boxes[:1], torch.zeros(1, 2), targets, labels, (10.0, 10.0))[0]) == 1


def test_best_peaks():
    """Neighbours of a peak and the border give no queries, but for classes of points every cell may."""
    made = head(num_proposals=3)
    scores = torch.zeros(1, 3, 8, 12)
    scores[0, 0, 3, 4], scores[0, 0, 3, 5], scores[0, 1, 0, 6] = 0.9, 0.8, 0.7
    scores[0, 2, 0, 0], scores[0, 2, 0, 1] = 0.5, 0.4
    labels, cells, values = made._best(scores)
    assert labels.tolist() == [[0, 2, 2]] and cells.tolist() == [[3 * 12 + 4, 0, 1]]
    torch.testing.assert_close(values, torch.tensor([[0.9, 0.5, 0.4]]))


def test_losses_by_hand():
    """Two queries, one object: the first query's box is the object's, moved by half a cell in x."""
    made = head(num_proposals=2)
    codes = made.code.encode(torch.tensor([[CAR, CONE]]))
    codes[0, 0, 0] += 0.5
    codes[0, 0, 8] += 1.0
    logits = torch.tensor([[[2.0, -1.0, 0.0], [0.5, 0.0, -2.0]]])
    heat = torch.full((1, 3, 8, 12), -4.0)
    found = Proposals(heat, torch.tensor([[1, 0]]), torch.ones(1, 2), logits, codes, torch.tensor([[0.1, 0.2]]))
    losses = made.loss_by_feat(found, [sample([CAR], [1])])
    assert losses["loss_bbox"].item() == pytest.approx(0.25 * (0.5 + 0.2), rel=1e-5)
    score = logits.sigmoid()
    positive = torch.tensor([[[0.0, 1, 0], [0, 0, 0]]])
    focal = torch.where(positive > 0, -0.25 * (1 - score) ** 2 * score.log(), -0.75 * score**2 * (1 - score).log())
    assert losses["loss_cls"].item() == pytest.approx(focal.sum().item(), rel=1e-5)
    moved = torch.tensor([CAR[:7]]) + torch.tensor([0.5, 0, 0, 0, 0, 0, 0])
    overlap = iou3d(moved, torch.tensor([CAR[:7]])).item()
    assert losses["loss_iou"].item() == pytest.approx(0.5 * abs(0.1 - (2 * overlap - 1)), rel=1e-4)


def test_unknown_velocities_empty_boxes_and_other_classes_are_left_out():
    made, feats = head(), maps(2)
    unknown = [[*CAR[:7], float("nan"), float("nan")], CONE, [0.0, 0, 0, 0, 0, 0, 0, 0, 0]]
    losses = made.loss(feats, [sample(unknown, [0, 2, 1]), sample([], [])])
    assert all(value.isfinite() for value in losses.values())
    without = made.loss(feats, [sample([CAR[:7], CONE[:7], CAR[:7]], [0, 2, -1]), sample([], [])])  # no columns for velocities at all
    assert losses["loss_bbox"] > without["loss_bbox"]  # the cone's velocity of 0 is known, and counts
    sum(losses.values()).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in made.parameters())


def test_no_objects():
    made = head()
    losses = made.loss(maps(2), [sample([], []), sample([], [])])
    assert losses["loss_bbox"] == 0 and losses["loss_iou"] == 0 and losses["loss_cls"] > 0 and losses["loss_heatmap"] > 0
    sum(losses.values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in made.parameters())


def test_overfitting_finds_the_boxes():
    made, feats = head(), maps()
    data = [sample([CAR, CONE], [0, 2])]
    optimizer = torch.optim.Adam(made.parameters(), lr=1e-2)
    totals = []
    for _ in range(40):
        total = sum(made.loss(feats, data).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.1 * totals[0]
    made.train()  # the statistics of this one map
    with torch.no_grad():
        (found,) = made.predict(feats, data)
    assert found.labels_3d[:2].sort().values.tolist() == [0, 2] and found.scores_3d[:2].min() > 0.5
    order = found.labels_3d[:2].argsort()
    boxes = found.bboxes_3d[:2]
    torch.testing.assert_close(boxes.gravity_center[order], torch.tensor([CAR[:3], CONE[:3]]), rtol=0, atol=0.3)
    torch.testing.assert_close(boxes.tensor[order, 3:6], torch.tensor([CAR[3:6], CONE[3:6]]), rtol=0.2, atol=0.2)
    assert (found.scores_3d[2:] < 0.5).all()


def planted(made: LIONTransFusionHead, boxes: list[list[float]], labels: list[int], scores: list[float]) -> Proposals:
    """What the head would say if it were certain of these boxes."""
    number = len(boxes)
    logits = torch.full((1, number, made.num_classes), 9.0)
    heat = torch.zeros(1, made.num_classes, 8, 12)
    codes = made.code.encode(torch.tensor([boxes]))
    return Proposals(heat, torch.tensor([labels]), torch.tensor([scores]), logits, codes, torch.full((1, number), 0.5))


def test_planted_boxes_come_out():
    """Score: class × heat, then √score · √IoU; bottom centres; rotated suppression for the class of points only; limits."""
    made = head(test_cfg={"nms_classes": [2], "limit": [-5, -5, -5, 5, 5, 5]})
    outside = [5.5, *CONE[1:]]
    boxes = [CAR, CAR, CONE, CONE, outside]
    found = planted(made, boxes, [0, 0, 2, 2, 2], [0.3, 0.5, 0.2, 0.9, 0.8])
    (out,) = made.predict_by_feat(found)
    assert out.labels_3d.tolist() == [2, 0, 0]
    expected = (torch.tensor([0.9, 0.5, 0.3]) * torch.tensor(9.0).sigmoid() * 0.75).sqrt()
    torch.testing.assert_close(out.scores_3d, expected)
    assert isinstance(out.bboxes_3d, LiDARInstance3DBoxes) and out.bboxes_3d.tensor.shape == (3, 9)
    torch.testing.assert_close(out.bboxes_3d.gravity_center, torch.tensor([CONE[:3], CAR[:3], CAR[:3]]))
    torch.testing.assert_close(out.bboxes_3d.tensor[:, 2], torch.tensor([-1.8, -1.75, -1.75]))
    torch.testing.assert_close(out.bboxes_3d.tensor[:, 3:], torch.tensor([CONE[3:], CAR[3:], CAR[3:]]))


def test_a_batch_is_its_samples():
    """In evaluation each sample comes out as it does alone."""
    made, both = head().eval(), maps(2)
    with torch.no_grad():
        together = made(both)
        for i in range(2):
            alone = made([both[0][i : i + 1]])
            assert torch.equal(alone.labels[0], together.labels[i])
            for a, b in zip(alone, together, strict=True):
                torch.testing.assert_close(a[0], b[i], rtol=1e-5, atol=1e-5)
        results = made.predict(both, [sample([], [])] * 2)
    assert [len(result.scores_3d) > 0 for result in results] == [True, True]


def test_training_repeats_exactly():
    gradients = []
    for _ in range(2):
        made = head()
        sum(made.loss(maps(2), [sample([CAR, CONE], [0, 2])] * 2).values()).backward()
        gradients.append([parameter.grad for parameter in made.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_half_precision():
    made = head()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = made.loss(maps(), [sample([CAR, CONE], [0, 2])])
        (found,) = made.predict(maps(), [sample([], [])])
    assert all(value.dtype == torch.float32 and value.isfinite() for value in losses.values())
    assert found.bboxes_3d.tensor.dtype == torch.float32
    exact = made.loss(maps(), [sample([CAR, CONE], [0, 2])])
    for name, value in losses.items():
        assert value.item() == pytest.approx(exact[name].item(), rel=0.1), name


def test_published_names_and_shapes(shared_dir):
    path = shared_dir / "goldens/lion/checkpoint_keys.json.gz"
    with gzip.open(path) as file:
        models = json.load(file)["models"]
    made = LIONTransFusionHead(384, 10, {"point_cloud_range": [-54, -54, -5, 54, 54, 3], "voxel_size": [0.3, 0.3, 0.25], "stride": 2})
    ours = {f"dense_head.{key}": list(value.shape) for key, value in made.state_dict().items()}
    for name in ("mamba", "rwkv", "retnet"):
        assert ours == {key: shape for key, shape in models[f"nuScenes/{name}"]["keys"].items() if key.startswith("dense_head.")}


def test_errors():
    with pytest.raises(ValueError, match="unknown options"):
        head(test_cfg={"nms_class": [1]})
    with pytest.raises(ValueError, match=r"train_cfg.assigner: unknown options \['giou'\]"):
        head(train_cfg={"assigner": {"giou": 1}})
    with pytest.raises(ValueError, match="expected 10 numbers"):
        head(train_cfg={"code_weights": [1.0] * 8})
    with pytest.raises(ValueError, match="point_classes"):
        head(point_classes=[3])
    with pytest.raises(ValueError, match="expected"):
        head()([torch.zeros(1, 6, 12, 8)])
