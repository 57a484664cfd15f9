"""``pyro-unmix endmembers``: the spectra of the materials in image files."""

from __future__ import annotations

import argparse
import csv
import os
from pathlib import Path

import numpy as np
import xarray as xr

from pyro_unmix.cli import arguments as options
from pyro_unmix.cli.arguments import Commands
from pyro_unmix.cli.console import BadInput, bad_input, say, say_json
from pyro_unmix.data.names import material_names
from pyro_unmix.io.write.datasets import cf_dataset, workshop
from pyro_unmix.io.write.libraries import write_sli
from pyro_unmix.io.write.whole_files import write_netcdf4

_SUFFIXES = (".csv", ".nc", ".sli")


def add_command(commands: Commands) -> None:
    command = commands.add_parser(
        "endmembers",
        help="extract the spectra of the materials",
        usage="%(prog)s FILE... --number N|auto --out FILE.csv|.nc|.sli [options]",
        description="Extract the spectra of the materials as unmix does before it starts, and write "
        "them as a table, NetCDF or ENVI spectral library, which unmix --endmembers reads.",
    )
    options.add_files(command)
    command.add_argument(
        "--number",
        type=options.count_or_auto,
        required=True,
        metavar="N",
        help="number of materials, or 'auto' (no default)",
    )
    command.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help=f"file to write, {', '.join(_SUFFIXES)}; one that is there is replaced (no default)",
    )
    options.add_seed(command)
    options.add_json(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    from pyro_unmix.start import choose_start, estimate_num_endmembers

    path = options.out_file(arguments.out, _SUFFIXES)
    cubes = options.read_files(arguments)
    suffix = path.suffix.lower()
    if suffix != ".nc" and "wavelength" not in cubes.coords:
        raise BadInput(f"the images have no wavelengths, without which {suffix} is no library: "
                       "write .nc")  # fmt: skip
    with bad_input():
        count = arguments.number
        if count == "auto":
            count = estimate_num_endmembers(cubes, seed=arguments.seed)
        start = choose_start(cubes, count, seed=arguments.seed)
        written = _write(start.endmembers, path)
    spectra = start.endmembers
    if arguments.json:
        bands = spectra["wavelength"].values if "wavelength" in spectra.coords else None
        say_json(
            {
                "files": arguments.files,
                "number": count,
                "noise_scale": start.noise_scale,
                "wavelength_nm": bands,
                "reflectance": dict(zip(material_names(spectra), spectra.values.T, strict=True)),
                "written": written,
            }
        )
        return
    say(f"Wrote {', '.join(map(str, written))}: {count} materials, {len(spectra)} bands")


def _write(spectra: xr.DataArray, path: Path) -> list[Path]:
    """The files, which appear whole or not at all."""
    labels = material_names(spectra)
    with workshop(path.parent) as folder:
        if path.suffix.lower() == ".csv":
            _write_csv(spectra, labels, folder / path.name)
            files = {path.name: path}
        elif path.suffix.lower() == ".nc":
            library = spectra.assign_coords(label=("endmember", labels))
            dataset = library.rename("reference_endmembers").to_dataset()
            write_netcdf4(cf_dataset(dataset), folder / path.name)
            files = {path.name: path}
        else:
            made = write_sli(spectra, labels, folder / path.name, "endmembers")
            targets = (path, path.with_suffix(".hdr"))
            files = {new.name: target for new, target in zip(made, targets, strict=True)}
        for name, target in files.items():
            os.replace(folder / name, target)
    return list(files.values())


def _write_csv(spectra: xr.DataArray, labels: list[str], path: Path) -> None:
    """One spectrum per row; the header holds the wavelengths in nm."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        bands = spectra["wavelength"].values.astype(np.float64)
        writer.writerow(["label", *map(repr, bands.tolist())])
        for label, values in zip(labels, spectra.values.T, strict=True):
            writer.writerow([label, *map(repr, values.tolist())])
