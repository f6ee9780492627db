"""Synthetic pictures of rectangles, ellipses and triangles with boxes in COCO's format, to try an image detector on."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from visionrnn.datasets.files import atomic_write

CLASSES = ("rectangle", "ellipse", "triangle")
MOST = 5
"""Shapes in a picture, at most."""


def write_shapes(folder: str | Path, train: int, val: int, seed: int = 0, size: int = 128) -> list[Path]:
    """Draws ``train`` + ``val`` pictures of size × size pixels; returns the two annotation files.

    Writes FOLDER/train/000000.png …, FOLDER/val/…, and at the end FOLDER/annotations/{train,val}.json. The same seed gives the same
    pictures. Raises ValueError for a size below 32.
    """
    if size < 32:
        raise ValueError(f"size={size}: expected at least 32 pixels")
    from PIL import Image

    files = []
    for subset, number in (("train", train), ("val", val)):
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index in range(number):
            picture, shapes = draw(np.random.default_rng((seed, subset == "val", index)), size)
            name = f"{index:06d}.png"
            buffer = io.BytesIO()
            Image.fromarray(picture).save(buffer, format="PNG")
            with atomic_write(Path(folder) / subset / name, sync=False) as file:
                file.write(buffer.getvalue())
            images.append({"id": index + 1, "file_name": name, "height": size, "width": size})
            annotations += [{**shape, "id": len(annotations) + i + 1, "image_id": index + 1} for i, shape in enumerate(shapes)]
        categories = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
        info = {"description": "synthetic: drawn shapes", "seed": seed}
        files.append(Path(folder) / "annotations" / f"{subset}.json")
        with atomic_write(files[-1], "w") as file:
            json.dump({"info": info, "images": images, "annotations": annotations, "categories": categories}, file)
    return files


def draw(random: np.random.Generator, size: int) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """A picture uint8 [size, size, 3] on a noisy, shaded ground, and its shapes as COCO annotations; they do not touch each other."""
    rows, columns = np.mgrid[:size, :size]
    ground, slope = random.uniform(60, 190, 3), random.uniform(-0.4, 0.4, (2, 3))
    picture = ground + (rows - size / 2)[..., None] * slope[0] + (columns - size / 2)[..., None] * slope[1]
    shapes: list[dict[str, Any]] = []
    taken = np.zeros((size, size), bool)
    for _ in range(int(random.integers(1, MOST + 1))):
        kind = int(random.integers(len(CLASSES)))
        height, width = random.uniform(size / 8, size / 3, 2)
        y, x = random.uniform(1, size - 1 - height), random.uniform(1, size - 1 - width)
        mask = inside(CLASSES[kind], rows + 0.5 - y, columns + 0.5 - x, height, width)
        box = bounds(mask)
        around = taken[max(box[1] - 2, 0) : box[1] + box[3] + 2, max(box[0] - 2, 0) : box[0] + box[2] + 2]
        if around.any():
            continue
        colour = ground + np.where(random.random(3) < 0.5, -1, 1) * random.uniform(40, 90, 3)
        picture[mask] = colour
        taken[box[1] : box[1] + box[3], box[0] : box[0] + box[2]] = True
        shapes.append({"category_id": kind + 1, "bbox": list(box), "area": int(mask.sum()), "iscrowd": 0})
    noise = random.normal(0, 8, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8), shapes


def inside(kind: str, y: np.ndarray, x: np.ndarray, height: float, width: float) -> np.ndarray:
    """Which points, relative to the box's corner, are inside a shape that fills the box."""
    box = (y >= 0) & (y <= height) & (x >= 0) & (x <= width)
    if kind == "ellipse":
        return (y / height - 0.5) ** 2 + (x / width - 0.5) ** 2 <= 0.25
    if kind == "triangle":  # the tip above
        return box & (np.abs(x / width - 0.5) <= 0.5 * y / height)
    return box


def bounds(mask: np.ndarray) -> Sequence[int]:
    """(x, y, width, height) of what is set, in whole pixels."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)
