"""Pickle files of plain values and numpy arrays, read without executing anything else.

mmdet3d's info and database files are pickles; a pickle can name any function to call. Ours hold builtins and numpy arrays only, and the
reader here accepts nothing else, whoever wrote the file.
"""

from __future__ import annotations

import collections
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from visionrnn.datasets.files import atomic_write
from visionrnn.errors import DataError

_NUMPY_BUILDERS = {  # what numpy's own pickles call, taken from numpy itself: the modules were renamed in numpy 2
    "_reconstruct": np.empty(0).__reduce__()[0],
    "scalar": np.float64(0).__reduce__()[0],
    "_frombuffer": np.zeros(1).__reduce_ex__(5)[0],
}
_NUMPY_MODULES = {f"numpy.{core}.{name}" for core in ("core", "_core") for name in ("multiarray", "numeric")}
_BUILTINS = {
    kind.__name__: kind for kind in (set, frozenset, bytearray, complex, slice, range, int, float, bool, str, bytes, list, dict, tuple)
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module in ("builtins", "__builtin__") and name in _BUILTINS:
            return _BUILTINS[name]
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        if module in _NUMPY_MODULES and name in _NUMPY_BUILDERS:
            return _NUMPY_BUILDERS[name]
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("_codecs", "encode"):  # how Python 2 protocols carry bytes
            return _encode_bytes
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def _encode_bytes(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in encoding {encoding}")
    return text.encode("latin1")


def load_infos(path: str | Path) -> Any:
    """Reads a pickle that holds builtins and numpy arrays only; nothing in it is executed.

    Raises DataError: missing file, truncated or damaged pickle, anything else inside (the message names it).
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            return _PlainUnpickler(file).load()
    except FileNotFoundError:
        raise DataError(f"{path}: file not found; make it with `visionrnn create-data kitti --root {path.parent}`") from None
    except (
        pickle.UnpicklingError,
        EOFError,
        AttributeError,
        ImportError,
        IndexError,
        KeyError,
        TypeError,
        ValueError,
        OverflowError,
    ) as error:
        raise DataError(
            f"{path}: refused or damaged pickle ({error}); expected builtins and numpy arrays only, as `visionrnn create-data` writes"
        ) from None


def save_infos(path: str | Path, value: Any, sync: bool = True) -> None:
    """Writes ``value`` (builtins and numpy arrays) as a pickle of protocol 4, atomically (``sync``: see atomic_write).

    Equal values give equal bytes, however they came about.
    """
    with atomic_write(path, sync=sync) as file:
        pickle.dump(_canonical(value, {}), file, protocol=4)


def _canonical(value: Any, texts: dict[str, str]) -> Any:
    """A copy in which equal strings are one object and nothing else is shared: a pickle stores objects met again as references."""
    if isinstance(value, str):
        return texts.setdefault(value, value)
    if isinstance(value, dict):
        return {_canonical(key, texts): _canonical(item, texts) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_canonical(item, texts) for item in value)
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        plain = np.empty(value.shape, dtype=value.dtype.str)  # an unpickled array brings its own dtype object
        plain[...] = value
        return plain
    return value
