"""Bundles of pure pixels, taken from the image itself."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from pyro_unmix.data.checks import as_endmembers
from pyro_unmix.data.cubes import to_pixels
from pyro_unmix.io.opening import takes_images
from pyro_unmix.ops.checks import positive_int


@takes_images
def extract_bundles(
    cubes: xr.DataArray, endmembers: ArrayLike | xr.DataArray, num: int = 100
) -> xr.DataArray:
    """For each reference endmember the observed spectra of smallest spectral angle to it.

    Parameters
    ----------
    cubes
        Anything that `as_cube_sequence` takes, or files; its dates are pooled.
    endmembers : array (L, P) or DataArray (wavelength, endmember)
        Reference spectra, reflectance.
    num : int
        Spectra per material. A spectrum belongs to the material that it is closest to, so that a material may get
        fewer; at least one.

    Returns
    -------
    DataArray (wavelength, endmember)
        Reflectance, with the coordinate ``label``, the material of each spectrum (its name, else its position as
        text): a spectral library, as `library_endmembers` and `IDNet` take it. Materials in the order of
        `endmembers`, spectra by growing angle.

    Raises
    ------
    ValueError
        If the bands do not fit, two materials have the same name, or no spectrum of the images is closest to some
        material.

    References
    ----------
    Somers, Zortea, Plaza, Asner, "Automated extraction of image-based endmember bundles for improved spectral
    unmixing", IEEE JSTARS 5(2), 2012, for the idea; Borsoi, Erdogmus, Imbiriba, IEEE TCI 9, 2023, for the rule, where
    a spectrum may belong to several materials, though.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> bundles = pu.start.extract_bundles(scene.cubes, scene.reference_endmembers, num=5)
    >>> bundles.dims, sorted(set(bundles['label'].values.tolist()))
    (('wavelength', 'endmember'), ['soil', 'vegetation', 'water'])
    """
    num = positive_int(num, "num")
    matrix = as_endmembers(endmembers, cubes.sizes["wavelength"])
    pixels, valid = to_pixels(cubes)
    spectra = pixels[valid]
    unit = spectra / np.maximum(np.linalg.norm(spectra, axis=1, keepdims=True), 1e-12)
    cosines = unit @ (matrix / np.linalg.norm(matrix, axis=0))
    closest = cosines.argmax(1)
    names = _names(endmembers, matrix.shape[1])
    if len(set(names)) < len(names):
        raise ValueError(f"materials must have different names, got {names}: rename them")
    chosen, labels = [], []
    for p, name in enumerate(names):
        mine = np.flatnonzero(closest == p)
        if not len(mine):
            raise ValueError(
                f"no spectrum of the images is closer to endmember {name} than to the others: "
                "pass endmembers of these images, or fewer of them"
            )
        order = np.argsort(-cosines[mine, p], kind="stable")[:num]
        chosen.append(mine[order])
        labels += [name] * len(order)
    coords = {"wavelength": cubes["wavelength"]} if "wavelength" in cubes.coords else {}
    return xr.DataArray(
        spectra[np.concatenate(chosen)].T.astype(np.float64),
        dims=("wavelength", "endmember"),
        coords={**coords, "label": ("endmember", labels)},
        name="bundles",
        attrs={"long_name": "reflectance of pure pixels", "units": "1"},
    )


def _names(endmembers: object, size: int) -> list[str]:
    coords = getattr(endmembers, "coords", {})
    values = coords["endmember"].values if "endmember" in coords else range(size)
    return [str(value) for value in values]
