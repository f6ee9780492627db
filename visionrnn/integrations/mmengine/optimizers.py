"""The one-cycle schedule of OpenPCDet's ``adam_onecycle`` for a training of any length, and the parameters that no weight decay touches."""

from __future__ import annotations

from typing import Any

from mmengine.optim import CosineAnnealingLR, CosineAnnealingMomentum, DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, PARAM_SCHEDULERS
from torch import nn

NO_DECAY = ("A_log", "D", "A_b_log", "D_b")
"""Last names of Mamba's state parameters, in this library and in the official code (``_b``: the reversed direction)."""


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class DecayGroups(DefaultOptimWrapperConstructor):
    """Two parameter groups: decayed, and not decayed (parameters with a last name in ``no_decay`` or the attribute ``_no_weight_decay``).

    Two groups, not one per parameter, keep the optimizer's fused loops long. Option: ``paramwise_cfg=dict(no_decay=(…))``.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None):
        options = dict(paramwise_cfg or {})
        names = options.pop("no_decay", NO_DECAY)
        if options:
            raise TypeError(f"DecayGroups: unknown paramwise_cfg options {sorted(options)}; accepted: ['no_decay']")
        super().__init__(optim_wrapper_cfg, {"no_decay": tuple(names)})

    def add_params(self, params: list[dict], module: nn.Module, prefix: str = "", is_dcn_module: Any = None) -> None:
        """Appends the two groups (only those that are not empty) to ``params``."""
        decayed: list[nn.Parameter] = []
        exempt: list[nn.Parameter] = []
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                last = name.rpartition(".")[2]
                free = last in self.paramwise_cfg["no_decay"] or getattr(parameter, "_no_weight_decay", False)
                (exempt if free else decayed).append(parameter)
        params += [{"params": decayed}] if decayed else []
        params += [{"params": exempt, "weight_decay": 0.0}] if exempt else []


class _Phase:
    """Turns ``phase=(0.0, 0.4)``, fractions of the whole training, into begin and end iterations."""

    @classmethod
    def build_iter_from_epoch(
        cls, *args: Any, phase: tuple[float, float], end: float, epoch_length: int, begin: int = 0, by_epoch: bool = True, **options: Any
    ) -> Any:
        """mmengine calls this with ``end``, the number of epochs, and ``epoch_length``, iterations per epoch."""
        start, stop = phase
        if not 0 <= start < stop <= 1:
            raise ValueError(f"phase={tuple(phase)!r}; expected fractions of the training with 0 <= start < stop <= 1")
        total = int((end - begin) * epoch_length)
        first = int(begin * epoch_length) + round(start * total)
        last = max(int(begin * epoch_length) + round(stop * total), first + 1)
        # The value at the last iteration of the phase is the phase's target, hence one step less than iterations.
        build: Any = cls
        return build(*args, begin=first, end=last, T_max=max(last - first - 1, 1), by_epoch=False, **options)


@PARAM_SCHEDULERS.register_module()
class PhaseCosineLR(_Phase, CosineAnnealingLR):
    """Cosine from the current learning rate to ``eta_min_ratio`` × the optimizer's (or to ``eta_min``) over ``phase`` of the training.

    Needs ``by_epoch=True, convert_to_iter_based=True``; the length comes from the train loop's epochs.
    """


@PARAM_SCHEDULERS.register_module()
class PhaseCosineMomentum(_Phase, CosineAnnealingMomentum):
    """Cosine from the current momentum (AdamW's first beta) to ``eta_min`` over ``phase`` of the training; options as PhaseCosineLR's."""
