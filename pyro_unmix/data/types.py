"""What functions take: images, dates, programs, and what scores and pictures read of a result or a scene."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr

if TYPE_CHECKING:
    from torch import Tensor

#: What `as_cube_sequence` takes.
CubesLike: TypeAlias = np.ndarray | xr.DataArray | Sequence[np.ndarray] | Sequence[xr.DataArray]
#: What methods and engines take: images, or the files, or the folder, that they are in.
ImagesLike: TypeAlias = (
    CubesLike
    | str
    | os.PathLike[str]
    | Sequence[str | os.PathLike[str]]
    | Iterator[str | os.PathLike[str]]
)
#: Dates: numpy's, datetimes, ISO strings or numbers of days; of one image or several.
DatesLike: TypeAlias = npt.ArrayLike | xr.DataArray | date | Sequence[Any]


class HasAbundances(Protocol):
    """A result of any method, or a simulated scene."""

    @property
    def abundances(self) -> xr.DataArray: ...


class HasSpectra(HasAbundances, Protocol):
    """One that knows the endmembers of every pixel of a date."""

    def endmembers(self, time: int = ...) -> xr.DataArray: ...


class HasImages(HasSpectra, Protocol):
    """One that makes images of them."""

    def reconstruct(self, time: int = ...) -> xr.DataArray: ...


class Truth(HasSpectra, Protocol):
    """A scene whose abundances and endmembers are known."""

    @property
    def cubes(self) -> xr.DataArray: ...


class ModelProgram(Protocol):
    """A generative program."""

    def __call__(
        self,
        pixels: Tensor,
        valid: Tensor,
        *,
        index: Tensor | None = ...,
        size: int | None = ...,
        features: Mapping[str, Tensor] | None = ...,
    ) -> Any: ...


#: A variational program, called alike: the latent sites of a `ModelProgram`.
GuideProgram: TypeAlias = ModelProgram
