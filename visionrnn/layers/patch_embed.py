"""Images → tokens: patches and learned positions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visionrnn.layers.linear import linear
from visionrnn.serialization.grids import Grids

Size = int | tuple[int, int]


def pair(size: Size) -> tuple[int, int]:
    """(rows, columns) from one number for both or from two."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


class PatchEmbed(nn.Module):
    """Images → tokens: a linear map of every patch, stored as a convolution; ``stride`` below the patch size lets patches overlap.

    ``img_size`` is what the model is built for. Images of another size raise ValueError unless ``dynamic``; a list of images [C, H, W] of
    different sizes needs ``dynamic`` too. Raises ValueError for an empty patch or stride, and for an ``img_size`` below a patch.
    """

    def __init__(
        self,
        img_size: Size,
        patch_size: Size,
        in_chans: int,
        dim: int,
        stride: Size | None = None,
        bias: bool = True,
        dynamic: bool = False,
    ):
        super().__init__()
        self.img_size, self.patch_size, self.dynamic = pair(img_size), pair(patch_size), dynamic
        self.stride = self.patch_size if stride is None else pair(stride)
        if min(*self.patch_size, *self.stride) < 1:
            raise ValueError(f"patch_size={patch_size}, stride={stride}: expected at least 1 pixel each")
        self.proj = nn.Conv2d(in_chans, dim, self.patch_size, self.stride, bias=bias)
        nn.init.xavier_uniform_(self.proj.weight.flatten(1))  # as the linear map of a patch that it is
        if bias:
            nn.init.zeros_(self.proj.bias)  # type: ignore[arg-type]
        self.grid_size = self.grid_of(*self.img_size)

    @property
    def num_patches(self) -> int:
        return self.grid_size[0] * self.grid_size[1]

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches in an image of this size; what is left at the right and at the bottom is not seen.

        Raises ValueError for an image smaller than a patch.
        """
        sizes = zip((height, width), self.patch_size, self.stride, strict=True)
        rows, columns = ((size - patch) // step + 1 for size, patch, step in sizes)
        if rows < 1 or columns < 1:
            raise ValueError(f"image of {height} × {width} pixels: smaller than a patch of {self.patch_size[0]} × {self.patch_size[1]}")
        return rows, columns

    def forward(self, images: Tensor | Sequence[Tensor]) -> tuple[Tensor, Grids]:
        """[B, C, H, W] → tokens [B, T, D]; a sequence of [C, H, W] → packed tokens [1, Σ T, D]; row by row.

        Raises ValueError for another number of axes or channels, for an empty sequence, for sizes the model was not built for, and for
        an image smaller than a patch.
        """
        if not isinstance(images, Tensor):
            return self._packed(images)
        self._check("images", images, 4)
        height, width = images.shape[-2:]
        if not self.dynamic and (height, width) != self.img_size:
            raise ValueError(
                f"images of {height} × {width} pixels: the model was built for {self.img_size[0]} × {self.img_size[1]}; build it with"
                " img_size=… for another size, or with dynamic_img_size=True for any"
            )
        size = self.grid_of(height, width)
        return self._projected(images, size), Grids((size,))

    def _packed(self, images: Sequence[Tensor]) -> tuple[Tensor, Grids]:
        """Images one after the other; where patches do not overlap, one product for all of them."""
        if not self.dynamic:
            raise ValueError("a list of images: the model was built for images of one size; build it with dynamic_img_size=True")
        if not len(images):
            raise ValueError("images: expected at least one, got an empty list")
        for i, image in enumerate(images):
            self._check(f"images[{i}]", image, 3)
        sizes = tuple(self.grid_of(*image.shape[1:]) for image in images)
        if self.stride != self.patch_size:
            tokens = [self._projected(image.unsqueeze(0), size) for image, size in zip(images, sizes, strict=True)]
            return torch.cat(tokens, 1), Grids(sizes, packed=True)
        patches = torch.cat([self._patches(image.unsqueeze(0), size) for image, size in zip(images, sizes, strict=True)], 1)
        return self._product(patches), Grids(sizes, packed=True)

    def _projected(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        """[B, C, H, W] → [B, T, D]. Patches that do not overlap are rows of a product, which takes less time than the convolution."""
        if self.stride == self.patch_size:
            return self._product(self._patches(images, size))
        return self.proj(images).flatten(2).transpose(1, 2).contiguous()

    def _product(self, patches: Tensor) -> Tensor:
        return linear(patches, self.proj.weight.flatten(1), self.proj.bias)

    def _patches(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        """[B, C, H, W] → [B, T, C · patch rows · patch columns]."""
        (rows, columns), (height, width) = size, self.patch_size
        whole = images[..., : rows * height, : columns * width].unflatten(3, (columns, width)).unflatten(2, (rows, height))
        return whole.permute(0, 2, 4, 1, 3, 5).reshape(images.shape[0], rows * columns, images.shape[1] * height * width)

    def _check(self, name: str, images: Tensor, axes: int) -> None:
        channels = self.proj.in_channels
        if images.dim() != axes or images.shape[-3] != channels:
            batch = "" if axes == 3 else "B, "
            raise ValueError(f"{name}: expected [{batch}{channels}, H, W], got {list(images.shape)}")


class GridPositions(nn.Module):
    """A learned embedding for every place of a grid [1, rows, columns, D], re-sampled bicubically for another grid.

    Without anti-aliasing and with corners not aligned, as Vision-LSTM (Alkin et al. 2024) does it.
    """

    def __init__(self, grid_size: tuple[int, int], dim: int):
        super().__init__()
        self.embed = nn.Parameter(torch.zeros(1, *grid_size, dim))
        nn.init.trunc_normal_(self.embed, std=0.02)

    def forward(self, grids: Grids) -> Tensor:
        """[1, T, D], the positions of all tokens, image after image."""
        of_size = {size: self.resampled(size).flatten(1, 2) for size in dict.fromkeys(grids.sizes)}
        return torch.cat([of_size[size] for size in grids.sizes], 1)

    def resampled(self, size: tuple[int, int]) -> Tensor:
        """[1, rows, columns, D]."""
        return resample_positions(self.embed, size)


def resample_positions(embed: Tensor, size: tuple[int, int]) -> Tensor:
    """[1, rows, columns, D] for another grid; itself for its own."""
    if tuple(embed.shape[1:3]) == tuple(size):
        return embed
    image = embed.permute(0, 3, 1, 2).to(torch.promote_types(embed.dtype, torch.float32))
    return F.interpolate(image, size, mode="bicubic", align_corners=False).permute(0, 2, 3, 1).to(embed.dtype)
