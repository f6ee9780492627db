"""What Triton kernels are shipped for: the widths and forms in which models call the recurrences.

From these, kernels are compiled ahead of time. Lengths and batches do not matter to a kernel, only to an operator's choice between
candidates; they are those of one group of LION or one picture, so that inputs stay small.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from visionrnn.kernels import dispatch
from visionrnn.kernels.launch import Launch, recording
from visionrnn.testing.samples import SAMPLES

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class Shipped:
    """``form``: "groups" are ``batch`` packed sequences read in both directions through an order; "batch" is a plain batch, forward.

    ``variant``: another form of kernels that an entry which is none shows; compiled where no spills are promised, not for every target.
    """

    sample: str
    heads: int
    key: int
    value: int
    form: str = "batch"
    length: int = 1024
    batch: int = 1
    variant: bool = False

    @property
    def name(self) -> str:
        return f"{SAMPLES[self.sample].family}/{self.sample}"

    def inputs(self, dtype: torch.dtype) -> tuple[dict[str, Any], dict[str, Any]]:
        """Arguments of the sample, and the options that make the form."""
        sample, sizes = SAMPLES[self.sample], {"heads": self.heads, "key": self.key, "value": self.value}
        if sample.name.startswith("complex"):  # torch has no bfloat16 complex numbers
            dtype = torch.float32
        if self.form == "batch":
            return sample.inputs(self.batch, self.length, dtype=dtype, **sizes), {"backend": "triton"}
        rows = self.batch * self.length
        inputs = sample.inputs(1, rows, dtype=dtype, **sizes)
        states = sample.inputs(2 * self.batch, 1, dtype=dtype, **sizes)
        inputs |= {name: states[name].unflatten(0, (2, -1)) for name in sample.states}
        boundaries = self.length * torch.arange(self.batch + 1)
        return inputs, {"backend": "triton", "cu_seqlens": boundaries, "index": torch.arange(rows), "direction": "both"}

    def launches(self, dtype: torch.dtype, backward: bool = True) -> list[Launch]:
        """What a forward pass, and a backward pass after it, launch."""
        inputs, options = self.inputs(dtype)
        with recording() as found:
            if backward:
                SAMPLES[self.sample].gradients(inputs, **options)
            else:
                SAMPLES[self.sample].run(inputs, **options)
        return found


SHIPPED = (
    # LION: 64 or 128 channels in 4 heads; Mamba with twice as many and 16 states
    Shipped("gated_selective_scan", heads=1, key=16, value=128, form="groups"),
    Shipped("causal_conv", heads=1, key=128, value=128, form="groups"),
    Shipped("rwkv6", heads=4, key=32, value=32, form="groups", variant=True),
    Shipped("symmetric_retention", heads=4, key=32, value=32),
    Shipped("ttt_linear", heads=4, key=32, value=32, form="groups"),
    # Vision-LSTM: twice 192 channels in 4 heads; Sequencer2D: 96 channels
    Shipped("mlstm", heads=4, key=96, value=96),
    Shipped("mlstm_sigmoid", heads=4, key=96, value=96, variant=True),
    Shipped("lstm", heads=1, key=96, value=96),
    Shipped("gru", heads=1, key=96, value=96, variant=True),
    Shipped("elman", heads=1, key=96, value=96, variant=True),
    Shipped("slstm", heads=4, key=64, value=64),
    # the others, as language models are built
    Shipped("diagonal_scan", heads=1, key=128, value=128),
    Shipped("complex_diagonal_scan", heads=1, key=128, value=128),
    Shipped("rwkv4", heads=1, key=128, value=128),
    Shipped("simple_gla", heads=4, key=128, value=128, variant=True),
    Shipped("gla", heads=4, key=128, value=128),
    Shipped("delta_rule", heads=4, key=128, value=128, variant=True),
    Shipped("gated_delta_rule", heads=4, key=128, value=128),
    Shipped("kda", heads=4, key=128, value=128, variant=True),
    Shipped("generalized_delta_rule", heads=4, key=64, value=64),
    Shipped("ttt_linear_fla", heads=4, key=64, value=64, variant=True),
)


def covered(shipped: Shipped) -> bool:
    """Whether Triton kernels exist for it."""
    sample = SAMPLES[shipped.sample]
    return dispatch.has(sample.family, "triton", sample.kernel)


def entries(only: Iterable[str] = ("",)) -> list[Shipped]:
    """Those covered whose "family/sample" has a part in ``only``."""
    return [shipped for shipped in SHIPPED if covered(shipped) and any(part in shipped.name for part in only)]
