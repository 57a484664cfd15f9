"""How strong the noise of images is."""

from __future__ import annotations

import numpy as np
import xarray as xr

from pyro_unmix.data.cubes import valid_spectra
from pyro_unmix.io.opening import takes_images


@takes_images
def estimate_noise_scale(cubes: xr.DataArray) -> float:
    """Std of white noise: what the other bands do not explain of a band, median over bands.

    The residual variance of regressing band l on the others is ``1 / (R^-1)_ll`` for the second-moment matrix R,
    corrected for the degrees of freedom. With fewer than two spectra per band that cannot be told, and an SNR of 40 dB
    is returned; more than 80 dB is never believed.

    References
    ----------
    Roger, Arnold, "Reliably estimating the noise in AVIRIS hyperspectral images", Int. J. Remote Sensing 17(10), 1996.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> 0 < pu.start.estimate_noise_scale(scene.cubes) < 0.05
    True
    """
    spectra = valid_spectra(cubes)
    count, bands = spectra.shape
    power = float(np.mean(spectra**2))
    if count < 2 * bands or bands == 1:
        return float(np.sqrt(1e-4 * power))
    moment = spectra.T @ spectra / count
    moment = moment + 1e-12 * power * np.eye(bands)
    residual = 1 / np.diagonal(np.linalg.inv(moment))
    variance = np.median(residual) * count / (count - bands + 1)
    return float(np.sqrt(max(variance, 1e-8 * power)))
