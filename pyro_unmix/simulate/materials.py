"""Analytic reflectance curves of common materials: sums of sigmoids and Gaussians.

They imitate the shape of measured spectra (red edge, liquid-water bands near 1.4 and 1.9 um, hydroxyl band near 2.2 um,
carbonate band near 2.34 um) so that scenes can be simulated without a spectral library. They are not measurements.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

RANGE_NM = (350.0, 2600.0)  # where the curves make sense


def _bump(wavelength: Array, centre: float, width: float) -> Array:
    """Gaussian of height one; ``width`` is its standard deviation in nm."""
    return np.exp(-0.5 * ((wavelength - centre) / width) ** 2)


def _rise(wavelength: Array, centre: float, width: float) -> Array:
    """Sigmoid from zero to one; a negative ``width`` makes it fall."""
    return 1.0 / (1.0 + np.exp(-(wavelength - centre) / width))


def water_absorption(wavelength: Array) -> Array:
    """Relative absorption of liquid water, with its overtones near 0.97, 1.2, 1.45 and 1.94 um."""
    return (
        0.08 * _bump(wavelength, 970, 30)
        + 0.15 * _bump(wavelength, 1190, 45)
        + 0.80 * _bump(wavelength, 1445, 50)
        + 1.20 * _bump(wavelength, 1940, 60)
        + 0.60 * _rise(wavelength, 2480, 80)
    )


def _vegetation(wavelength: Array) -> Array:
    visible = 0.035 + 0.06 * _bump(wavelength, 552, 35)
    plateau = 0.45 * _rise(wavelength, 716, 13) * (1.0 - 0.30 * _rise(wavelength, 1320, 60))
    return (visible + plateau) * np.exp(-1.1 * water_absorption(wavelength))


def _soil(wavelength: Array) -> Array:
    iron = 1.0 - 0.10 * _bump(wavelength, 880, 70)
    clay = 1.0 - 0.06 * _bump(wavelength, 2205, 25)
    rise = 0.05 + 0.14 * _rise(wavelength, 590, 50) + 0.22 * _rise(wavelength, 1050, 220)
    return rise * iron * clay * np.exp(-0.12 * water_absorption(wavelength))


def _water(wavelength: Array) -> Array:
    return 0.008 + 0.055 * _rise(wavelength, 610, -45) + 0.012 * _bump(wavelength, 560, 40)


def _asphalt(wavelength: Array) -> Array:
    hydrocarbon = 1.0 - 0.05 * _bump(wavelength, 1730, 25) - 0.08 * _bump(wavelength, 2310, 35)
    return (0.075 + 0.075 * _rise(wavelength, 800, 280)) * hydrocarbon


def _dry_vegetation(wavelength: Array) -> Array:
    cellulose = 1.0 - 0.18 * _bump(wavelength, 2100, 55) - 0.15 * _bump(wavelength, 2310, 45)
    rise = 0.07 + 0.42 * _rise(wavelength, 720, 95) - 0.10 * _rise(wavelength, 1900, 250)
    return rise * cellulose * np.exp(-0.22 * water_absorption(wavelength))


def _clay(wavelength: Array) -> Array:
    # The doublet near 2.2 um and the sharp 1.4 um band are those of kaolinite.
    hydroxyl = (
        1.0
        - 0.30 * _bump(wavelength, 1405, 18)
        - 0.22 * _bump(wavelength, 2163, 16)
        - 0.45 * _bump(wavelength, 2207, 20)
    )
    rise = 0.30 + 0.42 * _rise(wavelength, 560, 70) - 0.22 * _rise(wavelength, 2300, 110)
    return rise * hydroxyl * np.exp(-0.15 * water_absorption(wavelength))


def _snow(wavelength: Array) -> Array:
    ice = (
        0.30 * _bump(wavelength, 1030, 55)
        + 0.65 * _bump(wavelength, 1260, 70)
        + 2.6 * _bump(wavelength, 1510, 110)
        + 2.8 * _bump(wavelength, 2010, 120)
        + 1.0 * _rise(wavelength, 1350, 60)
        + 0.9 * _rise(wavelength, 2400, 60)
    )
    return 0.95 * np.exp(-ice)


def _concrete(wavelength: Array) -> Array:
    carbonate = 1.0 - 0.10 * _bump(wavelength, 2335, 35)
    rise = 0.16 + 0.20 * _rise(wavelength, 520, 60) - 0.07 * _rise(wavelength, 1750, 200)
    return rise * carbonate * np.exp(-0.14 * water_absorption(wavelength))


def _brick(wavelength: Array) -> Array:
    iron = 1.0 - 0.20 * _bump(wavelength, 870, 60)
    return (0.06 + 0.30 * _rise(wavelength, 588, 18) + 0.10 * _rise(wavelength, 1200, 200)) * iron


def _limestone(wavelength: Array) -> Array:
    carbonate = (
        1.0
        - 0.35 * _bump(wavelength, 2340, 32)
        - 0.12 * _bump(wavelength, 2160, 25)
        - 0.10 * _bump(wavelength, 1990, 30)
    )
    rise = 0.45 + 0.35 * _rise(wavelength, 480, 90)
    return rise * carbonate * np.exp(-0.05 * water_absorption(wavelength))


def _turbid_water(wavelength: Array) -> Array:
    sediment = 0.02 + 0.12 * _rise(wavelength, 520, 35) * _rise(wavelength, 705, -18)
    return 0.006 + sediment * _rise(wavelength, 900, -40) + 0.035 * _bump(wavelength, 810, 25)


def _char(wavelength: Array) -> Array:
    return 0.025 + 0.16 * _rise(wavelength, 1700, 420)


# The first four are the materials of the second scene of the ReDSUNN paper.
CURVES: dict[str, Callable[[Array], Array]] = {
    "vegetation": _vegetation,
    "soil": _soil,
    "water": _water,
    "asphalt": _asphalt,
    "dry vegetation": _dry_vegetation,
    "clay": _clay,
    "snow": _snow,
    "concrete": _concrete,
    "brick": _brick,
    "limestone": _limestone,
    "turbid water": _turbid_water,
    "char": _char,
}

# What a nearly pure pixel of a material is most often contaminated with.
RELATED: dict[str, str] = {
    "vegetation": "dry vegetation",
    "soil": "dry vegetation",
    "water": "turbid water",
    "asphalt": "concrete",
    "dry vegetation": "soil",
    "clay": "soil",
    "snow": "soil",
    "concrete": "asphalt",
    "brick": "concrete",
    "limestone": "clay",
    "turbid water": "water",
    "char": "dry vegetation",
}


def bundle(name: str, wavelength: Array, num_spectra: int, rng: np.random.Generator) -> Array:
    """Spectra (L, S) of nearly pure pixels of one material.

    b_s = k_s ((1 - m_s) b + m_s b') exp(-w_s W) (lambda / 1300 nm)^g_s, with illumination k_s, a
    trace m_s of a related material b', additional water w_s with absorption W, and a slope g_s, as
    grain size or haze leave it. The spreads give angles to the mean and changes of brightness of
    the size found within materials of an airborne scene: 0.03 to 0.1 rad, 6 to 13 %.
    """
    nm = wavelength[:, None]
    pure, related = CURVES[name](nm), CURVES[RELATED[name]](nm)
    light = np.exp(0.1 * rng.standard_normal(num_spectra))
    trace = 0.15 * rng.uniform(size=num_spectra) ** 2
    # Less water than none would turn the absorption bands into peaks.
    moisture = 0.15 * np.abs(rng.standard_normal(num_spectra))
    slope = 0.06 * rng.standard_normal(num_spectra)
    spectra = light * ((1.0 - trace) * pure + trace * related)
    spectra = spectra * np.exp(-moisture * water_absorption(nm)) * (nm / 1300.0) ** slope
    return np.clip(spectra, 1e-4, 0.999)
