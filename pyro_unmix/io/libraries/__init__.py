"""Spectral libraries in: `library` is `read_library`, the rest one file a kind: `tables`, `envi`, `databases`."""

from pyro_unmix.io.libraries.library import read_library

__all__ = [
    "read_library",
]
