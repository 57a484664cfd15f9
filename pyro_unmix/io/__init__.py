"""Files in and out.

`sequence` is `read_sequence`, the one call for images, and `opening` what methods do with paths; it asks `registry`
for the reader of a file, one of `formats`. What a reader returns (`image`, `rows`) becomes reflectance by the rules of
`reflectance`, with bands by `spectral_axis` and `common_bands`, places by `grid`, and what the caller says in place of
the file by `given`; `lazy` does so by blocks. `masks` are pixels to leave out, `uncertainty` that of a product.
`libraries` reads spectral libraries and takes them from images, `write` writes results, `integrity` notices damaged
files. Whatever is wrong with a file is a `FileError` (`errors`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyro_unmix.ops.lazy_names import lazy_names

if TYPE_CHECKING:
    from pyro_unmix.io.errors import FileError as FileError
    from pyro_unmix.io.image import Image as Image
    from pyro_unmix.io.libraries.from_pixels import library_from_pixels as library_from_pixels
    from pyro_unmix.io.libraries.library import read_library as read_library
    from pyro_unmix.io.masks import read_mask as read_mask
    from pyro_unmix.io.opening import open_images as open_images
    from pyro_unmix.io.registry import Reader as Reader
    from pyro_unmix.io.registry import find_reader as find_reader
    from pyro_unmix.io.registry import read_image as read_image
    from pyro_unmix.io.sequence import read_sequence as read_sequence
    from pyro_unmix.io.uncertainty import read_uncertainty as read_uncertainty
    from pyro_unmix.io.write.libraries import write_library as write_library

# An error, or a result to write, needs none of the readers.
_HOMES = {
    "FileError": "errors",
    "Image": "image",
    "Reader": "registry",
    "find_reader": "registry",
    "library_from_pixels": "libraries.from_pixels",
    "open_images": "opening",
    "read_image": "registry",
    "read_library": "libraries.library",
    "read_mask": "masks",
    "read_sequence": "sequence",
    "read_uncertainty": "uncertainty",
    "write_library": "write.libraries",
}

__all__ = [*_HOMES]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
