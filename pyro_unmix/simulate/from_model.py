"""Scenes drawn from a state-space model itself."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from pyro_unmix.simulate.maps import Array, clouds, random_streams
from pyro_unmix.simulate.scene import ALL_ROWS, Scene, assemble, checked_sizes
from pyro_unmix.simulate.signatures import label_endmembers


class StateSpaceModel(Protocol):
    """What `state_space` asks of a model, with tensors or arrays.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> spectra = pu.simulate.library([500, 700, 900, 1600]).isel(endmember=[0, 1, 2])
    >>> model = pu.SGLMM(spectra, basis=pu.Brightness())
    >>> callable(model.sample_sequence)
    True
    """

    def sample_sequence(
        self, num_pixels: int, num_dates: int, *, seed: int = 0
    ) -> Mapping[str, Any]:
        """Draw ``pixels`` (N, T, L), ``abundances`` (N, T, P) and ``variability`` (N, T, K, P)."""

    def mixing_endmembers(self, variability: Any) -> Any:
        """Map variability (..., K, P) to endmembers (..., L, P)."""


@dataclass(frozen=True, eq=False)
class _FromModel:
    """Endmembers of a state-space model at the variability that it drew."""

    model: StateSpaceModel
    variability: Any  # (N, T, K, P), in the array type of the model
    shape: tuple[int, int]

    def __call__(self, time: int, rows: slice = ALL_ROWS) -> Array:
        endmembers = _numpy(self.model.mixing_endmembers(self.variability[:, time]))
        return endmembers.reshape(*self.shape, *endmembers.shape[-2:])[rows]


def state_space(
    model: StateSpaceModel,
    *,
    num_dates: int = 6,
    height: int = 30,
    width: int = 30,
    cloud_fraction: float = 0.0,
    seed: int = 0,
) -> Scene:
    """A scene drawn from the program that is fitted, pixel by pixel.

    Pixels are independent draws of the model, noise included, so nothing is smooth in space. The
    reference endmembers are those at zero variability (M_0 in eq. (7)).

    Parameters
    ----------
    model : StateSpaceModel
        Such as an `SGLMM`. The scene keeps a copy of the model, so that training it later leaves the truth as it is.
    num_dates, height, width : int
        Sizes T, H, W; the model draws N = H W pixels, in row-major order.
    cloud_fraction, seed
        As in `scaled_scene`; the seed is passed on to the model.

    Returns
    -------
    Scene
        With ``noise_scale`` None.

    Raises
    ------
    TypeError
        If the model lacks a method.
    ValueError
        If a draw lacks an entry or has another shape than stated.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> model = pu.SGLMM(
    ...     pu.simulate.library([500, 700, 900, 1600]).isel(endmember=[0, 1, 2]), basis=pu.Brightness()
    ... )
    >>> scene = pu.simulate.state_space(model, num_dates=3, height=4, width=5, seed=0)
    >>> dict(scene.cubes.sizes)
    {'time': 3, 'y': 4, 'x': 5, 'wavelength': 4}
    """
    for method in ("sample_sequence", "mixing_endmembers"):
        if not callable(getattr(model, method, None)):
            raise TypeError(
                f"model must have a method {method!r}, got {type(model).__name__}: pass a "
                "state-space model such as SGLMM(endmembers)"
            )
    num_dates, height, width = checked_sizes(num_dates, height, width)
    cloud_stream = random_streams(seed)["clouds"]
    model = copy.deepcopy(model)
    draw = model.sample_sequence(height * width, num_dates, seed=seed)
    pixels, abundances, variability = _checked_draw(draw, height * width, num_dates)

    zero = variability[0, 0] * 0
    reference = label_endmembers(_numpy(model.mixing_endmembers(zero)))
    cubes = pixels.reshape(height, width, num_dates, -1).transpose(2, 0, 1, 3).astype(np.float32)
    maps = abundances.reshape(height, width, num_dates, -1).transpose(2, 0, 1, 3)
    hidden = clouds(cloud_stream, cloud_fraction, cubes.shape[:3])
    variation = _FromModel(model, variability, (height, width))
    return assemble(cubes, maps.copy(), reference, variation, hidden, None)


def _checked_draw(
    draw: Mapping[str, Any], num_pixels: int, num_dates: int
) -> tuple[Array, Array, Any]:
    """The three entries of a draw; variability stays in the array type of the model."""
    layouts = {"pixels": "(N, T, L)", "abundances": "(N, T, P)", "variability": "(N, T, K, P)"}
    for name, layout in layouts.items():
        if name not in draw:
            raise ValueError(
                f"sample_sequence must return an entry {name!r} {layout}, got {sorted(draw)}"
            )
        shape = tuple(draw[name].shape)
        if len(shape) != layout.count(",") + 1 or shape[:2] != (num_pixels, num_dates):
            raise ValueError(
                f"sample_sequence must return {name!r} as {layout} with N={num_pixels}, "
                f"T={num_dates}, got shape {shape}"
            )
    abundances, variability = _numpy(draw["abundances"]), draw["variability"]
    if hasattr(variability, "detach"):  # a tensor must not keep the graph of its draw
        variability = variability.detach()
    if variability.shape[-1] != abundances.shape[-1]:
        raise ValueError(
            "sample_sequence must return as many materials in 'variability' as in 'abundances', "
            f"{abundances.shape[-1]}, got {variability.shape[-1]}"
        )
    return _numpy(draw["pixels"]), abundances, variability


def _numpy(values: Any) -> Array:
    """A numpy array of a numpy array or a torch tensor, wherever it lives."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    return np.asarray(values, dtype=np.float64)
