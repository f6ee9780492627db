"""The schedule of image classifiers, parameter groups from the model's own wishes, and mixed precision without a scale."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.optim.scheduler.param_scheduler import _ParamScheduler
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, PARAM_SCHEDULERS
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn

from visionrnn.errors import DataError


@PARAM_SCHEDULERS.register_module()
class WarmupCosineLR(_ParamScheduler):
    """A straight line from ``start`` to the optimizer's rate over ``warmup`` epochs, then half a cosine down to ``end_rate``, step by step.

    ``start`` and ``end_rate`` are rates; groups with a share of the rate (layer decay) have the same share of both. Needs
    ``by_epoch=True, convert_to_iter_based=True``; the length is the train loop's epochs, of which at most half are the warm-up. The rate is
    a function of the step alone.
    """

    def __init__(self, optimizer: Any, warmup: int, start: float = 0.0, end_rate: float = 0.0, **options: Any):
        self.warmup, self.start, self.end_rate = warmup, start, end_rate
        super().__init__(optimizer, "lr", **options)

    @classmethod
    def build_iter_from_epoch(
        cls, optimizer: Any, warmup: float = 0, end: float = 1, epoch_length: int = 1, begin: int = 0, by_epoch: bool = True, **options: Any
    ) -> WarmupCosineLR:
        """mmengine calls this with ``end``, the number of epochs, and ``epoch_length``, the steps of one."""
        if warmup < 0 or begin:
            raise ValueError(f"warmup={warmup}, begin={begin}; expected a number of epochs of 0 or more, and to begin at 0")
        steps = int(end * epoch_length)
        rise = min(round(warmup * epoch_length), steps // 2)
        return cls(optimizer, rise, end=steps, by_epoch=False, **options)

    def _get_value(self) -> list[float]:
        step = self.last_step
        if step < self.warmup:
            edge, share = self.start, (step + 1) / (self.warmup + 1)
        else:
            edge, share = self.end_rate, (1 + math.cos(math.pi * (step - self.warmup) / max(self.end - self.warmup - 1, 1))) / 2
        edges = [edge * group.get("lr_scale", 1.0) for group in self.optimizer.param_groups]
        return [low + share * (base - low) for low, base in zip(edges, self.base_values, strict=True)]


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class ImageGroups(DefaultOptimWrapperConstructor):
    """Parameter groups by timm: no weight decay for vectors, biases and what the model's ``no_weight_decay()`` names.

    Option: ``paramwise_cfg=dict(layer_decay=0.75)``, the factor of the rate from one layer to the one below it (the model's
    ``group_matcher()`` says which they are).
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None):
        options = dict(paramwise_cfg or {})
        self.layer_decay = options.pop("layer_decay", None)
        if options:
            raise TypeError(f"ImageGroups: unknown paramwise_cfg options {sorted(options)}; accepted: ['layer_decay']")
        super().__init__(optim_wrapper_cfg, {"layer_decay": self.layer_decay})

    def add_params(self, params: list[dict], module: nn.Module, prefix: str = "", is_dcn_module: Any = None) -> None:
        """Appends the groups of the classifier inside ImageClassifier to ``params``."""
        model: Any = module.backbone
        kept = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()
        decay = self.optimizer_cfg.get("weight_decay", 0.0)
        if self.layer_decay is None:
            params += param_groups_weight_decay(model, decay, no_weight_decay_list=kept)
            return
        rate = self.optimizer_cfg["lr"]
        for group in param_groups_layer_decay(model, decay, no_weight_decay_list=kept, layer_decay=self.layer_decay):
            scale = group["lr_scale"]
            params.append({"params": group["params"], "weight_decay": group["weight_decay"], "lr": rate * scale, "lr_scale": scale})


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """OptimWrapper that runs the model and the loss under ``torch.autocast`` in bfloat16, on GPU or CPU; no loss scale is needed.

    Parameters, their gradients and the optimizer stay float32.
    """

    @contextlib.contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Mixed precision, and OptimWrapper's own context (gradients summed over several steps)."""
        device = next(model.parameters()).device.type
        if device == "cuda" and not torch.cuda.is_bf16_supported():
            raise DataError("BFloat16OptimWrapper: this GPU has no bfloat16; use --cfg-options optim_wrapper.type=AmpOptimWrapper")
        with super().optim_context(model), torch.autocast(device, torch.bfloat16):
            yield
