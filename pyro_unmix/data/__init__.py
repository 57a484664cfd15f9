"""The data contract: what images and spectral libraries are, once they are inside.

`cubes` makes one labelled array (time, y, x, wavelength) of what users have (`cube_input`) and holds pixels and
validity; `windows` are neighbourhoods; `lazy` does so for images in chunks; `ignored` leaves bands out. `libraries`
are spectra with classes, resampled to a scene's bands, `merging` makes one of several, `selection` few of many;
`library_checks` says what tells that they are no reflectance. `checks` says what endmembers, dates,
wavelengths and reflectance must be; `bands`, `crs`, `days` and `names` when two of them are the same; `types` what
functions take. Reading files is the business of `pyro_unmix.io`.
"""

from pyro_unmix.data.cubes import as_cube_sequence, from_pixels, to_pixels, valid_mask
from pyro_unmix.data.ignored import without_bands
from pyro_unmix.data.lazy import as_lazy_cubes
from pyro_unmix.data.libraries import is_library, library_endmembers, resample_library
from pyro_unmix.data.merging import merge_libraries
from pyro_unmix.data.selection import (
    library_scores,
    select_from_library,
    select_iteratively,
    square_array,
)

__all__ = [
    "as_cube_sequence",
    "as_lazy_cubes",
    "from_pixels",
    "is_library",
    "library_endmembers",
    "library_scores",
    "merge_libraries",
    "resample_library",
    "select_from_library",
    "select_iteratively",
    "square_array",
    "to_pixels",
    "valid_mask",
    "without_bands",
]
