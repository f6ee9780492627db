"""Training without augmentation at its end, so that a detector sees scenes as they are before it is used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop

AUGMENTATIONS = ("PasteObjects", "ObjectSample", "ObjectNoise", "RandomFlip3D", "GlobalRotScaleTrans", "RandomJitterPoints")
"""Pipeline steps that ``steps="all"`` switches off: they change the scene. Loading, masking and shuffling stay."""


class FadingStep:
    """A pipeline step that passes its input through unchanged while ``off`` (a shared tensor of one bool) is set."""

    def __init__(self, step: Any, off: torch.Tensor):
        self.step, self.off = step, off

    def __call__(self, results: Any) -> Any:
        return results if bool(self.off) else self.step(results)

    def __repr__(self) -> str:
        return f"Fading({self.step!r})"


@HOOKS.register_module()
class FadeAugmentationHook(Hook):
    """Switches steps of the training pipeline off for the last epochs (Wang et al., PointAugmenting, 2021, "fade strategy").

    last_epochs: how many. steps: names of pipeline steps, or "all": those in ``AUGMENTATIONS``.
    The switch lies in memory that the loader's workers share, so workers that live on obey it too; it depends on the epoch alone, so a
    resumed run is like an unbroken one. Raises ValueError when no data set of the training has such a step, and for a training that counts
    iterations, which is one epoch to mmengine.
    """

    def __init__(self, last_epochs: int, steps: Sequence[str] | str = "all"):
        if last_epochs < 1:
            raise ValueError(f"last_epochs={last_epochs}; expected at least 1 (leave the hook out for none)")
        self.last_epochs = last_epochs
        self.steps = AUGMENTATIONS if steps == "all" else (steps,) if isinstance(steps, str) else tuple(steps)
        self.strict = steps != "all"  # every named step must be there
        self._off = torch.zeros((), dtype=torch.bool).share_memory_()

    def before_train(self, runner: Any) -> None:
        """Puts the switch round the steps, before any worker is started."""
        if isinstance(runner.train_loop, IterBasedTrainLoop):
            raise ValueError("FadeAugmentationHook: train_cfg counts iterations; expected by_epoch=True, or leave the hook out")
        found = set()
        for steps in pipelines(runner.train_dataloader.dataset):
            for place, step in enumerate(steps):
                inner = step.step if isinstance(step, FadingStep) else step
                if type(inner).__name__ in self.steps:
                    found.add(type(inner).__name__)
                    steps[place] = FadingStep(inner, self._off)
        missing = [name for name in self.steps if name not in found] if self.strict else []
        if missing or not found:
            raise ValueError(
                f"FadeAugmentationHook: the training pipeline has no {', '.join(missing or self.steps)}; "
                "name steps of train_dataloader.dataset.pipeline, or leave the hook out"
            )
        self._found = sorted(found)

    def before_train_epoch(self, runner: Any) -> None:
        off = runner.epoch >= runner.max_epochs - self.last_epochs
        if off and not bool(self._off):
            runner.logger.info(f"from epoch {runner.epoch + 1} on without {', '.join(self._found)}")
        self._off.fill_(off)


def pipelines(dataset: Any) -> Iterator[list[Any]]:
    """The lists of pipeline steps of a data set and of those it wraps or joins."""
    steps = getattr(getattr(dataset, "pipeline", None), "transforms", None)
    if isinstance(steps, list):
        yield steps
    inner = vars(dataset).get("dataset")
    for wrapped in [inner] if inner is not None else vars(dataset).get("datasets", ()):
        yield from pipelines(wrapped)
