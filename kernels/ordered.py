"""Scans in another order or in both directions: inside the kernels of Triton, around any other back end."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from .dispatch import choose
from .launch import is_recording
from .packing import permuted
from .spans import BOTH, FORWARD, REVERSE

DIRECTIONS = {"forward": FORWARD, "reverse": REVERSE, "both": BOTH}
MERGES = ("sum", "stack")
Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Both:
    """What a function decorated by :func:`ordered` gets as ``direction`` when its back end is to run both: inputs folded into the batch."""

    own: bool  # inputs [2 · B, T, ...], constants [2, ...]; states [2 · S, ...] in any case


def ordered(
    family: str, function: str, *, timed: tuple[str, ...], rank: int, constants: tuple[str, ...] = (), shares: bool = True,
    constant_rank: int | None = None, fused: bool = True,
) -> Callable[[Function], Function]:  # fmt: skip
    """Gives a scan the keywords ``index``, ``direction`` and ``merge``.

    ``timed``: its arguments with a time axis, the first of which has ``rank`` axes; ``constants``: those that each direction may have of
    its own, beside shared inputs too where ``constant_rank``, the number of axes of the first of them, is given. The decorated function
    runs ``index`` and ``direction`` itself when the back end is "triton" (``direction`` is a :class:`Both` for both); ``shares`` False: it
    does not take inputs that both directions share. With any other back end, or ``fused`` False, it sees neither.
    """

    def decorate(body: Function) -> Function:
        names = tuple(inspect.signature(body).parameters)

        @functools.wraps(body)
        def call(*args: Any, **kwargs: Any) -> Any:
            if kwargs.get("index") is None and kwargs.get("direction") is None:
                return body(*args, **kwargs)
            given: dict[str, Any] = dict(zip(names, args, strict=False)) | kwargs
            index, direction = given.pop("index", None), given.pop("direction", None)
            merge, reverse = given.pop("merge", "sum"), given.pop("reverse", False)
            code = _code(direction, reverse, merge)
            own = code == BOTH and _is_own(timed[0], given[timed[0]], rank)
            if index is not None:
                index = _checked(index, given[timed[0]], own)
            apart = own or (code == BOTH and constant_rank is not None and given[constants[0]].dim() > constant_rank)
            _check_own(given, timed if own else (), constants if apart else (), timed[0])
            if fused and _fused(family, function, given, timed[0]):
                if code != BOTH:
                    return body(**given, index=index, reverse=code == REVERSE)
                if not own and not shares:
                    given, own = _doubled(given, timed), True
                folded = _folded(given, timed if own else ())
                return _merged(body(**folded, index=index, direction=Both(own)), merge)
            inverse = None if index is None else torch.empty_like(index).scatter_(0, index, torch.arange(len(index), device=index.device))
            runs = []
            for backward in (False, True) if code == BOTH else (code == REVERSE,):
                part = _direction(given, timed if own else (), constants if apart else (), int(backward)) if code == BOTH else dict(given)
                if inverse is not None:
                    part |= {name: permuted(part[name], index, inverse) for name in timed if _has_time(part, name, timed[0])}
                result = body(**part, reverse=backward)
                runs.append(result if inverse is None else _back(result, inverse, index))
            return runs[0] if code != BOTH else _together(runs, merge)

        return cast(Function, call)

    return decorate


def _code(direction: str | None, reverse: bool, merge: str) -> int:
    if merge not in MERGES:
        raise ValueError(f"merge={merge!r}; expected one of {list(MERGES)}")
    if direction is None:
        return REVERSE if reverse else FORWARD
    if direction not in DIRECTIONS:
        raise ValueError(f"direction={direction!r}; expected one of {list(DIRECTIONS)}")
    if reverse and direction != "reverse":
        raise ValueError(f"reverse=True contradicts direction={direction!r}; give one of them")
    return DIRECTIONS[direction]


def _is_own(name: str, value: Tensor, rank: int) -> bool:
    if value.dim() == rank or (value.dim() == rank + 1 and len(value) == 2):
        return value.dim() > rank
    raise ValueError(f"{name}: expected {rank} axes, or two directions [2, ...], with direction='both'; got {list(value.shape)}")


def _checked(index: Tensor, like: Tensor, own: bool) -> Tensor:
    """``index`` [N] as int64. Its values are a permutation; that is checked on a CPU only, and not in a traced graph."""
    batch, length = like.shape[1:3] if own else like.shape[:2]
    rows, whole = batch * length, index.dtype in (torch.int32, torch.int64)
    if tuple(index.shape) != (rows,) or not whole or index.device != like.device:
        raise ValueError(f"index: expected {rows} integers on {like.device}, got {index.dtype} {list(index.shape)} on {index.device}")
    index = index.long().contiguous()
    if index.device.type == "cpu" and not torch.compiler.is_compiling() and not is_recording() and len(index):
        counts = torch.bincount(index.clamp(0, len(index) - 1), minlength=len(index))
        if int(counts.min()) != 1 or int(index.min()) < 0 or int(index.max()) >= len(index):
            raise ValueError(f"index: expected every row from 0 to {len(index) - 1} once (a permutation)")
    return index


def _fused(family: str, function: str, given: Mapping[str, Any], like: str) -> bool:
    """Whether the call goes to a back end that reads through an index."""
    value = given[like]
    if any(isinstance(other, Tensor) and other.is_complex() for other in given.values()):
        return False
    dtype = torch.float64 if value.dtype == torch.float64 else torch.float32
    return choose(family, function, given.get("backend", "auto"), dtype, value.device.type) == "triton"


def _has_time(given: Mapping[str, Any], name: str, like: str) -> bool:
    """A timed argument may be absent, or the same at all times and then lack the axes of batch and time."""
    value = given.get(name)
    return isinstance(value, Tensor) and value.dim() >= given[like].dim() - 1


def _check_own(given: Mapping[str, Any], timed: tuple[str, ...], constants: tuple[str, ...], like: str) -> None:
    """Each direction has its own of all these."""
    for name in (*timed, *constants):
        value = given.get(name)
        if isinstance(value, Tensor) and (len(value) != 2 or (name in timed and not _has_time(given, name, like))):
            what = "[2, B, T, ...]" if name in timed else "[2, ...]"
            raise ValueError(f"{name}: expected two directions {what} beside {like} of each direction, got {list(value.shape)}")


def _direction(given: Mapping[str, Any], timed: tuple[str, ...], constants: tuple[str, ...], number: int) -> dict[str, Any]:
    """Arguments of one direction; those named are each direction's own."""
    part = dict(given) | {name: given[name][number] for name in (*timed, *constants) if isinstance(given.get(name), Tensor)}
    if part.get("initial_state") is not None:
        part["initial_state"] = _map(lambda state: state[number], part["initial_state"])
    return part


def _doubled(given: Mapping[str, Any], timed: tuple[str, ...]) -> dict[str, Any]:
    return dict(given) | {name: given[name].expand(2, *given[name].shape) for name in timed if isinstance(given.get(name), Tensor)}


def _folded(given: Mapping[str, Any], timed: tuple[str, ...]) -> dict[str, Any]:
    """Directions in the batch: [2, B, ...] → [2 · B, ...]."""
    found = dict(given) | {name: given[name].flatten(0, 1) for name in timed if isinstance(given.get(name), Tensor)}
    if found.get("initial_state") is not None:
        found["initial_state"] = _map(lambda state: state.flatten(0, 1), found["initial_state"])
    return found


def _merged(result: Any, merge: str) -> Any:
    """[2 · B, ...] → what the caller gets."""
    if isinstance(result, tuple):
        out, states = result
        return _merged(out, merge), _map(lambda state: state.unflatten(0, (2, -1)), states)
    out = result.unflatten(0, (2, -1))
    return out if merge == "stack" else out[0] + out[1]


def _together(runs: list[Any], merge: str) -> Any:
    if isinstance(runs[0], tuple):
        (ahead, states), (back, others) = runs
        pairs = torch.stack((states, others)) if isinstance(states, Tensor) else tuple(map(torch.stack, zip(states, others, strict=True)))
        return _together([ahead, back], merge), pairs
    return torch.stack(runs) if merge == "stack" else runs[0] + runs[1]


def _map(function: Callable[[Tensor], Tensor], states: Any) -> Any:
    return function(states) if isinstance(states, Tensor) else tuple(function(state) for state in states)


def _back(result: Any, inverse: Tensor, index: Tensor) -> Any:
    """The output, first of a tuple, in the order of rows."""
    return (permuted(result[0], inverse, index), *result[1:]) if isinstance(result, tuple) else permuted(result, inverse, index)
