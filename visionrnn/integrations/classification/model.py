"""A classifier of timm's registry as a model of mmengine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import timm
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from timm import loss as timm_loss
from timm.data import Mixup
from torch import Tensor, nn

import visionrnn  # noqa: F401  (its classifiers are in timm's registry from here on)
from visionrnn.errors import DataError

LOSSES: dict[str, type[nn.Module]] = {
    "CrossEntropyLoss": nn.CrossEntropyLoss,
    **{name: getattr(timm_loss, name) for name in ("BinaryCrossEntropy", "LabelSmoothingCrossEntropy", "SoftTargetCrossEntropy")},
}
"""torch's cross entropy, and timm's losses."""
HARD = ("LabelSmoothingCrossEntropy",)
SOFT = ("SoftTargetCrossEntropy",)


@MODELS.register_module()
class ImageClassifier(BaseModel):
    """Images [B, C, H, W] → class scores [B, classes], with a loss for training.

    ``backbone``: ``dict(name=…)`` and further arguments of ``timm.create_model``: any classifier of timm's registry, ours among them.
    ``loss``: dict(type=one of LOSSES, its options). ``mixup``: options of ``timm.data.Mixup`` (mixup_alpha, cutmix_alpha, prob, …; the
    number of classes is the backbone's), applied while training; the batch must be even. ``augment``: modules of this package that change a
    whole batch [B, C, H, W] while training, before mixup.

    Raises DataError for an unknown name in timm's registry, an option the classifier does not have, an unknown loss, and a loss that does
    not fit mixup.
    """

    def __init__(
        self,
        backbone: Mapping[str, Any],
        loss: Mapping[str, Any] | None = None,
        mixup: Mapping[str, Any] | None = None,
        augment: Sequence[Mapping[str, Any]] = (),
    ):
        super().__init__()
        model: Any = _create(backbone)
        self.backbone, self.num_classes = model, int(model.num_classes)
        self.mixup = Mixup(**{"label_smoothing": 0.0, **mixup}, num_classes=self.num_classes) if mixup else None
        self.augment = nn.ModuleList(MODELS.build(dict(part)) for part in augment)
        self.criterion = _loss(loss or {"type": "CrossEntropyLoss"}, bool(mixup))

    def forward(
        self, inputs: Tensor | Sequence[Tensor], labels: Tensor | None = None, names: Sequence[str] = (), mode: str = "tensor"
    ) -> Any:
        """``mode="tensor"``: scores [B, classes]. ``"loss"``: {"loss"}, with ``labels`` [B]. ``"predict"``: for each image a dict with
        ``scores`` [classes] and ``label``."""
        if mode == "loss":
            if labels is None:
                raise ValueError("labels=None; expected the classes [B] of the images in mode 'loss'")
            return self._loss(inputs, labels)
        scores = self.backbone(inputs)
        if mode == "tensor":
            return scores
        if mode != "predict":
            raise ValueError(f"mode={mode!r}; expected 'tensor', 'loss' or 'predict'")
        known = [None] * len(scores) if labels is None else labels.tolist()
        return [{"scores": row, "label": label} for row, label in zip(scores.detach().float().cpu(), known, strict=True)]

    def _loss(self, images: Any, labels: Tensor) -> dict[str, Tensor]:
        for part in self.augment:
            images = part(images)
        if self.mixup is not None:
            if len(images) % 2:
                raise DataError(f"{len(images)} images in a batch: model.mixup needs an even number; change train_dataloader.batch_size")
            images, labels = self.mixup(images, labels)
        return {"loss": self.criterion(self.backbone(images).float(), labels)}


def _create(config: Mapping[str, Any]) -> nn.Module:
    options = dict(config)
    name = options.pop("name", None)
    if not isinstance(name, str) or not timm.is_model(name.partition(".")[0]):
        ours = ", ".join(timm.list_models(["vil*", "*sequencer2d_*", "visionrnn_*", "pyramidrnn_*"]))
        raise DataError(f"model.backbone.name={name!r}: no classifier in timm's registry; ours are: {ours}")
    try:
        return timm.create_model(name, **options)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise DataError(f"model.backbone: {name} has no such option: {error}") from error


def _loss(config: Mapping[str, Any], mixed: bool) -> nn.Module:
    options = dict(config)
    name = options.pop("type", None)
    if name not in LOSSES:
        raise DataError(f"model.loss.type={name!r}: unknown; expected one of {', '.join(LOSSES)}")
    if (mixed and name in HARD) or (not mixed and name in SOFT):
        raise DataError(
            f"model.loss.type={name!r} does not take the targets of a training {'with' if mixed else 'without'} model.mixup;"
            f" use {'SoftTargetCrossEntropy, with model.mixup.label_smoothing' if mixed else 'LabelSmoothingCrossEntropy'}"
        )
    loss: nn.Module = LOSSES[name](**options)
    return loss
