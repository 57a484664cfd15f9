"""What a material is called where people read it: one rule for files, pictures and tables."""

from __future__ import annotations

from collections.abc import Hashable

import xarray as xr


def material_name(label: Hashable) -> str:
    """A name as it is; the number of an unnamed material, which a map cannot do without, as "material 0"."""
    return str(label) if isinstance(label, str) else f"material {label}"


def material_names(array: xr.DataArray | xr.Dataset) -> list[str]:
    """Names along the dim `endmember`: of its labels, or of the positions where there are none."""
    if "endmember" in array.coords:
        return [material_name(label) for label in array["endmember"].to_numpy().tolist()]
    return [material_name(position) for position in range(array.sizes["endmember"])]
