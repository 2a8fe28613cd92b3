"""Anti-aliased drawing with sub-pixel positions, on OpenCV: no display and no OpenGL."""

from __future__ import annotations

import cv2
import numpy as np

_SHIFT = 8  # bits of sub-pixel precision in OpenCV's fixed-point coordinates
_ONE = 1 << _SHIFT

Color = tuple[int, int, int]


def blank(size: int, color: Color = (255, 255, 255)) -> np.ndarray:
    """An even picture, uint8 (size, size, 3)."""
    return np.full((size, size, 3), color, np.uint8)


def fill_polygon(picture: np.ndarray, corners: np.ndarray, color: Color) -> None:
    """Fill a convex polygon in place; corners (n, 2) in pixels, the picture spanning 0…size."""
    points = np.round((corners - 0.5) * _ONE).astype(np.int32)
    cv2.fillConvexPoly(picture, points, color, cv2.LINE_AA, _SHIFT)


def fill_circle(picture: np.ndarray, center: np.ndarray, radius: float, color: Color) -> None:
    """Fill a circle in place; centre and radius in pixels."""
    x, y = np.round((np.asarray(center) - 0.5) * _ONE).astype(int)
    cv2.circle(picture, (int(x), int(y)), round(radius * _ONE), color, -1, cv2.LINE_AA, _SHIFT)
