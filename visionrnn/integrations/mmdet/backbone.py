"""Image classifiers as backbones of detectors and segmenters: images → maps of one or more resolutions."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import timm
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from mmengine.runner.checkpoint import CheckpointLoader
from timm.models import group_parameters
from torch import Tensor, nn

import visionrnn.integrations.mmengine.pretrained  # noqa: F401  (files are read safely)
from visionrnn.checkpoints import check_fit
from visionrnn.errors import CheckpointError, DataError
from visionrnn.integrations.timm import ENTRIES, checkpoint_filter_fn


@MODELS.register_module()
class ImageBackbone(BaseModule):
    """Images [B, C, H, W] of any size → tuple of maps [B, C_i, H / s_i, W / s_i] of a classifier of timm's registry.

    ``name`` and the further arguments are those of ``timm.create_model``; a model of this package is made for images of all sizes.
    ``out_indices``: which intermediate features to give, numbers as in timm's ``features_only``, negative from the end, in rising order; by
    default the last of every resolution. ``out_norm``: a layer norm of its own for each map. ``frozen_stages``: -1 trains everything; n
    keeps patches and positions and the first n stages (plain models: blocks) as they are. ``channels`` and ``strides`` tell the maps'
    widths and s_i.

    ``init_cfg=dict(type="Pretrained", checkpoint=FILE, prefix="backbone.")`` loads weights of a classifier, ours or published, when the
    model's weights are initialised; every weight of the backbone must be there (CheckpointError). ``pretrained=True`` has timm load them.
    Raises DataError for an unknown name and for a model without intermediate features; ValueError for an index that does not exist, and for
    indices that do not rise.
    """

    def __init__(
        self,
        name: str,
        out_indices: Sequence[int] | None = None,
        out_norm: bool = False,
        frozen_stages: int = -1,
        init_cfg: dict | None = None,
        **kwargs: Any,
    ):
        super().__init__(init_cfg)
        if not timm.is_model(name):
            raise DataError(f"ImageBackbone: name={name!r}: timm knows no such model; timm.list_models() has their names")
        entry = ENTRIES.get(name.partition(".")[0])
        if entry is not None and "dynamic_img_size" in inspect.signature(entry[0]).parameters:
            kwargs.setdefault("dynamic_img_size", True)
        model: Any = timm.create_model(name, num_classes=0, **kwargs)
        if not hasattr(model, "prune_intermediate_layers"):
            raise DataError(f"ImageBackbone: {name} gives no intermediate features, which detectors need; take another model")
        info = [dict(stage) for stage in model.feature_info]
        strides = [stage["reduction"] for stage in info]
        wanted = [i for i in range(len(info)) if strides[i] not in strides[i + 1 :]] if out_indices is None else list(out_indices)
        self.out_indices: list[int] = model.prune_intermediate_layers(wanted, prune_norm=True, prune_head=True)
        if any(later <= index for index, later in pairwise(self.out_indices)):
            raise ValueError(f"out_indices={out_indices}: expected rising numbers of intermediate features, each once")
        self.model, self._loaded = model, False
        self.channels, self.strides = ([info[i][key] for i in self.out_indices] for key in ("num_chs", "reduction"))
        self.out_norms = nn.ModuleList(nn.LayerNorm(width, eps=1e-6) for width in self.channels if out_norm)
        self._freeze(frozen_stages)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps = self.model.forward_intermediates(images, indices=self.out_indices, stop_early=True, intermediates_only=True)
        if self.out_norms:
            maps = [norm(value.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) for norm, value in zip(self.out_norms, maps, strict=True)]
        return tuple(maps)

    def _freeze(self, stages: int) -> None:
        if stages >= 0:
            groups = group_parameters(self.model, self.model.group_matcher(coarse=True))
            for number in range(stages + 1):
                for name in groups.get(number, ()):
                    self.model.get_parameter(name).requires_grad_(False)

    def train(self, mode: bool = True) -> ImageBackbone:
        """As usual; parts whose parameters are all frozen stay in evaluation mode."""
        super().train(mode)
        for module in self.model.modules():
            parameters = list(module.parameters())
            if mode and parameters and not any(parameter.requires_grad for parameter in parameters):
                module.train(False)
        return self

    # ---- weights

    def init_weights(self) -> None:
        """Loads the weights that ``init_cfg`` names; without one the model keeps those it was made with."""
        if self.init_cfg and not self._loaded:
            config = dict(self.init_cfg)
            if config.pop("type", None) != "Pretrained" or not config.get("checkpoint") or config.keys() - {"checkpoint", "prefix"}:
                raise ValueError(f"init_cfg={self.init_cfg}: expected dict(type='Pretrained', checkpoint=FILE), with prefix=… if needed")
            self._load(config["checkpoint"], config.get("prefix") or "")
        self._loaded = True

    def _load(self, file: str, prefix: str) -> None:
        state = CheckpointLoader.load_checkpoint(file, map_location="cpu")["state_dict"]
        state = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        if not state:
            raise CheckpointError(f"{file}: no weight's name starts with {prefix!r}; give the prefix its names have, or none")
        own = self.model.state_dict()
        weights = checkpoint_filter_fn(state, self.model)
        check_fit(self.model, {name: value for name, value in weights.items() if name in own}, Path(file))
        self.model.load_state_dict({name: weights[name] for name in own if name in weights}, strict=False)
        left = [name for name in weights if name not in own]
        print_log(f"{file}: {len(own)} tensors loaded into the backbone; not needed: {', '.join(left) or 'none'}", "current")
