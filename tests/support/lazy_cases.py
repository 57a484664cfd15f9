"""A scene in chunks of 8, 4 and 2 pixels, with gaps, zeros (fill), and a chunk that was never observed."""

from __future__ import annotations

import numpy as np
from fit_cases import CUBES

GAPS = CUBES.copy(deep=True)
GAPS[:, 2, 3] = np.nan
GAPS[1, 0] = np.nan
GAPS[:, 4, 4:] = np.nan
GAPS[:, 0, 1] = 0.0
CHUNKS = {"y": 2, "x": 4}
SPECTRA = 3 * 20 * 4  # bytes of a pixel
#: Bytes for pools of ten pixels.
SMALL = 2 * 10 * SPECTRA
