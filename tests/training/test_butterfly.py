"""The butterfly machine through SQL: the same bits everywhere, factors, and measures checked in float64."""

from __future__ import annotations

import hashlib

import numpy as np
import psycopg
import pytest

HASH = "b3bb6f4cebc7899c9d4ceae438ebe4070dad3f12433d06530c6e38f70f4212b2"
BACKGROUND = np.array([226, 236, 240]) / 127.5 - 1


def batch(conn, first: int, n: int) -> np.ndarray:
    cursor = conn.execute("SELECT llm_butterfly_batch(%s, %s)", (first, n), binary=True)
    return np.asarray(cursor.fetchone()[0])


def palettes_of(conn, first: int, n: int) -> list[str]:
    rows = conn.execute(
        "SELECT (llm_butterfly_factors(i)).palette FROM generate_series(%s::bigint, %s) AS i",
        (first, first + n - 1),
    )
    return [palette for (palette,) in rows]


def measures(conn, images: np.ndarray) -> list:
    """Rows of llm_butterfly_measure."""
    return conn.execute(
        "SELECT * FROM llm_butterfly_measure(%b)", [np.asarray(images, np.float32)]
    ).fetchall()


def blurred(images: np.ndarray) -> np.ndarray:
    for axis in (1, 2):
        images = (np.roll(images, 1, axis) + images + np.roll(images, -1, axis)) / 3
    return images


def changes(image: np.ndarray, step: int) -> float:
    return ((image[step:] - image[:-step]) ** 2).sum() + ((image[:, step:] - image[:, :-step]) ** 2).sum()


def foreground(images: np.ndarray) -> np.ndarray:
    return ((images.astype(float) - BACKGROUND) ** 2).mean(-1) > 0.12**2


def test_images_are_the_same_everywhere(conn):
    """The hash of 300 images: compiled code, instruction sets and versions of PostgreSQL do not matter."""
    images = batch(conn, -100, 300)
    assert images.dtype == np.float32 and images.shape == (300, 32, 32, 3)
    assert hashlib.sha256(images.tobytes()).hexdigest() == HASH
    one = conn.execute("SELECT llm_butterfly(i) FROM generate_series(-100, 199) AS i ORDER BY i", binary=True)
    assert all((row[0] == image).all() for row, image in zip(one, images, strict=True))


def test_images_are_symmetric_levels_and_differ(conn):
    images = batch(conn, 0, 500)
    assert (images == images[:, :, ::-1]).all()
    levels = (images.astype(float) + 1) * 127.5
    assert np.abs(levels - levels.round()).max() < 1e-4 and levels.min() >= 0 and levels.max() <= 255
    assert len(np.unique(images.reshape(500, -1), axis=0)) == 500


def test_factors_have_their_ranges_and_show_in_the_image(conn):
    rows = conn.execute(
        "SELECT f.*, llm_butterfly(i) FROM generate_series(1, 400) AS i, llm_butterfly_factors(i) AS f",
        binary=True,
    )
    names = [column.name for column in rows.description]
    frames = [dict(zip(names, row, strict=True)) for row in rows]
    assert len({f["palette"] for f in frames}) == 8 and len({f["pattern"] for f in frames}) == 6
    comment = conn.execute(
        "SELECT obj_description('llm_butterfly_factors(bigint)'::regprocedure)"
    ).fetchone()[0]
    for word in {f["palette"] for f in frames} | {f["pattern"] for f in frames}:
        assert word in comment
    tails = np.array([f["tail"] for f in frames])
    assert 0.2 < (tails > 0).mean() < 0.4 and tails[tails > 0].min() >= 2.4 and tails.max() <= 4
    for f in frames:
        assert 0.88 <= f["size"] <= 1.02 and 12.6 <= f["fore_reach"] <= 14.8 and 0 <= f["glow"] <= 0.8
        half = np.flatnonzero(foreground(f["llm_butterfly"]).any(0)).max() + 1 - 16
        assert abs(half - f["size"] * f["fore_reach"]) < 2.6
    area = [foreground(f["llm_butterfly"]).mean() for f in frames]
    box = [f["size"] ** 2 * f["fore_reach"] * (f["fore_lift"] + f["hind_drop"]) for f in frames]
    assert np.corrcoef(area, box)[0, 1] > 0.7


def test_measures_against_numpy(conn):
    """Everything but the palette's mixtures, in float64, by other means: images of every kind."""
    rng = np.random.default_rng(0)
    held, drawn = batch(conn, -6, 6), batch(conn, 0, 20000)
    noisy = held + 0.3 * rng.normal(size=held.shape).astype(np.float32)
    images = np.concatenate([held, noisy, np.concatenate([held[:3, :, :16], held[3:, :, 16:]], axis=2)])
    outlines = foreground(drawn[:4000])
    flat, rows = drawn.reshape(20000, -1), images.reshape(len(images), -1)
    squares = (flat**2).sum(1) - 2 * rows @ flat.T + (rows**2).sum(1, keepdims=True)
    distances = np.sqrt(np.maximum(squares, 0) / 3072)
    for row, image, about in zip(measures(conn, images), images.astype(float), distances, strict=True):
        _, _, _, symmetry, _, outline, area, sharpness, flatness, nearest, seed, _ = row
        shape = foreground(image)
        assert symmetry == pytest.approx(np.sqrt(((image - image[:, ::-1]) ** 2).mean()), abs=1e-12)
        assert area == shape.mean()
        both, either = (outlines & shape).sum((1, 2)), (outlines | shape).sum((1, 2))
        assert outline == pytest.approx((both / either).max(), abs=1e-12)
        assert sharpness == pytest.approx(changes(image, 1) / changes(image, 2), rel=1e-9)
        padded = np.pad(shape, 1)
        near = np.any([padded[i : 32 + i, j : 32 + j] for i in range(3) for j in range(3)], axis=0)
        if near.all():
            assert flatness is None
        else:
            away = ((image - BACKGROUND) ** 2).mean(-1)[~near].mean()
            assert flatness == pytest.approx(np.sqrt(away), abs=1e-7)
        exact = np.sqrt(((drawn[seed].astype(float) - image) ** 2).mean())
        assert nearest == pytest.approx(exact, rel=1e-6)
        assert nearest == pytest.approx(about.min(), abs=1e-4)


def test_verdicts(conn):
    """Held-out images pass, with noise leniently; copies and altered images fail."""
    n = 80
    rng = np.random.default_rng(0)
    held, other = batch(conn, -n, n), batch(conn, -2 * n, n)
    palettes, others = palettes_of(conn, -n, n), palettes_of(conn, -2 * n, n)
    few = slice(20)
    images = {
        "held out": held,
        "grained": held + 0.04 * rng.normal(size=held.shape),
        "mixtures": ((held + other) / 2)[np.array(palettes) != np.array(others)][:30],
        "halves": np.concatenate([held[few, :, :16], other[few, :, 16:]], axis=2),
        "blurred": blurred(held[few]),
        "noise": rng.normal(size=(3, 32, 32, 3)),
        "constant": np.full((1, 32, 32, 3), 0.3),
        "background": np.broadcast_to(BACKGROUND, (1, 32, 32, 3)),
        "copies": batch(conn, 0, 5),
        "negatives": -held[:5],
    }
    rows = iter(measures(conn, np.concatenate(list(images.values()))))
    passing = {name: [next(rows) for _ in values] for name, values in images.items()}
    assert [row[-1] for row in passing["held out"]] == palettes
    lenient, strict = (
        {name: np.mean([row[column] for row in found]) for name, found in passing.items()}
        for column in (1, 2)
    )
    assert 0.86 < strict["held out"] < 1 and 0.86 < lenient["grained"] < 1
    assert strict["grained"] < 0.1 and lenient["mixtures"] <= 0.05 and lenient["halves"] <= 0.05
    assert not any(lenient[name] for name in list(images)[4:])


def test_undefined_measures_are_null(conn):
    images = np.broadcast_to(BACKGROUND, (2, 32, 32, 3)).copy()
    images[1, 3, 4, 1] = np.nan
    empty, broken = measures(conn, images)
    assert empty[:4] == (0, False, False, 0) and empty[4] is None and empty[7] is None and empty[11] is None
    assert broken == (1, False, False, *[None] * 9)
    assert measures(conn, np.zeros((0, 32, 32, 3))) == []


@pytest.mark.parametrize("shape", [(), (32, 32), (32, 32, 1), (3, 32, 32), (1, 1, 32, 32, 3), (2, 3, 32, 32)])
def test_other_shapes_are_refused(conn, shape):
    with pytest.raises(psycopg.errors.ArraySubscriptError, match="expects images of shape"):
        measures(conn, np.zeros(shape))


def test_a_batch_of_no_sense_is_refused(conn):
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="n is -1"):
        conn.execute("SELECT llm_butterfly_batch(0, -1)")
    with pytest.raises(psycopg.errors.ProgramLimitExceeded):
        conn.execute("SELECT llm_butterfly_batch(0, 2000000000)")
    assert conn.execute("SELECT shape(llm_butterfly_batch(0, 0))").fetchone()[0] == [0, 32, 32, 3]
    # the last seed is followed by the first
    last = conn.execute("SELECT llm_butterfly_batch(9223372036854775807, 2)", binary=True).fetchone()[0]
    first = conn.execute("SELECT llm_butterfly(-9223372036854775808)", binary=True).fetchone()[0]
    assert (last[1] == first).all()
