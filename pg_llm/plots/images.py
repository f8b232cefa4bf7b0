"""Images as they are in tensors, each value a square of one colour."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

APART = 0.08  # of an image's width, between images
TITLES_APART = 0.25  # of an image's height, where they have titles


def plot_images(
    images,
    titles: Sequence | None = None,
    title: str = "",
    alt: str = "",
    columns: int = 8,
    low: float = -1,
    high: float = 1,
    clip: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """An image, or several side by side, without smoothing: each value is a square.

    images: (H,W), (H,W,C) or (C,H,W), where C is 1 or 3, or several of one shape: with one more dimension in
    front, as a list or as a column of a result. low is drawn black, high white; clip draws values beyond
    them as the nearer one. titles: one above each image. alt: what they show, for readers who cannot see
    them.
    Errors: ValueError for other shapes, values out of range, NaN, more or fewer titles than images.
    """
    pixels = _pixels(_batch(images), low, high, clip)
    if titles is not None and len(titles) != len(pixels):
        raise ValueError(f"{len(titles)} titles were given for {len(pixels)} images")
    rows, columns = -(-len(pixels) // columns), min(columns, len(pixels))
    height, width = pixels.shape[1:3]
    down = height * (1 + (APART if titles is None else TITLES_APART))
    across = width * (1 + APART)
    if ax is None:
        inches = min(1.6 if len(pixels) > 1 else 3, 10 / columns)
        size = (columns * inches, 0.3 + rows * inches * down / across)
        _, ax = plt.subplots(figsize=size, layout="constrained")
    for i, image in enumerate(pixels):
        x, y = i % columns * across, i // columns * down
        drawn = ax.imshow(image, extent=(x, x + width, y + height, y), interpolation="nearest")
        drawn.set_label("" if i else alt or f"{len(pixels)} x {height} x {width} pixels")
        if titles is not None:
            ax.text(x + width / 2, y - 0.03 * height, str(titles[i]), ha="center", va="bottom", fontsize=8)
    ax.set_xlim(0, columns * across - APART * width)
    ax.set_ylim(rows * down - (down - height), 0 if titles is None else height - down)
    ax.set_axis_off()
    ax.set_title(title, loc="left")
    return ax


def _batch(images) -> np.ndarray:
    """(N,H,W,1) or (N,H,W,3) from whatever plot_images takes."""
    several = not isinstance(images, np.ndarray)
    values = np.asarray(np.stack(list(images)) if several else images, np.float64)
    shape = values.shape
    if values.ndim == 2 + several or (values.ndim == 3 and not {shape[0], shape[-1]} & {1, 3}):
        values = values[..., np.newaxis]
    if values.ndim == 3:
        values = values[np.newaxis]
    if values.ndim == 4 and values.shape[-1] not in (1, 3):
        values = values.transpose(0, 2, 3, 1)  # channels first, as in a model
    if values.ndim != 4 or values.shape[-1] not in (1, 3) or not values.size:
        raise ValueError(
            "plot_images draws images of shape (height,width), (height,width,channels) or "
            "(channels,height,width) with 1 or 3 channels, or several of them; these values have shape "
            f"{shape}"
        )
    return values


def _pixels(values: np.ndarray, low: float, high: float, clip: bool) -> np.ndarray:
    """(N,H,W,3) of bytes; half a level beyond the range is a rounding error."""
    levels = (values - low) / (high - low) * 255
    if np.isnan(levels).any():
        raise ValueError("the images have NaN, which has no colour; look for the step that made it")
    if not clip and (levels.min() < -0.5 or levels.max() > 255.5):
        raise ValueError(
            f"the images have values from {values.min():.6g} to {values.max():.6g}, outside the range from "
            f"{low} to {high}: clip=True draws them as the nearer end, low and high set another range"
        )
    pixels = np.clip(np.floor(levels + 0.5), 0, 255).astype(np.uint8)
    return np.broadcast_to(pixels, (*pixels.shape[:3], 3))
