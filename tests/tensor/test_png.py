"""tensor_png and plot_images: the pixels that another program reads are the values, rounded to 8 bits."""

from __future__ import annotations

import io

import matplotlib
import numpy as np
import psycopg
import pytest
from PIL import Image

import pg_llm
from pg_llm.notebook import pictures

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def pixels(conn, values: np.ndarray, **options) -> np.ndarray:
    """What Pillow reads in tensor_png's file: (H,W) or (H,W,3)."""
    named = "".join(f", {name} => %({name})s" for name in options)
    png = conn.execute(f"SELECT tensor_png(%(values)s{named})", {"values": values, **options}).fetchone()[0]
    image = Image.open(io.BytesIO(png))
    image.verify()  # checksums
    return np.asarray(Image.open(io.BytesIO(png)))


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (7, 2, 1), (4, 6, 3), (300, 250, 3)])
def test_pixels_are_the_rounded_values(conn, shape):
    values = np.random.default_rng(1).uniform(-1, 1, shape).astype(np.float32)
    expected = np.floor((values.astype(float) + 1) / 2 * 255 + 0.5)
    assert (pixels(conn, values).squeeze() == expected.squeeze()).all()


def test_every_level_comes_back(conn):
    levels = np.arange(256, dtype=np.float32).reshape(16, 16)
    assert (pixels(conn, levels / np.float32(127.5) - 1) == levels).all()
    assert (pixels(conn, levels, low=0, high=255) == levels).all()


def test_several_images_are_a_grid(conn):
    values = np.random.default_rng(2).uniform(-1, 1, (5, 3, 4, 3)).astype(np.float32)
    one = [pixels(conn, image) for image in values]
    white = np.full((3, 4, 3), 255, np.uint8)
    grid = np.vstack([np.hstack(one[:3]), np.hstack([*one[3:], white])])
    assert (pixels(conn, values, columns=3) == grid).all()
    assert (pixels(conn, values) == np.hstack(one)).all()
    assert (pixels(conn, values, columns=3, zoom=2) == grid.repeat(2, 0).repeat(2, 1)).all()


def test_channels_may_come_first(conn):
    """As in a model, (C,H,W); where both ends could be the channels, the last is."""
    values = np.random.default_rng(4).uniform(-1, 1, (5, 3, 4, 6)).astype(np.float32)
    last = np.ascontiguousarray(values.transpose(0, 2, 3, 1))
    assert (pixels(conn, values[0]) == pixels(conn, last[0])).all()
    assert (pixels(conn, values, columns=3, zoom=2) == pixels(conn, last, columns=3, zoom=2)).all()
    assert (pixels(conn, values[:, :1]) == pixels(conn, last[..., :1])).all()
    both = np.ascontiguousarray(last[0, :3, :, :])
    assert (pixels(conn, both) == pixels(conn, last[0])[:3]).all()
    values[2, 1, 3, 5] = 7
    with pytest.raises(psycopg.errors.NumericValueOutOfRange, match="7 \\(image 2, row 3, column 5\\)"):
        pixels(conn, values)


def test_values_out_of_range(conn):
    values = np.array([[0, -3], [np.inf, 1]], np.float32)
    with pytest.raises(
        psycopg.errors.NumericValueOutOfRange, match=r"-3 \(row 0, column 1\) is outside"
    ) as error:
        pixels(conn, values)
    assert "clip => true" in error.value.diag.message_hint
    assert pixels(conn, values, clip=True).tolist() == [[128, 0], [255, 255]]
    with pytest.raises(psycopg.errors.NumericValueOutOfRange, match="NaN"):
        pixels(conn, np.full((2, 2), np.nan, np.float32), clip=True)
    with pytest.raises(psycopg.errors.NumericValueOutOfRange, match="image 1, row 0, column 0"):
        pixels(conn, np.array([0, 2], np.float32).reshape(2, 1, 1, 1))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        ("zeros(ARRAY[3])", "2202E", "(3) is no image"),
        ("zeros(ARRAY[2,2,4])", "2202E", "(2,2,4) is no image"),
        ("zeros(ARRAY[1,2,2,2,3])", "2202E", "is no image"),
        ("zeros(ARRAY[0,2,2,3])", "2202E", "at least one pixel"),
        ("zeros(ARRAY[2,2]), columns => 0", "22023", "columns is 0"),
        ("zeros(ARRAY[2,2]), zoom => -1", "22023", "zoom is -1"),
        ("zeros(ARRAY[2,2]), zoom => 2147483647", "54000", "each side may have 32767"),
        ("zeros(ARRAY[100,100,3]), zoom => 300", "54000", "2700236067 bytes"),
        ("zeros(ARRAY[2,2]), low => 'Infinity'", "22023", "low is Infinity"),
        ("zeros(ARRAY[2,2]), low => 2", "22023", "low is 2 and high is 1"),
    ],
)
def test_bad_calls_are_errors(conn, call, error, message):
    with pytest.raises(psycopg.Error, match=".") as raised:
        conn.execute(f"SELECT tensor_png({call})")
    assert raised.value.sqlstate == error and message in raised.value.diag.message_primary


def test_null_gives_null(conn):
    assert conn.execute("SELECT tensor_png(NULL)").fetchone() == (None,)


def test_plot_images_draws_the_same_pixels(conn):
    values = np.random.default_rng(3).uniform(-1, 1, (3, 4, 6, 3)).astype(np.float32)
    ax = pg_llm.plot_images(
        list(values), titles=[10, 5, 0], title="steps", alt="noise becomes noise", columns=2
    )
    for drawn, image in zip(ax.images, values, strict=True):
        assert (drawn.get_array() == pixels(conn, image)).all()
        assert drawn.get_interpolation() == "nearest"
    assert pictures.describe(ax.figure) == "steps. noise becomes noise."
    plt.close(ax.figure)
    planes = np.ascontiguousarray(values.transpose(0, 3, 1, 2))
    for given in (planes, list(planes)):
        ax = pg_llm.plot_images(given)
        assert all((d.get_array() == pixels(conn, v)).all() for d, v in zip(ax.images, values, strict=True))
        plt.close(ax.figure)
    ax = pg_llm.plot_images([np.zeros((2, 5))] * 3)
    assert len(ax.images) == 3, "three images in grey, not one in colour"
    plt.close(ax.figure)
    grey = pg_llm.plot_images(np.zeros((2, 5)))
    assert grey.images[0].get_array().shape == (2, 5, 3)
    assert "1 x 2 x 5 pixels" in pictures.describe(grey.figure)
    plt.close(grey.figure)


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (np.zeros(3), {}, "have shape"),
        (np.zeros((0, 2, 2, 3)), {}, "have shape"),
        (np.full((2, 2), 2.0), {}, "clip=True"),
        (np.full((2, 2), np.nan), {"clip": True}, "NaN"),
        (np.zeros((2, 2)), {"titles": ["a", "b"]}, "2 titles were given for 1 images"),
    ],
)
def test_plot_images_says_what_is_wrong(images, options, message):
    with pytest.raises(ValueError, match=message):
        pg_llm.plot_images(images, **options)
    assert not plt.get_fignums()
