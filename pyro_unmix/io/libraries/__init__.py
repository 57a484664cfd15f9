"""Spectral libraries in: `library` is `read_library`, with one file a kind: `tables`, `envi`, `databases`.

`from_pixels` takes them from images, with `polygons`.
"""

from pyro_unmix.io.libraries.library import read_library

__all__ = [
    "read_library",
]
