"""Files in and out.

`sequence` is `read_sequence`, the one call for images, and `opening` what methods do with paths; it asks `registry`
for the reader of a file, one of `formats`. What a reader returns (`image`, `rows`) becomes reflectance by the rules of
`reflectance`, with bands by `spectral_axis` and `common_bands`, places by `grid`, and what the caller says in place of
the file by `given`; `lazy` does so by blocks. `libraries` reads spectral libraries, `write` writes results,
`integrity` notices damaged files.
Whatever is wrong with a file is a `FileError` (`errors`).
"""

from __future__ import annotations

from pyro_unmix.io.errors import FileError
from pyro_unmix.io.image import Image
from pyro_unmix.io.libraries.library import read_library
from pyro_unmix.io.opening import open_images
from pyro_unmix.io.registry import Reader, find_reader, read_image
from pyro_unmix.io.sequence import read_sequence

__all__ = [
    "FileError",
    "Image",
    "Reader",
    "find_reader",
    "open_images",
    "read_image",
    "read_library",
    "read_sequence",
]
