"""Readers of .pcd (Point Cloud Library, file format 0.7) and .ply (G. Turk, Stanford) point clouds, in numpy alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from visionrnn.errors import DataError

INTENSITY_NAMES = ("intensity", "i", "reflectance", "reflectivity", "remission", "scalar_intensity", "scalar_reflectance")
_PLY_TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
}


def read_pcd(path: Path) -> np.ndarray:
    """x, y, z and intensity (when a field has one of INTENSITY_NAMES) of a .pcd file, float32 [N, 3 or 4]. Raises DataError."""
    content = path.read_bytes()
    header, body = _pcd_header(path, content)
    try:
        fields = header["FIELDS"]
        sizes = [int(v) for v in header["SIZE"]]
        counts = [int(v) for v in header.get("COUNT", ["1"] * len(fields))]
        number = int(header["POINTS"][0]) if "POINTS" in header else int(header["WIDTH"][0]) * int(header["HEIGHT"][0])
        kinds = [kind.lower() for kind in header["TYPE"]]
        data = header["DATA"][0].lower()
    except (KeyError, ValueError, IndexError) as error:
        raise DataError(f"{path}: PCD header is incomplete or wrong ({error}); expected FIELDS, SIZE, TYPE, POINTS, DATA") from None
    if not len(fields) == len(sizes) == len(kinds) == len(counts) or set(kinds) - set("fiu") or number < 0:
        raise DataError(f"{path}: PCD header: FIELDS, SIZE, TYPE and COUNT do not describe the same columns")
    # a field may repeat (padding is called "_") or hold several values a point; the position keeps the names apart
    layout = [
        (f"{n}:{name}", f"<{kind}{size}", (count,))
        for n, (name, kind, size, count) in enumerate(zip(fields, kinds, sizes, counts, strict=True))
    ]
    try:
        row = np.dtype(layout)
    except TypeError:
        raise DataError(f"{path}: PCD header: SIZE {' '.join(header['SIZE'])} does not fit TYPE {' '.join(header['TYPE'])}") from None
    if data == "ascii":
        columns = _ascii_columns(path, body, number, sum(counts))
        starts = np.cumsum([0, *counts])
        values = {name.lower(): columns[:, start] for name, start in zip(fields, starts, strict=False)}
    elif data in ("binary", "binary_compressed"):
        if data == "binary_compressed":
            table = _pcd_decompressed(path, body, number, row)
        else:
            if len(body) < number * row.itemsize:
                raise DataError(_truncated(path, number, len(body) // max(row.itemsize, 1)))
            table = np.frombuffer(body, dtype=row, count=number)
        values = {name.lower(): table[key[0]][:, 0] for name, key in zip(fields, layout, strict=True) if key[2][0]}
    else:
        raise DataError(f"{path}: PCD DATA is {data!r}; expected ascii, binary or binary_compressed")
    return _select(path, values)


def _pcd_header(path: Path, content: bytes) -> tuple[dict[str, list[str]], bytes]:
    header: dict[str, list[str]] = {}
    start = 0
    while start < len(content):
        end = content.find(b"\n", start)
        end = len(content) if end < 0 else end
        words = content[start:end].decode("latin-1").split()
        start = end + 1
        if words and not words[0].startswith("#"):
            header[words[0].upper()] = words[1:]
            if words[0].upper() == "DATA":
                return header, content[start:]
        if end > 65536:
            break
    raise DataError(f"{path}: no DATA line in its header; not a PCD file or truncated")


def _pcd_decompressed(path: Path, body: bytes, number: int, row: np.dtype) -> np.ndarray:
    """binary_compressed: two uint32 sizes, then LZF of the columns one after the other → table [N] of ``row``."""
    packed, unpacked = (int(v) for v in np.frombuffer(body[:8].ljust(8, b"\0"), dtype="<u4"))
    if len(body) < 8 + packed or unpacked != number * row.itemsize:
        raise DataError(f"{path}: PCD compressed data is truncated or not of the header's {number} points; copy the file again")
    columns = lzf_decompress(body[8 : 8 + packed], unpacked)
    if columns is None:
        raise DataError(f"{path}: PCD compressed data is damaged; copy the file again")
    table = np.empty(number, dtype=row)
    start = 0
    for name in row.names or ():
        kind = row[name]
        table[name] = np.frombuffer(columns, dtype=kind, count=number, offset=start)
        start += kind.itemsize * number
    return table


def lzf_decompress(packed: bytes, size: int) -> bytes | None:
    """Undoes LZF (liblzf's format): a control byte below 32 opens that many + 1 literal bytes, others copy earlier output.

    ``size`` is the length expected. None when the data is damaged.
    """
    out = bytearray()
    position, end = 0, len(packed)
    try:
        while position < end:
            control = packed[position]
            position += 1
            if control < 32:
                out += packed[position : position + control + 1]
                position += control + 1
                continue
            length = control >> 5
            if length == 7:
                length += packed[position]
                position += 1
            distance = ((control & 31) << 8 | packed[position]) + 1
            position += 1
            start, length = len(out) - distance, length + 2
            if start < 0:
                return None
            piece = bytes(out[start : start + length])
            out += (piece * (length // len(piece) + 1))[:length]  # the copy may overlap what it writes: then it repeats
    except IndexError:
        return None
    return bytes(out) if len(out) == size else None


def read_ply(path: Path) -> np.ndarray:
    """x, y, z and intensity of a .ply file's vertices (ascii or binary), float32 [N, 3 or 4]. Raises DataError."""
    content = path.read_bytes()
    end = content.find(b"end_header")
    if not content.startswith(b"ply") or end < 0:
        raise DataError(f"{path}: no header from 'ply' to 'end_header'; not a PLY file or truncated")
    body = content[content.find(b"\n", end) + 1 :] if b"\n" in content[end:] else b""
    form, skipped, number, properties = _ply_header(path, content[:end].decode("latin-1").splitlines())
    names = [name for name, _ in properties]
    if form == "ascii":
        lines = body.split(b"\n")
        before = sum(count for count, _ in skipped)
        table = _ascii_columns(path, b"\n".join(lines[before : before + number]), number, len(names))
        return _select(path, {name: table[:, i] for i, name in enumerate(names)})
    order = {"binary_little_endian": "<", "binary_big_endian": ">"}.get(form)
    if order is None:
        raise DataError(f"{path}: PLY format {form!r}; expected ascii, binary_little_endian or binary_big_endian")
    row = np.dtype([(name, order + kind) for name, kind in properties])
    before = sum(count * np.dtype([(f"{i}", order + kind) for i, (_, kind) in enumerate(fields)]).itemsize for count, fields in skipped)
    if len(body) < before + number * row.itemsize:
        raise DataError(_truncated(path, number, max(len(body) - before, 0) // row.itemsize))
    vertices = np.frombuffer(body, dtype=row, count=number, offset=before)
    return _select(path, {name: vertices[name] for name in names})


def _ply_header(path: Path, lines: list[str]) -> tuple[str, list[tuple[int, list]], int, list[tuple[str, str]]]:
    """Format, the elements before the vertices (count, properties), number of vertices, their properties (name, kind)."""
    form = ""
    elements: list[tuple[str, int, list[tuple[str, str]]]] = []
    for words in (line.split() for line in lines):
        try:
            if words[:1] == ["format"]:
                form = words[1]
            elif words[:1] == ["element"]:
                elements.append((words[1], int(words[2]), []))
            elif words[:1] == ["property"]:
                kind = "list" if words[1] == "list" else _PLY_TYPES[words[1]]
                elements[-1][2].append((words[-1].lower(), kind))
        except (IndexError, KeyError, ValueError):
            raise DataError(f"{path}: PLY header line {' '.join(words)!r} is not understood") from None
    position = next((i for i, element in enumerate(elements) if element[0] == "vertex"), None)
    if position is None:
        raise DataError(f"{path}: PLY header has no element vertex; expected points")
    _, number, properties = elements[position]
    before = [(count, fields) for _, count, fields in elements[:position]]
    named = {name for name, _ in properties}
    if any(kind == "list" for fields in [properties, *(f for _, f in before)] for _, kind in fields) or len(named) < len(properties):
        raise DataError(f"{path}: PLY vertices have list or repeated properties; expected plain numbers x, y, z, intensity")
    return form, before, number, properties


def _ascii_columns(path: Path, body: bytes, number: int, columns: int) -> np.ndarray:
    """Text rows → float64 [number, columns]."""
    rows = [line.split() for line in body.splitlines() if line.strip()][:number]
    if len(rows) < number:
        raise DataError(_truncated(path, number, len(rows)))
    bad = next((i for i, row in enumerate(rows) if len(row) != columns), None)
    if bad is not None:
        raise DataError(f"{path}: point {bad + 1} has {len(rows[bad])} values, expected {columns}")
    try:
        return np.array(rows, dtype=np.float64).reshape(number, columns)
    except ValueError as error:
        raise DataError(f"{path}: a value of the points is not a number ({error})") from None


def _truncated(path: Path, number: int, found: int) -> str:
    return f"{path}: header says {number} points, the file holds {found}; it is truncated, copy it again"


def _select(path: Path, values: dict[str, np.ndarray]) -> np.ndarray:
    missing = [name for name in "xyz" if name not in values]
    if missing:
        raise DataError(f"{path}: no field {', '.join(missing)}; it has {', '.join(values)}; expected x, y, z and intensity")
    return np.column_stack([values[name].astype(np.float32) for name in _wanted(values)])


def _wanted(values: dict[str, np.ndarray]) -> Iterator[str]:
    yield from "xyz"
    yield from [name for name in INTENSITY_NAMES if name in values][:1]
