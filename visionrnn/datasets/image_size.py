"""Height and width of an image from its header, without decoding it."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from visionrnn.errors import DataError

_JPEG_FRAMES = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}  # start-of-frame markers


def read_image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) in pixels of a PNG (W3C PNG specification) or JPEG (ITU T.81) file.

    Only the header and, for a PNG, the end mark are read. Raises DataError: missing file, another format, truncated file.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            start = file.read(8)
            if start == b"\x89PNG\r\n\x1a\n":
                return _png_size(path, file)
            if start[:2] == b"\xff\xd8":
                return _jpeg_size(path, file)
    except FileNotFoundError:
        raise DataError(f"{path}: image not found; expected the frame's .png or .jpg") from None
    if not start:
        raise DataError(f"{path}: image file is empty")
    raise DataError(f"{path}: not a PNG or JPEG image")


def _png_size(path: Path, file: BinaryIO) -> tuple[int, int]:
    header = file.read(16)
    file.seek(0, 2)
    length = file.tell()
    file.seek(max(length - 12, 0))
    if len(header) < 16 or header[4:8] != b"IHDR" or file.read(12)[4:8] != b"IEND":
        raise DataError(f"{path}: PNG is truncated ({length} bytes); copy it again")
    width, height = struct.unpack(">II", header[8:16])
    return height, width


def _jpeg_size(path: Path, file: BinaryIO) -> tuple[int, int]:
    file.seek(2)
    while True:
        marker = file.read(2)
        if len(marker) < 2 or marker[0] != 0xFF:
            raise DataError(f"{path}: JPEG header ends before the image size; copy it again")
        if marker[1] == 0xFF:  # fill byte
            file.seek(-1, 1)
            continue
        segment = file.read(7)
        if marker[1] in _JPEG_FRAMES and len(segment) == 7:
            height, width = struct.unpack(">HH", segment[3:7])
            return height, width
        if len(segment) < 2:
            raise DataError(f"{path}: JPEG header ends before the image size; copy it again")
        file.seek(struct.unpack(">H", segment[:2])[0] - 7, 1)
