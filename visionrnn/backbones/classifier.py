"""What timm expects of an image classifier, for every backbone of this package; timm itself is not needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from visionrnn.layers.heads import HeadNorm
from visionrnn.layers.linear import Linear

Images = Tensor | Sequence[Tensor]
"""[B, C, H, W], or a sequence of images [C, H, W] of any sizes, which are packed and run once."""


def take_indices(number: int, indices: int | Sequence[int] | None) -> list[int]:
    """Which of ``number`` intermediate features to return: the last ``indices``, those listed (negative from the end), or all with None.

    Raises ValueError for an index that does not exist.
    """
    wanted = list(range(number))[number - indices :] if isinstance(indices, int) else range(number) if indices is None else indices
    taken = [index + number if index < 0 else index for index in wanted]
    if not taken or (isinstance(indices, int) and not 0 < indices <= number) or not all(0 <= index < number for index in taken):
        raise ValueError(f"indices={indices!r}; there are {number} intermediate features, numbered 0 to {number - 1}")
    return taken


class Classifier(nn.Module):
    """Features → pooled → head: scores of ``num_classes`` classes, or the pooled features themselves with 0.

    A subclass computes ``forward_features`` (a list of images gives a list of features), ``pool`` and ``maps``, sets ``norm`` and
    ``feature_info``, and calls :meth:`set_head` when its features' width is known. ``POOLS`` are the values of ``global_pool`` it knows; ""
    leaves features unpooled. ``PARTS``: the name of the list of modules that intermediate features come after; ``FORMATS``: how those may
    be laid out, the second one as ``forward_features`` has it; ``NORM_FITS_ALL``: the last norm is meant for any of them.
    """

    POOLS: tuple[str, ...] = ("", "avg")
    PARTS = "stages"
    FORMATS: tuple[str, str] = ("NCHW", "NHWC")
    NORM_FITS_ALL = False

    num_features: int
    feature_info: list[dict]
    norm: nn.Module

    def __init__(self, num_classes: int, global_pool: str, drop_rate: float = 0.0):
        super().__init__()
        self.num_classes, self.global_pool = num_classes, self._known_pool(global_pool)
        self.drop_rate = drop_rate
        self.grad_checkpointing = False
        self.head_norm: nn.Module = nn.Identity()
        self._normed_width = -1

    def _known_pool(self, pool: str) -> str:
        if pool not in self.POOLS:
            raise ValueError(f"global_pool={pool!r}; expected one of {self.POOLS}")
        return pool

    @property
    def head_hidden_size(self) -> int:
        """Width of what the head is given."""
        return self.num_features

    def set_head(self) -> None:
        """A new head for the present number of classes; a new norm before it where the pooled features have another width than before."""
        if self._normed_width != self.head_hidden_size:
            self.head_norm, self._normed_width = self.make_head_norm(), self.head_hidden_size
        self.head = self.make_head()

    def make_head_norm(self) -> nn.Module:
        """What normalises pooled features before the head; nothing, unless a subclass has something."""
        return nn.Identity()

    def make_head(self) -> nn.Module:
        """The head for the present number of classes; its weights start almost at zero, its bias at zero."""
        if self.num_classes <= 0:
            return nn.Identity()
        head = Linear(self.head_hidden_size, self.num_classes)
        nn.init.trunc_normal_(head.weight, std=2e-5)
        nn.init.zeros_(head.bias)
        return head

    def forward(self, images: Images) -> Tensor:
        """Class scores [B, num_classes]; of a list of images one row for each."""
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Images) -> Tensor | list[Tensor]:
        """Images → features before pooling."""
        raise NotImplementedError(f"{type(self).__name__} has no forward_features")

    def pool(self, features: Tensor) -> Tensor:
        """Features of images of one size → [B, C]."""
        raise NotImplementedError(f"{type(self).__name__} has no pool")

    def forward_head(self, features: Tensor | list[Tensor], pre_logits: bool = False) -> Tensor:
        """Features → scores; with ``pre_logits`` what the head would be given."""
        if self.global_pool and isinstance(features, Tensor):
            features = self.pool(features)
        elif self.global_pool:
            features = torch.cat([self.pool(of_one.unsqueeze(0)) for of_one in features])
        elif not isinstance(features, Tensor):
            raise ValueError('global_pool="": features of images of different sizes cannot be one tensor; call forward_features')
        features = nn.functional.dropout(self.head_norm(features), self.drop_rate, self.training)
        return features if pre_logits else self.head(features)

    # ---- timm's interface

    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new head for another number of classes (0: none); ``global_pool`` may change with it."""
        if global_pool is not None:
            self.global_pool = self._known_pool(global_pool)
        self.num_classes = num_classes
        like = next(self.parameters())
        self.set_head()
        for module in (self.head_norm, self.head):
            module.to(like.device, like.dtype).train(self.training)

    def maps(self, images: Tensor, number: int) -> Iterator[Tensor]:
        """Features [B, h, w, C] after each of the first ``number`` parts."""
        raise NotImplementedError(f"{type(self).__name__} has no maps")

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Features after the parts (blocks or stages) ``indices``: the last n, those listed, or all; [B, C, H, W], or as FORMATS says.

        ``norm``: they pass the last norm where it is meant for them (in models with stages, only the last one's are). Returns (features,
        normalised likewise, intermediates), or the intermediates alone. Raises ValueError for a list of images, whose features cannot
        be one tensor, and for unknown formats and indices.
        """
        if not isinstance(x, Tensor):
            raise ValueError("x: expected a tensor [B, C, H, W]; of images of different sizes take forward_features")
        if output_fmt not in self.FORMATS:
            raise ValueError(f"output_fmt={output_fmt!r}; expected one of {self.FORMATS}")
        number = len(getattr(self, self.PARTS))
        taken, kept, features = take_indices(number, indices), [], x
        for i, features in enumerate(self.maps(x, max(taken) + 1 if stop_early else number)):
            fits = self.NORM_FITS_ALL or i == number - 1
            if i in taken:
                kept.append(self._laid_out(self.norm(features) if norm and fits else features, output_fmt))
        return kept if intermediates_only else (self._laid_out(self.norm(features) if fits else features, self.FORMATS[1]), kept)

    def _laid_out(self, features: Tensor, form: str) -> Tensor:
        """[B, h, w, C] in a format of FORMATS."""
        if form == "NCHW":
            return features.permute(0, 3, 1, 2).contiguous()
        return features.flatten(1, 2) if form == "NLC" else features

    def prune_intermediate_layers(self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True) -> list[int]:
        """Removes what intermediate features ``indices`` do not need; returns them as numbers from 0.

        Where a stage less means another width, norm and head, which would not fit, go in any case.
        """
        parts = getattr(self, self.PARTS)
        taken = take_indices(len(parts), indices)
        unfit = not self.NORM_FITS_ALL and max(taken) + 1 < len(parts)
        setattr(self, self.PARTS, parts[: max(taken) + 1])
        if unfit:
            self.num_features = self.feature_info[max(taken)]["num_chs"]
        if prune_norm or unfit:
            self.norm = nn.Identity()
        if prune_head or unfit:
            self.reset_classifier(0, "")
            self.head_norm, self._normed_width = nn.Identity(), -1
        return taken

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Blocks are computed again in the backward pass, instead of keeping what is inside them."""
        for module in (self, *getattr(self, self.PARTS)):
            module.grad_checkpointing = enable

    def note_input_size(self, size: tuple[int, int]) -> None:
        """What timm noted when it built the model, for saving it beside the weights, is brought up to date."""
        noted = getattr(self, "_traits", None)
        if noted is not None:
            self._traits = {**noted, "img_size": size}

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that weight decay should leave alone: those marked by their modules, biases and the norms of heads.

        Optimizer set-ups know biases and norms by their single axis; here are those that have more.
        """
        of_norms = {f"{name}.weight" for name, module in self.named_modules() if isinstance(module, HeadNorm)}
        return {
            name
            for name, parameter in self.named_parameters()
            if getattr(parameter, "_no_weight_decay", False) or name.endswith("bias") or name in of_norms
        }

    def group_matcher(self, coarse: bool = False) -> dict:
        """Patterns that group parameters by depth, for layer-wise learning rates."""
        raise NotImplementedError(f"{type(self).__name__} has no group_matcher")
