"""Ground of a street scene: a sloped, slightly bent surface with a curved road, raised pavements and an optional side street.

Heights are in the LiDAR frame, metres. Road coordinates: u along the road from the sensor, v to the left of the road's centre line.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from visionrnn.datasets.synthetic_shapes import Surface

SENSOR_HEIGHT = 1.73
HORIZON = 250.0
"""Ground farther away is not met by any ray."""
ROAD, MARKING, PAVEMENT, GRASS = range(4)
SURFACES = (
    Surface(0.32, (96, 96, 100)),
    Surface(0.75, (215, 215, 210)),
    Surface(0.36, (148, 144, 138)),
    Surface(0.42, (98, 118, 66)),
)
"""Surface of each part of the ground, in the order of the four constants."""


@dataclass(frozen=True)
class Ground:
    """z = -1.73 + slope · (x, y) + (bend_x x² + bend_y y²) / 2, plus `kerb` where it is not road."""

    slope: tuple[float, float]
    bend: tuple[float, float]
    yaw: float  # heading of the road at the sensor, radians
    turn: float  # curvature of the road, 1 / m, positive to the left
    own: float  # v of the sensor
    left: float  # v of the left kerb
    right: float  # v of the right kerb
    pavement: float  # width of the pavements
    kerb: float
    crossing: float | None  # u of the side street's centre line
    crossing_half: float

    @staticmethod
    def random(
        rng: np.random.Generator, left: float, right: float, own: float, crossing: float | None, pavement: tuple[float, float]
    ) -> Ground:
        """Random slopes (about 1.5 %), bends, heading and curvature for a road of the given kerbs."""
        clip = lambda value, limit: float(np.clip(value, -limit, limit))  # noqa: E731
        return Ground(
            slope=(clip(rng.normal(0, 0.012), 0.035), clip(rng.normal(0, 0.01), 0.03)),
            bend=(clip(rng.normal(0, 1.5e-4), 3e-4), clip(rng.normal(0, 2e-4), 4e-4)),
            yaw=clip(rng.normal(0, 0.05), 0.15),
            turn=clip(rng.normal(0, 1.5e-3), 4e-3) if rng.random() < 0.6 else 0.0,
            own=own + clip(rng.normal(0, 0.2), 0.5),
            left=left,
            right=right,
            pavement=float(rng.uniform(*pavement)),
            kerb=float(rng.uniform(0.06, 0.16)),
            crossing=crossing,
            crossing_half=float(rng.uniform(3.0, 4.5)),
        )

    def edge(self, side: float) -> float:
        """v of the kerb on the left (side > 0) or the right."""
        return self.left if side > 0 else self.right

    def to_road(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """LiDAR x, y to road u, v."""
        c, s = float(np.cos(self.yaw)), float(np.sin(self.yaw))
        u = c * x + s * y
        return u, c * y - s * x - (0.5 * self.turn) * u * u + self.own

    def to_lidar(self, u: float, v: float) -> tuple[float, float, float]:
        """Road u, v to LiDAR x, y and the road's heading there."""
        c, s = float(np.cos(self.yaw)), float(np.sin(self.yaw))
        across = v + 0.5 * self.turn * u * u - self.own
        return float(u * c - across * s), float(u * s + across * c), float(self.yaw + np.arctan(self.turn * u))

    def raised(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """True where the ground is pavement or grass, a kerb higher than the road."""
        u, v = self.to_road(x, y)
        road = (v < self.left) & (v > self.right)
        if self.crossing is not None:
            road |= np.abs(u - self.crossing) < self.crossing_half
        return ~road

    def height(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Ground height at x, y."""
        smooth = -SENSOR_HEIGHT + self.slope[0] * x + self.slope[1] * y + 0.5 * (self.bend[0] * x * x + self.bend[1] * y * y)
        return smooth + self.kerb * self.raised(x, y)

    def parts(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """ROAD, MARKING, PAVEMENT or GRASS at x, y."""
        u, v = self.to_road(x, y)
        in_street = (v < self.left) & (v > self.right)
        marked = (np.abs(v) < 0.07) & (np.mod(u, 7.0) < 3.5)
        side_walk = in_street | ((v < self.left + self.pavement) & (v > self.right - self.pavement))
        part = np.where(side_walk, PAVEMENT, GRASS)
        if self.crossing is not None:
            gap = np.abs(u - self.crossing)
            in_side = gap < self.crossing_half
            zebra = (gap > self.crossing_half + 0.8) & (gap < self.crossing_half + 3.6) & (np.mod(v, 1.0) < 0.5)
            marked = (marked & (gap > self.crossing_half + 4.5)) | zebra
            part = np.where(in_side | (gap < self.crossing_half + self.pavement), np.where(in_side, ROAD, PAVEMENT), part)
        part = np.where(in_street, ROAD, part)
        return np.where(marked & in_street, MARKING, part)

    def normal(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Upward unit normal at x, y."""
        nx, ny = -(self.slope[0] + self.bend[0] * x), -(self.slope[1] + self.bend[1] * y)
        scale = 1 / np.sqrt(nx * nx + ny * ny + 1)
        return nx * scale, ny * scale, scale

    def cast(self, origin: np.ndarray, dx: np.ndarray, dy: np.ndarray, dz: np.ndarray) -> np.ndarray:
        """Distance to the ground along each ray from `origin` [3]; inf where it is missed. Kerb faces are found by bisection."""
        low, high = self._smooth(origin, dx, dy, dz, 0.0), self._smooth(origin, dx, dy, dz, self.kerb)
        ox, oy = float(origin[0]), float(origin[1])
        with np.errstate(invalid="ignore"):
            on_high = self.raised(ox + high * dx, oy + high * dy) & np.isfinite(high)
            under = self.raised(ox + low * dx, oy + low * dy) & np.isfinite(low) & ~on_high & np.isfinite(high)
        distance = np.where(on_high, high, low)
        if under.any():  # comes in above the road and goes under the pavement: it met the kerb between the two
            near, far, ex, ey = high[under], low[under], dx[under], dy[under]
            for _ in range(14):
                middle = 0.5 * (near + far)
                inside = self.raised(ox + middle * ex, oy + middle * ey)
                near, far = np.where(inside, near, middle), np.where(inside, middle, far)
            distance[under] = far
        return np.where(distance < HORIZON, distance, np.float32(np.inf))

    def _smooth(self, origin: np.ndarray, dx: np.ndarray, dy: np.ndarray, dz: np.ndarray, lift: float) -> np.ndarray:
        """First positive root of the quadratic for the surface raised by `lift`."""
        ox, oy, oz = (float(value) for value in origin)
        (sx, sy), (bx, by) = self.slope, self.bend
        a = 0.5 * (bx * dx * dx + by * dy * dy)
        b = (sx + bx * ox) * dx + (sy + by * oy) * dy - dz
        c = -SENSOR_HEIGHT + lift + sx * ox + sy * oy + 0.5 * (bx * ox * ox + by * oy * oy) - oz
        with np.errstate(invalid="ignore", divide="ignore"):
            # a t² + b t + c = 0 with c < 0 (the origin is above ground): the first crossing is 2|c| / (b + √(b² − 4ac)), if positive
            denominator = b + np.sqrt(b * b - (4 * c) * a)
            return np.where(denominator > 1e-9, (-2 * c) / denominator, np.inf).astype(np.float32)
