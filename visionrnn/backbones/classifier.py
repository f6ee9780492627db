"""What timm expects of an image classifier, for every backbone of this package; timm itself is not needed."""

from __future__ import annotations

from collections.abc import Sequence

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

    A subclass computes ``forward_features`` (a list of images gives a list of features) and ``pool``, sets ``feature_info`` and calls
    :meth:`set_head` when its features' width is known. ``POOLS`` are the values of ``global_pool`` it knows; "" leaves features unpooled.
    """

    POOLS: tuple[str, ...] = ("", "avg")

    num_features: int
    feature_info: list[dict]

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

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Blocks are computed again in the backward pass, instead of keeping what is inside them."""
        self.grad_checkpointing = enable

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
