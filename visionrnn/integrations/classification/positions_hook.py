"""Weights trained at one image size start a training at another."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from visionrnn.layers.patch_embed import resample_positions


@HOOKS.register_module()
class ResamplePositionsHook(Hook):
    """Re-samples learned positions [1, rows, columns, D] of a loaded checkpoint (``load_from``) to the grid of the model, bicubically."""

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        state = checkpoint["state_dict"]
        for name, value in runner.bare_model.state_dict().items():
            stored = state.get(name)
            if stored is None or stored.shape == value.shape or stored.ndim != 4 or value.ndim != 4:
                continue
            if stored.shape[0] == value.shape[0] == 1 and stored.shape[-1] == value.shape[-1]:
                state[name] = resample_positions(stored, (value.shape[1], value.shape[2]))
                runner.logger.info(f"{name}: grid {tuple(stored.shape[1:3])} re-sampled to {tuple(value.shape[1:3])}")
