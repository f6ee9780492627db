"""What Triton kernels are shipped for: the widths and forms in which models call the recurrences.

From these, kernels are compiled ahead of time. Lengths and batches do not matter to a kernel, only to an operator's choice between
candidates; they are those of one group of LION or one picture, so that inputs stay small.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from visionrnn.kernels.launch import Launch, recording
from visionrnn.testing.samples import SAMPLES, Sample

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class Shipped:
    """``form``: "groups" are packed sequences read in both directions through an order; "batch" is a plain batch, forward."""

    sample: str
    heads: int
    key: int
    value: int
    form: str = "batch"
    length: int = 1024
    batch: int = 1

    def inputs(self, dtype: torch.dtype) -> tuple[dict[str, Any], dict[str, Any]]:
        """Arguments of the sample, and the options that make the form."""
        sample, sizes = SAMPLES[self.sample], {"heads": self.heads, "key": self.key, "value": self.value}
        inputs = sample.inputs(self.batch, self.length, dtype=dtype, **sizes)
        if self.form == "batch":
            return inputs, {"backend": "triton"}
        states = sample.inputs(2 * 2, 1, dtype=dtype, **sizes)
        inputs |= {name: states[name].unflatten(0, (2, 2)) for name in sample.states}
        boundaries, order = torch.tensor([0, self.length // 2, self.length]), torch.arange(self.length)
        return inputs, {"backend": "triton", "cu_seqlens": boundaries, "index": order, "direction": "both"}

    def launches(self, dtype: torch.dtype) -> list[Launch]:
        """What a forward and a backward pass launch."""
        inputs, options = self.inputs(dtype)
        with recording() as found:
            SAMPLES[self.sample].gradients(inputs, **options)
        return found


# The first entry of a recurrence decides what is promised for its kernels; others show further widths.
SHIPPED = (
    # LION: 64 or 128 channels in 4 heads; Mamba with twice as many and 16 states
    Shipped("gated_selective_scan", heads=1, key=16, value=128, form="groups"),
    Shipped("causal_conv", heads=1, key=128, value=128, form="groups"),
    Shipped("rwkv6", heads=4, key=32, value=32, form="groups"),
    Shipped("symmetric_retention", heads=4, key=32, value=32, form="groups"),
    Shipped("ttt_linear", heads=4, key=32, value=32, form="groups"),
    # Vision-LSTM: twice 192 channels in 4 heads; Sequencer2D: 96 channels
    Shipped("mlstm", heads=4, key=96, value=96),
    Shipped("mlstm_sigmoid", heads=4, key=96, value=96),
    Shipped("lstm", heads=1, key=96, value=96),
    Shipped("gru", heads=1, key=96, value=96),
    Shipped("elman", heads=1, key=96, value=96),
    Shipped("slstm", heads=4, key=64, value=64),
    # the others as language models are built
    Shipped("diagonal_scan", heads=1, key=128, value=128),
    Shipped("complex_diagonal_scan", heads=1, key=128, value=128),
    Shipped("rwkv4", heads=1, key=128, value=128),
    Shipped("simple_gla", heads=4, key=128, value=128),
    Shipped("gla", heads=4, key=128, value=128),
    Shipped("state_space_dual", heads=1, key=128, value=64),
    Shipped("delta_rule", heads=4, key=128, value=128),
    Shipped("gated_delta_rule", heads=4, key=128, value=128),
    Shipped("kda", heads=4, key=128, value=128),
    Shipped("generalized_delta_rule", heads=4, key=64, value=64),
    Shipped("ttt_linear_fla", heads=4, key=64, value=64),
)


def covered(shipped: Shipped) -> bool:
    """Whether Triton kernels exist for it."""
    from visionrnn.kernels import dispatch

    sample: Sample = SAMPLES[shipped.sample]
    return dispatch.has(sample.family, "triton", sample.kernel)


def shipped_launches(dtype: torch.dtype, only: str = "") -> Iterator[tuple[Shipped, list[Launch]]]:
    """Launches of every covered entry whose recurrence's or family's name contains ``only``."""
    for shipped in SHIPPED:
        if covered(shipped) and only in f"{SAMPLES[shipped.sample].family}/{shipped.sample}":
            yield shipped, shipped.launches(dtype)
