"""Cars, vans, people, cyclists and street furniture as lists of solids.

Every builder takes a numpy generator and returns solids about the thing's own origin: x front, y left, standing on z = 0, metres.
Sizes follow the means and spreads usual in KITTI (Car 3.9 x 1.6 x 1.5, Van 5.1 x 1.9 x 2.2, Pedestrian 0.8 x 0.6 x 1.75,
Cyclist 1.75 x 0.6 x 1.75); the labelled box is the tight bound of the solids, so it is right by construction.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from visionrnn.datasets.synthetic_shapes import (
    FACADE,
    GLASS,
    LEAVES,
    RETRO,
    Solid,
    Surface,
    block,
    ellipsoid,
    pillar,
    prism,
    rectangle,
    wheel,
)

RUBBER = Surface(0.06, (28, 28, 30))
WINDOW = Surface(0.12, (40, 52, 62), GLASS)
PLATE = Surface(1.0, (225, 225, 215), RETRO)
SKIN = Surface(0.35, (205, 160, 135))
METAL = Surface(0.35, (120, 122, 126))
BARK = Surface(0.3, (92, 70, 52))
PAINTS = ((200, 200, 204), (235, 235, 235), (30, 32, 36), (92, 96, 102), (150, 28, 30), (32, 56, 110), (60, 70, 62), (168, 150, 120))
PAINT_REFLECTIVITY = (0.45, 0.6, 0.08, 0.25, 0.3, 0.18, 0.2, 0.4)
CLOTHES = ((40, 44, 60), (120, 40, 44), (70, 90, 60), (190, 186, 176), (52, 74, 118), (24, 24, 26), (150, 120, 60), (90, 60, 100))
WALLS = ((214, 204, 186), (196, 178, 150), (226, 222, 214), (172, 120, 98), (188, 190, 194), (208, 186, 130))
GREENS = ((52, 84, 38), (70, 98, 44), (44, 70, 40), (92, 104, 50))


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    return float(rng.uniform(low, high))


def _normal(rng: np.random.Generator, mean: float, spread: float, low: float, high: float) -> float:
    return float(np.clip(rng.normal(mean, spread), low, high))


def _paint(rng: np.random.Generator) -> Surface:
    choice = int(rng.integers(len(PAINTS)))
    return Surface(PAINT_REFLECTIVITY[choice] * _between(rng, 0.8, 1.2), PAINTS[choice])


def _cloth(rng: np.random.Generator) -> Surface:
    return Surface(_between(rng, 0.15, 0.6), CLOTHES[int(rng.integers(len(CLOTHES)))])


def _wheels(length: float, width: float, radius: float, front: float, rear: float) -> list[Solid]:
    side = width / 2 - 0.11
    return [wheel(x * length, y, radius, 0.2, RUBBER) for x in (front, rear) for y in (-side, side)]


def _plates(length: float, height: float) -> list[Solid]:
    half = length / 2
    return [
        block(half - 0.03, half, -0.26, 0.26, height, height + 0.11, PLATE),
        block(-half, 0.03 - half, -0.26, 0.26, height + 0.25, height + 0.36, PLATE),
    ]


def car(rng: np.random.Generator) -> list[Solid]:
    """Hatchback, saloon, estate or off-roader: lower body, bonnet line, glass cabin, roof, four wheels, number plates."""
    style = int(rng.choice(4, p=[0.4, 0.27, 0.18, 0.15]))
    length = _normal(rng, (3.65, 4.25, 4.3, 4.3)[style], 0.22, 3.0, 4.9)
    width = _normal(rng, (1.6, 1.67, 1.67, 1.75)[style], 0.06, 1.45, 1.95)
    height = _normal(rng, (1.49, 1.45, 1.5, 1.7)[style], 0.06, 1.3, 1.95)
    paint = _paint(rng)
    half, side = length / 2 - 0.01, width / 2
    belt, waist = 0.6 * height, 0.42 * height
    tail = (0.06, 0.2, 0.05, 0.05)[style] * length  # how far the roof line stays in front of the tail
    rear_glass = (0.08, 0.14, 0.05, 0.03)[style] * length
    nose = _between(rng, 0.22, 0.27) * length
    inset = 0.1 * width
    outline = rectangle(-half, half, -side, side, chamfer=0.16)
    bonnet = rectangle(-half + 0.06, half - 0.3, -side + 0.05, side - 0.05, chamfer=0.16)
    cabin_low = rectangle(-half + tail, half - nose, -side + 0.05, side - 0.05)
    x0, x1 = -half + tail + rear_glass, half - nose - _between(rng, 0.13, 0.18) * length
    cabin_high = rectangle(x0, x1, -side + inset, side - inset)
    return [
        prism(outline, 0.17 * height, outline, waist, paint),
        prism(outline, waist, bonnet, belt, paint),
        prism(cabin_low, belt, cabin_high, 0.95 * height, WINDOW),
        prism(cabin_high, 0.95 * height, rectangle(x0 + 0.05, x1 - 0.05, -side + inset + 0.05, side - inset - 0.05), height, paint),
        *_wheels(length, width, 0.205 * height, 0.31, -0.3),
        *_plates(length, 0.25 * height),
    ]


def van(rng: np.random.Generator) -> list[Solid]:
    """Delivery van or minibus: high box with a slanted front."""
    length, width = _normal(rng, 5.0, 0.35, 4.3, 6.0), _normal(rng, 1.9, 0.08, 1.75, 2.1)
    height = _normal(rng, 2.15, 0.2, 1.85, 2.65)
    paint = _paint(rng)
    half, side = length / 2 - 0.01, width / 2
    outline = rectangle(-half, half, -side, side, chamfer=0.12)
    belt = 0.52 * height
    return [
        prism(outline, 0.13 * height, outline, belt, paint),
        prism(
            rectangle(-half, half - 0.5, -side, side), belt, rectangle(-half + 0.05, half - 1.35, -side + 0.08, side - 0.08), height, paint
        ),
        prism(
            rectangle(half - 1.2, half - 0.35, -side + 0.04, side - 0.04),
            belt,
            rectangle(half - 1.7, half - 1.2, -side + 0.1, side - 0.1),
            0.95 * height,
            WINDOW,
        ),
        *_wheels(length, width, 0.33, 0.32, -0.3),
        *_plates(length, 0.3 * height),
    ]


def pedestrian(rng: np.random.Generator) -> list[Solid]:
    """Person walking or standing: torso, head, two legs and two arms swung against each other; some carry a bag."""
    height = _normal(rng, 1.74, 0.1, 1.35, 2.0)
    build = _between(rng, 0.9, 1.12)
    coat, trousers = _cloth(rng), _cloth(rng)
    stride = _between(rng, 0.05, 0.5)
    leg, shoulder = 0.49 * height, 0.82 * height
    swing = 0.8 * stride
    arm = 0.2 * height
    parts = [
        ellipsoid((0.0, 0.0, 0.66 * height), (0.15 * build, 0.21 * build, 0.2 * height), coat),
        ellipsoid((0.01, 0.0, 0.935 * height), (0.1, 0.085, 0.065 * height), SKIN),
    ]
    for sign in (-1.0, 1.0):
        reach, lift = np.sin(sign * stride), np.cos(stride)
        parts.append(ellipsoid((-leg / 2 * reach, sign * 0.1, leg * (1 - lift / 2)), (0.085, 0.085, leg / 2), trousers, sign * stride))
        foot = -leg * reach
        parts.append(
            block(foot - 0.08, foot + 0.17, sign * 0.1 - 0.05, sign * 0.1 + 0.05, leg * (1 - lift), leg * (1 - lift) + 0.09, RUBBER)
        )
        hang = (arm * np.sin(sign * swing), sign * (0.22 * build + 0.05), shoulder - arm * np.cos(swing))
        parts.append(ellipsoid(hang, (0.055, 0.055, arm), coat, -sign * swing))
    if rng.random() < 0.25:
        parts.append(ellipsoid((-0.2, 0.0, 0.68 * height), (0.12, 0.16, 0.14 * height), _cloth(rng)))
    return parts


def cyclist(rng: np.random.Generator) -> list[Solid]:
    """Person riding: two spoked wheels, thin frame, handlebar, rider leaning forward."""
    height = _normal(rng, 1.74, 0.08, 1.5, 1.95)
    coat, trousers, frame = _cloth(rng), _cloth(rng), _paint(rng)
    radius = _between(rng, 0.31, 0.36)
    base = _between(rng, 0.5, 0.56)
    lean = _between(rng, 0.15, 0.55)
    spokes = Surface(0.2, (50, 50, 54), free_path=0.08)
    saddle, torso = 0.53 * height, 0.2 * height
    chest = (-0.18 + torso * np.sin(lean), 0.0, saddle + torso * np.cos(lean))
    head = (-0.16 + 2.25 * torso * np.sin(lean), 0.0, height - 0.12)
    parts = [
        wheel(base, 0.0, radius, 0.05, spokes),
        wheel(-base, 0.0, radius, 0.05, spokes),
        block(-0.2, base - 0.08, -0.03, 0.03, 0.42, 0.5, frame),
        block(-0.22, -0.15, -0.03, 0.03, 0.3, saddle, frame),
        block(base - 0.12, base - 0.05, -0.26, 0.26, 0.95, 1.0, METAL),
        block(base - 0.1, base - 0.05, -0.03, 0.03, 0.4, 0.98, frame),
        ellipsoid(chest, (0.14, 0.2, 1.1 * torso), coat, lean),
        ellipsoid(head, (0.11, 0.09, 0.12), SKIN),
    ]
    pedal = _between(rng, -0.12, 0.12)
    for sign in (-1.0, 1.0):
        foot = 0.28 + sign * pedal
        parts.append(ellipsoid((0.02, sign * 0.12, (saddle + foot) / 2), (0.085, 0.08, (saddle - foot) / 2 + 0.06), trousers, -0.35))
        parts.append(ellipsoid((0.5 * (head[0] + base - 0.1), sign * 0.24, 0.5 * (1.0 + 0.8 * height)), (0.06, 0.055, 0.3), coat, -0.8))
    return parts


def tree(rng: np.random.Generator) -> list[Solid]:
    """Trunk with a crown of porous ellipsoids."""
    height = _between(rng, 4.5, 10.0)
    trunk = _between(rng, 0.3, 0.45) * height
    spread = _between(rng, 0.18, 0.28) * height
    leaves = Surface(_between(rng, 0.3, 0.5), GREENS[int(rng.integers(len(GREENS)))], LEAVES, _between(rng, 0.4, 0.9))
    parts = [pillar(0.0, 0.0, -0.3, trunk + 0.3, _between(rng, 0.09, 0.25), BARK)]
    for _ in range(int(rng.integers(2, 5))):
        x, y = rng.normal(0, 0.35 * spread, 2)
        z = _between(rng, trunk + 0.35 * spread, height - 0.4 * spread)
        half = spread * rng.uniform(0.6, 1.0, 3)
        parts.append(ellipsoid((float(x), float(y), z), (float(half[0]), float(half[1]), 0.8 * float(half[2])), leaves))
    return parts


def bush(rng: np.random.Generator) -> list[Solid]:
    """Low porous shrub."""
    leaves = Surface(_between(rng, 0.3, 0.5), GREENS[int(rng.integers(len(GREENS)))], LEAVES, 0.18)
    size = _between(rng, 0.4, 1.1)
    return [
        ellipsoid((float(x), float(y), 0.55 * size), (size * _between(rng, 0.6, 1.0), size * _between(rng, 0.6, 1.0), 0.9 * size), leaves)
        for x, y in rng.normal(0, 0.5 * size, (int(rng.integers(1, 4)), 2))
    ]


def lamp(rng: np.random.Generator) -> list[Solid]:
    """Street lamp."""
    height = _between(rng, 4.5, 7.5)
    return [
        pillar(0.0, 0.0, -0.2, height, _between(rng, 0.06, 0.1), METAL),
        block(-0.15, 0.15, -0.1, 1.2, height - 0.12, height, METAL),
    ]


def sign(rng: np.random.Generator) -> list[Solid]:
    """Traffic sign on a thin post, retro-reflecting."""
    height = _between(rng, 2.2, 3.0)
    plate = Surface(1.0, ((190, 40, 40), (40, 70, 170), (230, 230, 230))[int(rng.integers(3))], RETRO)
    return [pillar(0.0, 0.0, -0.2, height, 0.035, METAL), block(-0.05, -0.03, -0.32, 0.32, height - 0.65, height, plate)]


def furniture(rng: np.random.Generator) -> list[Solid]:
    """Litter bin, bollard, hydrant, cabinet or a stop's shelter post: things about as large as a person that are none."""
    kind = int(rng.integers(3))
    grey = Surface(_between(rng, 0.15, 0.5), ((90, 96, 90), (130, 130, 134), (60, 74, 60))[int(rng.integers(3))])
    if kind == 0:
        return [pillar(0.0, 0.0, -0.1, _between(rng, 0.8, 1.2), _between(rng, 0.08, 0.3), grey)]
    width, depth = _between(rng, 0.4, 1.2), _between(rng, 0.3, 0.5)
    return [block(-width / 2, width / 2, -depth / 2, depth / 2, -0.1, _between(rng, 0.8, 1.7), grey)]


def hedge(rng: np.random.Generator, length: float) -> list[Solid]:
    """Hedge or garden wall along x."""
    high, thick = _between(rng, 0.6, 1.9), _between(rng, 0.15, 0.5)
    green = rng.random() < 0.6
    colour = GREENS[int(rng.integers(len(GREENS)))] if green else WALLS[int(rng.integers(len(WALLS)))]
    surface = Surface(_between(rng, 0.25, 0.5), colour, LEAVES, 0.15) if green else Surface(_between(rng, 0.3, 0.55), colour)
    return [block(-length / 2, length / 2, -thick / 2, thick / 2, -0.5, high, surface)]


def building(rng: np.random.Generator, length: float, depth: float) -> list[Solid]:
    """House along x with a window grid and a flat or hipped roof; reaches one metre below its origin for slopes."""
    height = _between(rng, 4.0, 12.0)
    wall = Surface(_between(rng, 0.3, 0.6), WALLS[int(rng.integers(len(WALLS)))], FACADE)
    half, side = length / 2, depth / 2
    parts = [block(-half, half, -side, side, -1.0, height, wall)]
    if rng.random() < 0.7:
        tiles = Surface(0.3, ((140, 62, 48), (84, 78, 76), (110, 50, 40))[int(rng.integers(3))])
        ridge = rectangle(-half + 0.3 * side, half - 0.3 * side, -0.05, 0.05)
        parts.append(prism(rectangle(-half - 0.3, half + 0.3, -side - 0.3, side + 0.3), height, ridge, height + 0.7 * side, tiles))
    return parts


BUILDERS: dict[str, Callable[[np.random.Generator], list[Solid]]] = {"Car": car, "Van": van, "Pedestrian": pedestrian, "Cyclist": cyclist}
"""Labelled classes."""
