"""How the launches of a diagonal scan are laid out, real or complex, forward or backward."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..launch import Config, launch
from ..spans import Spans

CHUNK = 64  # positions between states that are kept
WARPS = 2048  # on a GPU with about 100 multiprocessors fewer leave much of it idle: then chunks of a sequence run side by side


class Plan:
    """Sizes, tiles and grids. ``kernels``: what their names begin with; ``state``: [S, ...], with ``parts`` 2 [S, ..., 2], complex."""

    def __init__(self, spans: Spans, state: Tensor, kernels: str, parts: int = 1):
        self.spans, self.kernels, self.shape, self.parts = spans, kernels, state.shape[1:], parts
        self.D = self.shape.numel() // parts
        self.slots = spans.slots(CHUNK) * spans.directions
        self.flops = spans.N * spans.directions * self.D * 2 * parts**2  # of a multiplication and an addition for each number
        self.chunked = spans.sequences * -(-self.D // 32) < WARPS and CHUNK * spans.S < spans.N

    def kept(self, like: Tensor) -> Tensor:
        """A state per chunk."""
        return like.new_empty(self.slots, *self.shape)

    def candidates(self, **constants: Any) -> list[Config]:
        """A warp has 32 channels, or 64 in two lanes each: contiguous reads, and programs enough to fill a GPU."""
        tiles = ((16, 32, 1), (8, 64, 1), (8, 32, 1), (16, 64, 2))
        sizes = {"D": self.D, "CHUNK": CHUNK, **constants}
        return [Config({**sizes, "BLOCK_T": length, "BLOCK_D": width}, warps, 1) for length, width, warps in tiles]

    def run(self, name: str, arguments: dict[str, Any], flops: float, side_by_side: bool, **constants: Any) -> None:
        """Launches over chunks, or sequences, and blocks of channels."""
        launch(
            f"{self.kernels}_{name}", lambda c: (self.slots if side_by_side else self.spans.sequences, -(-self.D // c["BLOCK_D"])),
            {**arguments, **self.spans.arguments()}, self.candidates(**constants), flops=flops * self.flops,
        )  # fmt: skip

    def before(self, state: Tensor, given: dict[str, Any], final: Tensor, back: bool) -> Tensor:
        """The states before all chunks, in two launches, and into ``final`` the one after them; with ``back`` gradients of those after."""
        ends, products = self.kept(state), self.kept(state)
        self.run("chunks", {**given, "ends": ends, "products": products}, 2, True, BACK=back)
        order = self.spans.arguments()
        del order["index"]
        sizes = {"D": self.D, "CHUNK": CHUNK, "BACK": back, "BLOCK_C": 16, "BLOCK_D": 32}
        launch(
            f"{self.kernels}_between", lambda c: (self.spans.sequences, -(-self.D // c["BLOCK_D"])),
            {"state": state, "products": products, "kept": ends, "final": final, **order}, [Config(sizes, 1, 1)],
            flops=self.flops / CHUNK, traffic=4 * (3 * ends.numel() + 2 * state.numel()),
        )  # fmt: skip
        return ends
