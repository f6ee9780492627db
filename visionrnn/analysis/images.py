"""What an image classifier costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from visionrnn.analysis.measure import Analysis, analyze
from visionrnn.errors import DataError, MissingPackageError


def is_image_model(name: str) -> bool:
    """Whether timm has a model of that name, tag included; False without timm."""
    try:
        import timm
    except ModuleNotFoundError:
        return False
    return timm.is_model(name.partition(".")[0])


def analyze_image_model(
    name: str, size: int | None = None, batch: int = 1, checkpoint: str | None = None, device: str = "cpu", repeats: int = 5
) -> Analysis:
    """Cost of one of timm's models, those of this package among them, on ``batch`` random images of ``size`` × ``size`` pixels.

    ``size``: the model's own by default. Raises DataError (a size the model cannot take, a device that is not there, weights that are not
    there or another model's) and MissingPackageError without timm.
    """
    try:
        import timm
    except ModuleNotFoundError as error:
        raise MissingPackageError("analysing an image classifier needs timm, which is not installed; run: pip install timm") from error
    if device != "cpu" and not (device.startswith("cuda") and torch.cuda.is_available()):
        raise DataError(f"device {device!r} is unknown to torch or not here; expected 'cpu', or 'cuda' where torch sees a CUDA device")
    if checkpoint is not None and not Path(checkpoint).is_file():
        raise DataError(f"{checkpoint}: there is no such file; expected weights of {name}, saved from timm's model")
    config = timm.get_pretrained_cfg(name)
    own = config.input_size[-1] if config is not None else 224
    options: dict[str, Any] = {} if size in (None, own) else {"img_size": size}
    try:
        model = _create(name, checkpoint, options).eval().to(device)
        images = torch.randn(batch, 3, size or own, size or own, generator=torch.Generator().manual_seed(0)).to(device)
        analysis = analyze(model, lambda: model(images), repeats)
    except (TypeError, ValueError, AssertionError) as error:
        raise DataError(f"{name} cannot be built for or run on images of {size or own} × {size or own} pixels: {error}") from error
    weights = "random weights" if checkpoint is None else str(checkpoint)
    analysis.about |= {"config": name, "images": [batch, 3, size or own, size or own], "checkpoint": weights}
    return analysis


def _create(name: str, checkpoint: str | None, options: dict[str, Any]) -> Any:
    """timm's model, built for the size in ``options`` where it is built for one at all."""
    import timm

    try:
        return timm.create_model(name, checkpoint_path=checkpoint or "", **options)
    except TypeError as error:
        if "img_size" in options and "argument 'img_size'" in str(error):  # a convolutional network: takes every size
            return _create(name, checkpoint, {})
        raise
    except RuntimeError as error:
        if checkpoint is None:
            raise
        raise DataError(f"{checkpoint}: not the weights of {name}: {' '.join(str(error).split())[:300]}") from error
