"""``--cfg-options key=value``: parsing, and setting keys of a config that exist."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

from visionrnn.errors import DataError

EXTRA_KEYS = ("activation_checkpointing", "compile", "find_unused_parameters", "model_wrapper_cfg", "sync_bn")
"""Top-level keys that the runner reads from its config besides its arguments."""


def parse_options(texts: Iterable[str]) -> dict[str, Any]:
    """``["a.b=1", "c=[0.1,2]", "d=true", "e=x,y"]`` → {key: value}. Values are Python literals, true/false/none, comma lists, else text.

    Raises DataError for a text without ``=``.
    """
    options = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise DataError(f"--cfg-options {text!r}: expected key=value, e.g. train_cfg.max_epochs=10")
        options[key.strip()] = _value(value.strip())
    return options


def _value(text: str) -> Any:
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return [_value(part) for part in text.split(",")] if "," in text and "(" not in text and "[" not in text else text


def apply_options(config: Config, options: Mapping[str, Any]) -> None:
    """Sets ``{"train_cfg.max_epochs": 10, "param_scheduler.0.phase": (0, 0.3), …}`` in ``config``.

    ``data_root`` moves all data sets and evaluators. A key must exist already; ``+key`` adds one. Raises DataError for an unknown key, with
    the close ones, and for a helper variable of the config file, which has no effect after the file was read.
    """
    for key, value in options.items():
        if key == "data_root":
            from visionrnn.integrations.mmengine.data_root import set_data_root

            set_data_root(config, str(value))
        else:
            _set(config._cfg_dict, key, value)


def _set(config: Any, key: str, value: Any) -> None:
    adding = key.startswith("+")
    parts = key.removeprefix("+").split(".")
    _check_top(config, parts[0], key, adding)
    node = config
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        known = list(range(len(node))) if isinstance(node, (list, tuple)) else list(node) if isinstance(node, dict) else None
        if known is None:
            raise DataError(f"--cfg-options {key}: {'.'.join(parts[:depth])} is {node!r}, it has no keys")
        name: Any = int(part) if isinstance(node, (list, tuple)) and part.isdigit() else part
        if name not in known and not (adding and isinstance(node, dict)) and not (depth == 0 and last):
            raise DataError(f"--cfg-options {key}: unknown key {part!r} in {'.'.join(parts[:depth])}{_hint(part, known)}")
        if last:
            node[name] = value
        else:
            if name not in known:
                node[name] = {}
            if isinstance(node[name], tuple):  # tuples cannot be changed in place
                node[name] = list(node[name])
            node = node[name]


def _check_top(config: Mapping[str, Any], name: str, key: str, adding: bool) -> None:
    usable = {*inspect.signature(Runner.__init__).parameters, *EXTRA_KEYS, "data_root"} - {"self", "cfg"}
    if name in usable or adding:
        return
    if name in config:
        raise DataError(
            f"--cfg-options {key}: {name!r} is a helper variable of the config file and has no effect once the file is read; set the keys"
            " that use it, such as train_dataloader.batch_size"
        )
    raise DataError(f"--cfg-options {key}: unknown key {name!r}{_hint(name, [*usable])}")


def _hint(name: str, known: Iterable[Any]) -> str:
    names = [str(other) for other in known]
    close = get_close_matches(name, names, n=3, cutoff=0.6)
    shown = f"did you mean {', '.join(close)}?" if close else f"known keys: {', '.join(names[:12]) or 'none'}"
    return f"; {shown} (a key that is new on purpose: write + before the whole key)"
