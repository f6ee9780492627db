"""Short causal convolution of each channel along time, with carried state, and SiLU behind it in the same pass."""

from __future__ import annotations

from torch import Tensor

from ..ordered import ordered
from ..recurrence import Recurrence

ACTIVATIONS = (None, "silu")


@ordered("causal_conv", "causal_conv", timed=("u",), rank=3, constants=("weight", "bias"), constant_rank=2)
def causal_conv(
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    initial_state: Tensor | None = None,
    *,
    activation: str | None = None,
    return_final_state: bool = False,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
    max_seqlen: int | None = None,
    index: Tensor | None = None,
    direction: str | None = None,
    merge: str = "sum",
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """c_t = f(bias + Σ_j weight_j ⊙ u_{t-j}), j = 0 … taps - 1, each channel for itself; f is SiLU with ``activation`` "silu".

    u: [B, T, C]; weight: [taps, C], row j reaching j steps back (the order of torch's conv1d is the opposite one); bias: [C].
    State [B, taps - 1, C] (or [S, taps - 1, C] with cu_seqlens): the inputs before the first step, THE LATEST OF THEM LAST; zeros
    when absent.

    ``reverse`` runs from the last step to the first: taps reach ahead, and the state stands behind the last step. ``cu_seqlens``
    [S + 1] packs S sequences into B = 1, which do not see each other; ``max_seqlen`` is taken as by all recurrences, and not needed.
    Returns c [B, T, C], and with ``return_final_state`` also the state after the last step. Raises ValueError for wrong shapes,
    dtypes, devices, and unknown activations and back ends.

    ``index`` [B · T], a permutation: step p reads row ``index[p]`` of the flattened inputs and writes there. ``direction``: "forward",
    "reverse", or "both": two convolutions, of the same u [B, T, C] or of one for each [2, B, T, C], with the same weight and bias or one
    for each, [2, taps, C] and [2, C]; states are [2, B, ...], and outputs added, or with ``merge`` "stack" returned as [2, B, T, C], the
    forward one first.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation={activation!r}; expected one of {list(ACTIVATIONS)}")
    call = Recurrence(
        "causal_conv", "causal_conv", "u", u, cu_seqlens=cu_seqlens, max_seqlen=max_seqlen, reverse=reverse, backend=backend,
        index=index, direction=direction,
    )  # fmt: skip
    apart = call.both is not None and weight.dim() == 3  # each direction has its own
    if u.dim() != 3 or weight.dim() != 2 + apart or not weight.shape[-2]:
        raise ValueError(f"expected u [B, T, C] and weight [taps, C] with a tap at least, got {list(u.shape)} and {list(weight.shape)}")
    (taps, channels), pair = (weight.shape[-2], u.shape[2]), (2,) if apart and not call.own else ()
    call.timed("u", u, (channels,))
    call.constant("weight", weight, (*pair, taps, channels))
    call.constant("bias", bias, (*pair, channels))
    call.state("state", initial_state, (taps - 1, channels))
    out, final = call.run(padded=False, activation=activation)
    return (out, final) if return_final_state else out
