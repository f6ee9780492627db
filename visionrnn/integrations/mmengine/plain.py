"""Checkpoint contents as tensors and plain Python values, so that ``torch.load(weights_only=True)`` reads them with no allow-list."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch

HISTORY_KEYS = {"values", "counts", "max_length"}


def to_plain(value: Any, where: str = "", unknown: Callable[[str, Any], None] | None = None) -> Any:
    """``value`` rebuilt from tensors (on the CPU), dict, OrderedDict, list, tuple, str, bytes, int, float, complex, bool and None.

    NumPy scalars become Python numbers and numeric arrays become tensors (others lists); sets become sorted lists, paths become text, and
    ``torch.Size``, ``torch.dtype`` and ``torch.device`` become tuples or text. An OrderedDict keeps the ``_metadata`` of a state dict.

    Raises TypeError with the place of a value of any other type; when ``unknown(place, value)`` is given it is called instead, and the
    entry is left out.
    """
    if value is None or type(value) in (bool, int, float, complex, str, bytes):
        return value
    if isinstance(value, torch.Tensor):
        tensor = value.detach().cpu()
        whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size() if tensor.layout == torch.strided else True
        return tensor if whole else tensor.clone()  # a view would drag its whole storage into the file
    if isinstance(value, np.generic):
        return to_plain(value.item(), where, unknown)
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy()) if value.dtype.kind in "biuf" else to_plain(value.tolist(), where, unknown)
    if isinstance(value, Mapping):
        return _plain_mapping(value, where, unknown)
    if isinstance(value, (set, frozenset)):
        value = sorted(value, key=repr)
    if isinstance(value, (list, tuple, deque)):
        items = [(f"{where}[{index}]", item) for index, item in enumerate(value)]
        plain = [to_plain(item, place, unknown) for place, item in items if unknown is None or _keep(place, item, unknown)]
        return tuple(plain) if isinstance(value, tuple) else plain
    if isinstance(value, (torch.dtype, torch.device, PurePath)):
        return str(value)
    kinds: tuple[Any, ...] = (int, float, complex, str, bytes)
    for kind in kinds:
        if isinstance(value, kind):  # subclasses, such as enumerations of numbers
            return kind(value)
    raise TypeError(f"{where or 'value'}: {type(value).__module__}.{type(value).__qualname__} is neither a tensor nor a plain Python value")


def _plain_mapping(value: Mapping, where: str, unknown: Callable[[str, Any], None] | None) -> dict:
    plain: Any = OrderedDict() if isinstance(value, OrderedDict) else {}
    for key, item in value.items():
        place = f"{where}.{key}" if where else str(key)
        if unknown is None or _keep(place, item, unknown):
            plain[to_plain(key, f"key {place}")] = to_plain(item, place, unknown)
    if isinstance(plain, OrderedDict) and hasattr(value, "_metadata"):
        plain.__dict__["_metadata"] = to_plain(value._metadata, f"{where}._metadata")
    return plain


def _keep(place: str, item: Any, unknown: Callable[[str, Any], None]) -> bool:
    try:
        to_plain(item, place, unknown)
    except TypeError:
        unknown(place, item)
        return False
    return True


def hub_to_plain(state: Mapping[str, Any], unknown: Callable[[str, Any], None]) -> dict[str, Any]:
    """State of mmengine's MessageHub in plain values: each history of log values becomes ``{values, counts, max_length}``.

    Runtime information that is not plain goes to ``unknown(place, value)`` and is left out, as is the text of the config (stored in meta).
    """
    scalars = {}
    for name, buffer in state["log_scalars"].items():
        values, counts = buffer.data
        scalars[name] = {
            "values": torch.as_tensor(np.asarray(values, dtype=np.float64)),
            "counts": torch.as_tensor(np.asarray(counts, dtype=np.float64)),
            "max_length": int(buffer.max_length),
        }
    info = {key: value for key, value in state["runtime_info"].items() if key != "cfg"}
    info = to_plain(info, "message_hub", unknown)
    known = {*scalars, *info}
    resumed = {key: bool(value) for key, value in state["resumed_keys"].items() if key in known}
    return {"log_scalars": scalars, "runtime_info": info, "resumed_keys": resumed}


def hub_from_plain(state: Mapping[str, Any]) -> dict[str, Any]:
    """Inverse of ``hub_to_plain``: what ``MessageHub.load_state_dict`` takes. Entries that are no history are left out."""
    from mmengine.logging import HistoryBuffer

    scalars = {}
    for name, history in state.get("log_scalars", {}).items():
        if isinstance(history, Mapping) and set(history) == HISTORY_KEYS:
            scalars[name] = HistoryBuffer(history["values"].numpy(), history["counts"].numpy(), history["max_length"])
    info = dict(state.get("runtime_info", {}))
    resumed = {key: value for key, value in state.get("resumed_keys", {}).items() if key in scalars or key in info}
    return {"log_scalars": scalars, "runtime_info": info, "resumed_keys": resumed}
