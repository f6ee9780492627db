"""Procedural street scenes in the LiDAR frame (x front, y left, z up, metres; the sensor is the origin, 1.73 m above the road)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from visionrnn.datasets import synthetic_objects as shapes
from visionrnn.datasets.synthetic_ground import Ground
from visionrnn.datasets.synthetic_shapes import Solid, shape_bounds

BEHIND, AHEAD = -55.0, 95.0
"""The street reaches this far along the road, in metres."""


@dataclass
class SceneObject:
    """A labelled thing: class name, box [7] (x, y, z of the geometric centre, l, w, h, yaw) and its solids in the LiDAR frame."""

    name: str
    box: np.ndarray
    solids: list[Solid]


@dataclass
class Scene:
    """Ground, labelled objects, and everything else that stands about."""

    ground: Ground
    objects: list[SceneObject] = field(default_factory=list)
    background: list[Solid] = field(default_factory=list)


@dataclass(frozen=True)
class Street:
    """Rates that make one kind of street; counts are per scene before `density`."""

    lane: tuple[float, float]
    parking: float  # chance that a side has a parking strip
    parked: float  # chance that a slot of it is taken
    moving: float
    walkers: float
    riders: float
    pavement: tuple[float, float]
    setback: tuple[float, float]
    houses: float  # chance that a plot has a house
    trees: float


STREETS = {
    "residential": Street((2.6, 3.1), 0.85, 0.55, 3.0, 5.5, 3.0, (1.6, 2.6), (1.5, 7.0), 0.85, 16.0),
    "city": Street((3.0, 3.8), 0.5, 0.5, 6.0, 12.0, 5.0, (2.6, 5.0), (0.2, 2.0), 0.95, 8.0),
    "suburban": Street((3.2, 4.2), 0.2, 0.35, 7.0, 3.5, 3.5, (1.5, 2.5), (6.0, 18.0), 0.4, 30.0),
}


class Footprints:
    """Outlines of what is already placed; answers whether another rectangle would touch one (separating axes)."""

    def __init__(self) -> None:
        self.boxes: list[tuple[float, float, float, float, float]] = []

    def add(self, x: float, y: float, length: float, width: float, yaw: float) -> None:
        self.boxes.append((x, y, length, width, yaw))

    def free(self, x: float, y: float, length: float, width: float, yaw: float, margin: float) -> bool:
        if not self.boxes:
            return True
        others = np.array(self.boxes)
        delta = others[:, :2] - (x, y)
        reach = np.hypot(others[:, 2], others[:, 3]) / 2 + np.hypot(length, width) / 2 + margin
        others, delta = others[(delta**2).sum(1) < reach**2], delta[(delta**2).sum(1) < reach**2]
        apart = np.zeros(len(others), dtype=bool)
        for axis in (np.full(len(others), yaw), np.full(len(others), yaw + np.pi / 2), others[:, 4], others[:, 4] + np.pi / 2):
            own = length / 2 * np.abs(np.cos(axis - yaw)) + width / 2 * np.abs(np.sin(axis - yaw))
            other = others[:, 2] / 2 * np.abs(np.cos(axis - others[:, 4])) + others[:, 3] / 2 * np.abs(np.sin(axis - others[:, 4]))
            gap = np.abs(delta[:, 0] * np.cos(axis) + delta[:, 1] * np.sin(axis))
            apart |= gap > own + other + margin
        return bool(apart.all())


class SceneBuilder:
    """Fills one street; every choice comes from `rng`, in a fixed order."""

    def __init__(self, rng: np.random.Generator, density: float) -> None:
        self.rng = rng
        self.density = density
        names = list(STREETS)
        self.street = STREETS[names[int(rng.choice(len(names), p=[0.45, 0.35, 0.2]))]]
        self.lane = rng.uniform(*self.street.lane)
        self.strips = tuple(2.15 if rng.random() < self.street.parking else 0.0 for _ in range(2))  # left, right
        crossing = float(rng.uniform(14, 48)) if rng.random() < 0.35 else None
        self.ground = Ground.random(
            rng, self.lane + self.strips[0], -self.lane - self.strips[1], -self.lane / 2, crossing, self.street.pavement
        )
        self.scene = Scene(self.ground)
        self.footprints = Footprints()
        self.footprints.add(-0.6, 0.0, 4.8, 2.2, 0.0)  # the recording car

    def put(self, name: str, u: float, v: float, turn: float, margin: float = 0.25) -> bool:
        """Put an object of a labelled class at road coordinates u, v, turned by `turn` against the road; False when it does not fit."""
        solids = shapes.BUILDERS[name](self.rng)
        x, y, heading = self.ground.to_lidar(u, v)
        low, high = shape_bounds(solids)
        length, width, height = (float(value) for value in high - low)
        yaw = float((heading + turn + np.pi) % (2 * np.pi) - np.pi)
        if not self.footprints.free(x, y, length, width, yaw, margin):
            return False
        self.footprints.add(x, y, length, width, yaw)
        base = float(self.ground.height(np.array([x]), np.array([y]))[0])
        centre = np.array([*((low + high) / 2)[:2], low[2]])
        turned = [solid.placed(0.0, -centre).placed(yaw, np.array([x, y, base])) for solid in solids]
        self.scene.objects.append(SceneObject(name, np.array([x, y, base + height / 2, length, width, height, yaw]), turned))
        return True

    def stand(self, solids: list[Solid], u: float, v: float, turn: float, length: float, width: float, margin: float = 0.1) -> bool:
        """Put unlabelled solids there, keeping a footprint length × width free."""
        x, y, heading = self.ground.to_lidar(u, v)
        yaw = heading + turn
        if not self.footprints.free(x, y, length, width, yaw, margin):
            return False
        self.footprints.add(x, y, length, width, yaw)
        base = float(self.ground.height(np.array([x]), np.array([y]))[0])
        self.scene.background += [solid.placed(yaw, np.array([x, y, base])) for solid in solids]
        return True

    def on_crossing(self, u: float, room: float) -> bool:
        crossing = self.ground.crossing
        return crossing is not None and abs(u - crossing) < self.ground.crossing_half + room

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def vehicle(self) -> str:
        return "Van" if self.chance(0.1) else "Car"

    def parked_cars(self) -> None:
        for side, strip in zip((1.0, -1.0), self.strips, strict=True):
            u = BEHIND + self.rng.uniform(0, 5)
            while u < AHEAD:
                u += self.rng.uniform(5.2, 6.6)
                if not strip or self.on_crossing(u, 5.0) or not self.chance(min(self.street.parked * self.density, 0.95)):
                    continue
                against = self.chance(0.85 if side > 0 else 0.12)
                v = side * (self.lane + strip / 2 + self.rng.normal(0, 0.08))
                self.put(self.vehicle(), u, v, self.rng.normal(0, 0.03) + np.pi * against)

    def yard_cars(self) -> None:
        """Cars square to the road, in front gardens and car parks."""
        if not self.chance(0.35):
            return
        side = 1.0 if self.chance(0.5) else -1.0
        u, turn = self.rng.uniform(0, 40), self.rng.uniform(-0.5, 0.5) + np.pi / 2
        for _ in range(int(self.rng.integers(2, 7))):
            u += self.rng.uniform(2.6, 3.4)
            v = side * (abs(self.ground.edge(side)) + self.ground.pavement + 3.2)
            if self.chance(min(0.7 * self.density, 1.0)) and not self.on_crossing(u, 4.0):
                self.put("Car", u, v, turn + self.rng.normal(0, 0.05) + np.pi * self.chance(0.5))

    def moving_cars(self) -> None:
        for _ in range(self.rng.poisson(self.street.moving * self.density)):
            u = self.rng.triangular(7, 14, 80) if self.chance(0.75) else self.rng.uniform(BEHIND, -8)
            side = 1.0 if self.chance(0.55) else -1.0
            self.put(
                self.vehicle(), u, side * (self.lane / 2 + self.rng.normal(0, 0.25)), self.rng.normal(0, 0.04) + np.pi * (side > 0), 1.0
            )
        if self.ground.crossing is None:
            return
        for _ in range(self.rng.poisson(3.0 * self.density)):
            lane = 1.0 if self.chance(0.5) else -1.0
            u = self.ground.crossing + lane * self.ground.crossing_half / 2
            turn = lane * np.pi / 2 + self.rng.normal(0, 0.25 if self.chance(0.3) else 0.05)
            self.put(self.vehicle(), u, self.rng.uniform(-30, 30), turn, 0.6)

    def people(self) -> None:
        for _ in range(self.rng.poisson(self.street.walkers * self.density)):
            u = self.rng.triangular(-15, 12, 62)
            side = 1.0 if self.chance(0.5) else -1.0
            edge = abs(self.ground.edge(side))
            crossing = self.chance(0.2)
            v = self.rng.uniform(-edge, edge) if crossing else side * (edge + self.rng.uniform(0.35, self.ground.pavement - 0.3))
            turn = (np.pi / 2 if crossing else 0.0) + np.pi * self.chance(0.5) + self.rng.normal(0, 0.25)
            turn = self.rng.uniform(-np.pi, np.pi) if self.chance(0.15) else turn
            for _ in range(1 + self.rng.binomial(2, 0.2)):
                self.put("Pedestrian", u, v, turn + self.rng.normal(0, 0.15), 0.1)
                u, v = u + self.rng.normal(0, 0.5), v + self.rng.normal(0, 0.7)

    def riders(self) -> None:
        for _ in range(self.rng.poisson(self.street.riders * self.density)):
            u = self.rng.triangular(-20, 14, 65)
            side = 1.0 if self.chance(0.4) else -1.0
            edge = abs(self.ground.edge(side))
            on_pavement = self.chance(0.35)
            v = side * (edge + self.rng.uniform(0.5, self.ground.pavement - 0.3) if on_pavement else self.lane - self.rng.uniform(0.2, 1.2))
            turn = np.pi * (side > 0) if self.chance(0.85) else self.rng.uniform(-np.pi, np.pi)
            self.put("Cyclist", u, v, turn + self.rng.normal(0, 0.12), 0.2)

    def houses(self) -> None:
        for side in (1.0, -1.0):
            u, edge = BEHIND, abs(self.ground.edge(side)) + self.ground.pavement
            while u < AHEAD:
                length, depth = self.rng.uniform(8, 18), self.rng.uniform(7, 12)
                setback = self.rng.uniform(*self.street.setback)
                middle = u + length / 2
                if self.on_crossing(middle, length / 2 + self.ground.pavement + 0.5):
                    u += 4.0
                    continue
                if self.chance(self.street.houses):
                    v = side * (edge + setback + depth / 2)
                    self.stand(shapes.building(self.rng, length, depth), middle, v, 0.0, length, depth)
                if setback > 1.2 and self.chance(0.6):
                    self.stand(shapes.hedge(self.rng, length), middle, side * (edge + 0.5), 0.0, length, 0.6)
                u += length + (self.rng.uniform(0, 5) if self.chance(0.6) else 0.0)
        if self.ground.crossing is not None:  # houses along the side street
            for side in (1.0, -1.0):
                for _ in range(2):
                    v = side * self.rng.uniform(24, 45)
                    u = self.ground.crossing + (1 if self.chance(0.5) else -1) * (self.ground.crossing_half + self.rng.uniform(7, 10))
                    self.stand(shapes.building(self.rng, 14.0, 9.0), u, v, np.pi / 2, 14.0, 9.0)

    def greenery_and_posts(self) -> None:
        for _ in range(self.rng.poisson(self.street.trees)):
            side = 1.0 if self.chance(0.5) else -1.0
            edge = abs(self.ground.edge(side))
            v = side * (edge + (0.4 if self.chance(0.4) else self.ground.pavement + self.rng.uniform(0.6, 12)))
            u = self.rng.uniform(BEHIND, AHEAD)
            if not self.on_crossing(u, 0.8):
                self.stand(shapes.tree(self.rng), u, v, self.rng.uniform(-3, 3), 0.5, 0.5)
        for _ in range(self.rng.poisson(self.street.trees)):
            side = 1.0 if self.chance(0.5) else -1.0
            u, v = self.rng.uniform(BEHIND, AHEAD), side * (abs(self.ground.edge(side)) + self.ground.pavement + self.rng.uniform(0.8, 9))
            if not self.on_crossing(u, 1.5):
                self.stand(shapes.bush(self.rng), u, v, 0.0, 1.6, 1.6)
        for make, rate, size in ((shapes.lamp, 8, 0.3), (shapes.sign, 6, 0.3), (shapes.furniture, 7, 0.9)):
            for _ in range(self.rng.poisson(rate)):
                side = 1.0 if self.chance(0.5) else -1.0
                u, v = self.rng.uniform(BEHIND, AHEAD), side * (abs(self.ground.edge(side)) + self.rng.uniform(0.35, 0.6))
                turn = (np.pi / 2 * -side if make is shapes.lamp else np.pi) + self.rng.normal(0, 0.1)
                if not self.on_crossing(u, 0.5):
                    self.stand(make(self.rng), u, v, turn, size, size)


def make_scene(rng: np.random.Generator, density: float = 1.0) -> Scene:
    """A random street.

    density: factor on the number of vehicles, people and cyclists. Objects stand on the ground, upright, and do not overlap.
    """
    builder = SceneBuilder(rng, density)
    builder.houses()
    builder.parked_cars()
    builder.moving_cars()
    builder.yard_cars()
    builder.riders()
    builder.people()
    builder.greenery_and_posts()
    return builder.scene
