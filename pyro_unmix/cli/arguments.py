"""Options that several commands share, and the conversion of their texts."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from pyro_unmix.cli.console import BadInput, bad_input
from pyro_unmix.data.bands import IGNORED, ignored_ranges

if TYPE_CHECKING:
    import xarray as xr

#: What commands are added to.
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
READING = ("scale", "offset", "wavelength_unit", "nodata", "ignore")
_BLOCK = 256  # rows and columns that are read at once, where a part of an image is asked for


class _Help(argparse.HelpFormatter):
    """Two columns, the second one far enough to the right for all options."""

    def __init__(self, prog: str, **settings: Any) -> None:
        super().__init__(prog, **{"max_help_position": 26, **settings})


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage around it."""

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("formatter_class", _Help)
        super().__init__(**settings)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def add_files(parser: argparse.ArgumentParser, *, dates: bool = True) -> None:
    """FILE..., and how files are read."""
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="image; several are joined in time, by their dates if any",
    )
    group = parser.add_argument_group("reading (by default as the files say)")
    group.add_argument(
        "--scale",
        type=number(positive=True),
        metavar="S",
        help="reflectance = stored x S + offset (default: of the file)",
    )
    group.add_argument(
        "--offset",
        type=number(),
        metavar="O",
        help="reflectance = stored x scale + O (default: of the file)",
    )
    group.add_argument(
        "--wavelength-unit",
        choices=["nm", "um", "none"],
        metavar="UNIT",
        help="nm, um, or none for no wavelengths (default: of the file)",
    )
    group.add_argument(
        "--nodata",
        type=number(),
        metavar="V",
        help="stored value that marks missing pixels (default: of the file)",
    )
    add_ignore(group)
    if dates:
        group.add_argument(
            "--dates",
            type=_dates,
            metavar="D,D,...",
            help="ISO dates or numbers, one per image (default: of the files)",
        )
        group.add_argument(
            "--mask",
            action="append",
            metavar="FILE",
            help="leave out its pixels above 0; one, one for each image, or 'product', the quality layers beside it "
            "(default: none)",
        )
        group.add_argument(
            "--window",
            type=whole_number(0),
            nargs=4,
            metavar="N",
            help="row, column (from 0), height, width to take (default: all)",
        )


def add_ignore(group: Any) -> None:
    group.add_argument(
        "--ignore",
        type=_ignored,
        metavar="RANGES",
        help=f"bands, nm: 0-440,1310-1490, {', '.join(IGNORED)} (default: none)",
    )


def read_files(arguments: argparse.Namespace, chunks: int | None = None) -> xr.DataArray:
    """The files of the command line as one sequence, with chunks in blocks of so many rows and columns."""
    part = windowed(read_whole(arguments, chunks), arguments)
    if arguments.window is None or chunks is not None:
        return part
    with bad_input():
        return part.load()


def read_whole(arguments: argparse.Namespace, chunks: int | None = None) -> xr.DataArray:
    """As `read_files`, all rows and columns; where a part of them is asked for, in chunks if that can be."""
    from pyro_unmix.io import read_sequence

    settings = {name: getattr(arguments, name) for name in READING}
    settings |= {"dates": arguments.dates, "masks": _masks(arguments)}
    with bad_input():
        lazy = chunks is not None or (
            arguments.window is not None and find_spec("dask") is not None
        )
        return read_sequence(
            arguments.files, chunks=(chunks or _BLOCK) if lazy else None, **settings
        )


def windowed(images: xr.DataArray, arguments: argparse.Namespace) -> xr.DataArray:
    """The rows and columns that are asked for, of images or masks of the files."""
    if arguments.window is None:
        return images
    row, column, height, width = arguments.window
    rows, columns = images.sizes["y"], images.sizes["x"]
    if not (height and width and row + height <= rows and column + width <= columns):
        raise BadInput(
            f"--window {row} {column} {height} {width} must lie within the {rows} rows and {columns} columns of the "
            "images, with one pixel at least"
        )
    return images.isel(y=slice(row, row + height), x=slice(column, column + width))


def _masks(arguments: argparse.Namespace) -> str | list[str] | None:
    given: list[str] | None = arguments.mask
    return given[0] if given is not None and len(given) == 1 else given


def add_out_folder(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(default),
        metavar="DIR",
        help="where to write, replacing files (default: ./%(default)s)",
    )


def add_seed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seed", type=whole_number(0), default=0, help="of everything random (default: 0)"
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json", action="store_true", help="print a JSON object instead (default: off)"
    )


def make_folder(path: Path) -> Path:
    """Made before the work, so that a bad path does not cost the result."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot write to --out {path}: {error.strerror}") from error
    return path


def out_file(path: Path, suffixes: tuple[str, ...]) -> Path:
    """A file with one of the suffixes, in a folder that is there."""
    if path.suffix.lower() not in suffixes:
        raise BadInput(f"expected --out with one of the suffixes {', '.join(suffixes)}, got {path}")
    if path.is_dir():
        raise BadInput(f"cannot write to --out {path}: it is a folder")
    make_folder(path.parent)
    return path


def whole_number(minimum: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = minimum - 1
        if value < minimum:
            raise argparse.ArgumentTypeError(
                f"expected a whole number of at least {minimum}, got {text!r}"
            )
        return value

    return convert


def library(text: str) -> Path:
    """The file or folder of a spectral library, or "earthlib"."""
    if text != "earthlib" and not Path(text).exists():
        raise argparse.ArgumentTypeError(
            f"expected a spectral library, a file, a folder or 'earthlib', got {text!r}: there is no such file"
        )
    return Path(text)


def add_library_reading(group: Any, prefix: str = "") -> None:
    """How a library is read, options with a prefix such as "library-"."""
    group.add_argument(
        f"--{prefix}label", metavar="COLUMN", help="the class (default: of the file)"
    )
    group.add_argument(
        f"--{prefix}classes", type=_names, metavar="C,C", help="those to keep (default: all)"
    )
    group.add_argument(
        f"--{prefix}unit", choices=["nm", "um"], help="of its wavelengths (default: of the file)"
    )
    group.add_argument(
        f"--{prefix}scale",
        type=number(positive=True),
        metavar="S",
        help="reflectance = stored x S (default: of the file)",
    )


def count_or_auto(text: str) -> int | str:
    """A number of materials, or "auto"."""
    return text if text == "auto" else whole_number(2)(text)


def materials(text: str) -> int | str | Path:
    """A number of materials, "auto", or a spectral library."""
    if re.fullmatch(r"[-+]?[\d.]+", text) or text == "auto":
        return count_or_auto(text)
    if text == "earthlib" or Path(text).exists():
        return Path(text)
    raise argparse.ArgumentTypeError(
        "expected a whole number of at least 2, 'auto' or the file of a spectral library, got "
        f"{text!r}: there is no such file"
    )


def number(*, positive: bool = False) -> Callable[[str], float]:
    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or (positive and value <= 0):
            kind = "a positive number" if positive else "a number"
            raise argparse.ArgumentTypeError(f"expected {kind}, got {text!r}")
        return value

    return convert


def _ignored(text: str) -> str:
    try:
        ignored_ranges(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("ignore must be ")) from error
    return text


def _names(text: str) -> list[str]:
    names = [part.strip() for part in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"expected names with commas between, got {text!r}")
    return names


def _dates(text: str) -> list[Any]:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise argparse.ArgumentTypeError(f"expected one date or number per image, got {text!r}")
    if any(re.fullmatch(r"\d{8}", part) for part in parts):
        # A date or a number of days: not to be guessed.
        raise argparse.ArgumentTypeError(f"write dates as 2021-07-31, got {text!r}")
    try:
        return [float(part) for part in parts]
    except ValueError:
        return parts
