"""Where devices are: dropped evenly over a cell or a hall, then walking up and down straight streets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from channel.randomness import generator

Real = NDArray[np.float64]


@dataclass(frozen=True)
class Area:
    """A disc or a rectangle around the base station, without a small disc in the middle.

    Attributes
    ----------
    minimum_distance : float
        Radius of what is left out, m.
    radius : float or None
        Of the disc, m; None for a rectangle.
    sides : tuple of float
        Length and width of the rectangle, m.
    """

    minimum_distance: float
    radius: float | None = None
    sides: tuple[float, float] = (0.0, 0.0)

    @property
    def reach(self) -> float:
        """Distance of the farthest point, m."""
        return self.radius if self.radius is not None else float(np.hypot(*self.sides)) / 2.0

    def drop(self, count: int, rng: np.random.Generator) -> Real:
        """Points spread evenly, shape (count, 2), m."""
        if self.radius is not None:
            squared = rng.uniform(self.minimum_distance**2, self.radius**2, count)
            angle = rng.uniform(0.0, 2.0 * np.pi, count)
            dropped: Real = np.sqrt(squared)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
            return dropped
        points = np.zeros((count, 2))
        missing = np.ones(count, dtype=np.bool_)
        while missing.any():
            points[missing] = rng.uniform(-0.5, 0.5, (int(missing.sum()), 2)) * np.asarray(self.sides)
            missing = np.hypot(*points.T) < self.minimum_distance
        return points

    def street(self, points: Real, headings: Real) -> tuple[Real, Real]:
        """How far it is straight on and straight back from points to where the area ends, m, each of shape (N,).

        Parameters
        ----------
        points, headings : ndarray, shape (N, 2)
            Within the area; of unit length.
        """
        along = np.sum(points * headings, axis=1)
        squared = np.sum(points**2, axis=1)
        if self.radius is not None:
            half = np.sqrt(along**2 - squared + self.radius**2)
            onward, back = half - along, half + along
        else:
            onward = _to_walls(points, headings, np.asarray(self.sides) / 2.0)
            back = _to_walls(points, -headings, np.asarray(self.sides) / 2.0)
        inside = along**2 - squared + self.minimum_distance**2
        hole = np.sqrt(np.maximum(inside, 0.0))
        onward = np.where((inside > 0) & (along < 0), np.minimum(onward, np.maximum(-along - hole, 0.0)), onward)
        back = np.where((inside > 0) & (along > 0), np.minimum(back, np.maximum(along - hole, 0.0)), back)
        return onward, back


@dataclass(frozen=True)
class Walk:
    r"""Constant speed to and fro on a straight street through the point of the drop, as far as the area goes.

    With the distance s from the start of a street of length L, :math:`s(t)` is the triangle wave of slope v between 0
    and L. A point dropped evenly over an area is spread evenly over its street, and such a walk leaves it so: at any
    time devices are spread as they were dropped.

    Parameters
    ----------
    area : Area
        Of the cell.
    speed : float
        v, m/s.
    """

    area: Area
    speed: float

    def at(self, seconds: float, devices: int, seed: int) -> tuple[Real, Real]:
        """Positions, m, and velocities, m/s, both of shape (devices, 2), by (seed, "placement" and "heading")."""
        points = self.area.drop(devices, generator(seed, "placement"))
        angle = generator(seed, "heading").uniform(0.0, 2.0 * np.pi, devices)
        headings = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        onward, back = self.area.street(points, headings)
        length = np.maximum(onward + back, 1e-6)
        travelled = np.mod(back + self.speed * seconds, 2.0 * length)
        turned = travelled > length
        place = np.where(turned, 2.0 * length - travelled, travelled) - back
        velocity = np.where(turned, -self.speed, self.speed)[:, None] * headings
        return points + place[:, None] * headings, velocity


def _to_walls(points: Real, headings: Real, half: Real) -> Real:
    with np.errstate(divide="ignore"):
        reach = (half - points * np.sign(headings)) / np.abs(headings)
    return np.asarray(reach.min(axis=1), dtype=np.float64)
