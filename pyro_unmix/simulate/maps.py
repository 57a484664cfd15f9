"""Random maps: abundances that drift and jump, clouds."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import scipy.fft

from pyro_unmix.ops.checks import in_range, positive_int

Array = npt.NDArray[np.float64]

# Statistics of the scenes; with them the abundances look like published test sequences of this
# kind: neighbours correlate by 0.9 or more, most pixels are nearly pure, a pixel changes by about
# 0.01 from date to date.
_CORRELATION_LENGTH = 0.08  # of the Gaussian kernel, as a share of the side of the scene
_LOG_ABUNDANCE_SCALE = 3.5  # large: pushes abundances toward the corners of the simplex
_DRIFT_SCALE = 0.16  # change of a log-abundance from one date to the next
_JUMP_PURITY = (0.6, 0.99)  # abundance of the dominant material after an abrupt change


def random_streams(seed: int) -> dict[str, np.random.Generator]:
    """One generator for each part of a scene, so that changing one part leaves the others alone."""
    seed = positive_int(seed, "seed", minimum=0)
    parts = ("abundances", "variability", "noise", "clouds", "bundles")
    children = np.random.SeedSequence(seed).spawn(len(parts))
    return {part: np.random.default_rng(child) for part, child in zip(parts, children, strict=True)}


def smooth_fields(rng: np.random.Generator, count: int, height: int, width: int) -> Array:
    """Gaussian random fields (count, height, width) of variance one.

    They are white noise under a Gaussian kernel. The kernel works in the Fourier domain, where the field is periodic; a
    margin of five kernel widths is cut off so that opposite edges of the scene do not resemble each other.
    """
    length = max(1.0, _CORRELATION_LENGTH * math.sqrt(height * width))
    shape = [
        scipy.fft.next_fast_len(side + math.ceil(5 * length), real=True) for side in (height, width)
    ]
    rows = np.exp(-2.0 * (np.pi * length * np.fft.fftfreq(shape[0])) ** 2)
    columns = np.exp(-2.0 * (np.pi * length * np.fft.fftfreq(shape[1])) ** 2)
    white = rng.standard_normal((count, *shape))
    gain = rows[:, None] * columns[: shape[1] // 2 + 1]
    fields = scipy.fft.irfft2(scipy.fft.rfft2(white) * gain, s=shape)
    variance = np.mean(rows**2) * np.mean(columns**2)
    return fields[:, :height, :width] / math.sqrt(variance)


def abundance_maps(
    rng: np.random.Generator,
    shape: tuple[int, int, int, int],
    *,
    log_scale: float = _LOG_ABUNDANCE_SCALE,
    elapsed: Array | None = None,
) -> Array:
    """Abundances (T, y, x, P): softmax of smooth drifting fields, with jumps at inner dates.

    `log_scale` is the std of the first log-abundances; the drift grows with the square root of the units of time
    between the dates, `elapsed` (T-1,).
    """
    num_dates, height, width, num_endmembers = shape
    abundances = np.empty(shape)
    logits = log_scale * smooth_fields(rng, num_endmembers, height, width)
    for time in range(num_dates):
        if time > 0:
            step = 1.0 if elapsed is None else math.sqrt(elapsed[time - 1])
            logits += _DRIFT_SCALE * step * smooth_fields(rng, num_endmembers, height, width)
        if 0 < time < num_dates - 1:
            for _ in range(rng.integers(1, 3)):
                change_abruptly(rng, logits)
        abundances[time] = np.moveaxis(_softmax(logits), 0, -1)
    return abundances


def change_abruptly(rng: np.random.Generator, logits: Array) -> None:
    """Give one rectangle of ``logits`` (P, y, x) to a material that was scarce in it, in place."""
    num_endmembers, *sides = logits.shape
    spans = []
    for side in sides:
        extent = int(rng.integers(max(1, side // 10), max(1, side // 5) + 1))
        first = int(rng.integers(0, side - extent + 1))
        spans.append(slice(first, first + extent))
    patch = (slice(None), *spans)

    share = _softmax(logits[patch]).mean(axis=(1, 2))
    # The smallest of equal shares may exceed their rounded mean.
    scarce = np.flatnonzero(share <= max(share.mean(), share.min()))
    dominant = int(rng.choice(scarce))
    purity = rng.uniform(*_JUMP_PURITY)
    others = (1.0 - purity) * rng.dirichlet(np.ones(num_endmembers - 1))
    target = np.log(np.maximum(np.insert(others, dominant, purity), 1e-3))
    logits[patch] = (target - target.mean())[:, None, None]


def _softmax(logits: Array) -> Array:
    """Softmax over the first axis."""
    weights = np.exp(logits - logits.max(axis=0))
    return weights / weights.sum(axis=0)


def clouds(
    rng: np.random.Generator, fraction: float, shape: tuple[int, ...]
) -> npt.NDArray[np.bool_]:
    """Compact clouds (T, y, x): the part of each date where a smooth field is highest."""
    fraction = in_range(fraction, "cloud_fraction", 0.0, 1.0, open_high=True)
    num_dates, height, width = shape
    # Rounding down keeps at least one pixel of every date.
    num_hidden = math.floor(fraction * height * width)
    hidden = np.zeros((num_dates, height * width), dtype=bool)
    if num_hidden > 0:
        fields = smooth_fields(rng, num_dates, height, width).reshape(num_dates, -1)
        highest = np.argpartition(fields, -num_hidden, axis=1)[:, -num_hidden:]
        np.put_along_axis(hidden, highest, True, axis=1)
    return hidden.reshape(shape)
