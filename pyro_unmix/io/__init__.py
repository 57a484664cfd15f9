"""Files in: one file per format, one table of them (`registry`), one call for all of them."""

from __future__ import annotations

from pyro_unmix.io.errors import FileError
from pyro_unmix.io.library import read_library
from pyro_unmix.io.sequence import read_sequence

__all__ = ["FileError", "read_library", "read_sequence"]
