"""Anti-aliased drawing with sub-pixel positions, on OpenCV: no display and no OpenGL."""

from __future__ import annotations

import cv2
import numpy as np

_SHIFT = 8  # bits of sub-pixel precision in OpenCV's fixed-point coordinates
_ONE = 1 << _SHIFT

Color = tuple[int, int, int]

AGENT_COLOR: Color = (65, 105, 225)
WALL_COLOR: Color = (119, 136, 153)


def blank(size: int, color: Color = (255, 255, 255)) -> np.ndarray:
    """An even picture, uint8 (size, size, 3)."""
    return np.full((size, size, 3), color, np.uint8)


def fill_polygon(picture: np.ndarray, corners: np.ndarray, color: Color) -> None:
    """Fill a convex polygon in place; corners (n, 2) in pixels, the picture spanning 0…size."""
    points = np.round((corners - 0.5) * _ONE).astype(np.int32)
    cv2.fillConvexPoly(picture, points, color, cv2.LINE_AA, _SHIFT)


def fill_circle(picture: np.ndarray, center: np.ndarray, radius: float, color: Color) -> None:
    """Fill a circle in place; centre and radius in pixels."""
    fill_circles(picture, np.asarray(center)[None], radius, color)


def fill_circles(picture: np.ndarray, centers: np.ndarray, radius: float, color: Color) -> None:
    """Fill circles of one radius in place; centres (n, 2) and radius in pixels."""
    size = round(radius * _ONE)
    for center in np.round((centers - 0.5) * _ONE).astype(int).tolist():
        cv2.circle(picture, center, size, color, -1, cv2.LINE_AA, _SHIFT)


def coverage(size: int, view: tuple[float, float], span: tuple[float, float]) -> np.ndarray:
    """The share (0…1) of each of `size` pixels, which cover `view`, that lies within `span`."""
    edges = np.linspace(view[0], view[1], size + 1)
    overlap = np.minimum(edges[1:], span[1]) - np.maximum(edges[:-1], span[0])
    return np.clip(overlap * (size / (view[1] - view[0])), 0.0, 1.0)


def solid_on_white(share: np.ndarray, color: Color) -> np.ndarray:
    """White, mixed with `color` by the share (0…1) of each pixel (size, size) that is solid:
    float32 (size, size, 3), 0…255, read-only so that it can be kept."""
    white = blank(len(share)).astype(np.float32)
    picture = white + share[..., None].astype(np.float32) * (np.array(color, np.float32) - white)
    picture.setflags(write=False)
    return picture
