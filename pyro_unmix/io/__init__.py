"""Files in and out.

`sequence` is `read_sequence`, the one call for images; it asks `registry` for the reader of a file, one of `formats`.
What a reader returns (`image`, `rows`) becomes reflectance by the rules of `reflectance`, with bands by
`spectral_axis` and `common_bands`, places by `grid`, and what the caller says in place of the file by `given`; `lazy`
does so by blocks. `masks` are pixels to leave out, `uncertainty` that of a
product. `libraries` reads spectral libraries and takes them from images,
`write` writes results, `integrity` notices damaged files. Whatever is wrong with a file is a `FileError` (`errors`).
"""

from __future__ import annotations

from pyro_unmix.io.errors import FileError
from pyro_unmix.io.image import Image
from pyro_unmix.io.libraries.from_pixels import library_from_pixels
from pyro_unmix.io.libraries.library import read_library
from pyro_unmix.io.masks import read_mask
from pyro_unmix.io.registry import Reader, find_reader, read_image
from pyro_unmix.io.sequence import read_sequence
from pyro_unmix.io.uncertainty import read_uncertainty
from pyro_unmix.io.write.libraries import write_library

__all__ = [
    "FileError",
    "Image",
    "Reader",
    "find_reader",
    "library_from_pixels",
    "read_image",
    "read_library",
    "read_mask",
    "read_sequence",
    "read_uncertainty",
    "write_library",
]
