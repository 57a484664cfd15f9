"""What lies beside the reflectance of an EMIT scene: its mask and its uncertainty, which their names tell."""

from __future__ import annotations

import re
from pathlib import Path

#: When a scene was acquired, in names of files.
STAMP = re.compile(r"(?<!\d)20\d{6}(?:T\d{6})?(?!\d)")
_REFLECTANCE = "_RFL_"


def is_reflectance(file: Path) -> bool:
    """Whether a file is called as the reflectance of a scene is, ``EMIT_L2A_RFL_*``."""
    return _REFLECTANCE in file.name


def expected_companion(file: Path, product: str) -> Path:
    """What another product of the same scene and version would be called."""
    return file.with_name(file.name.replace(_REFLECTANCE, f"_{product}_", 1))


def companion(file: Path, product: str) -> Path | None:
    """Another product of the scene of a reflectance file, in its folder, such as its "MASK".

    That of the same version; else the newest one with its time: reflectance 001 has masks 001 and 002, reflectance 002
    masks 003, whose names lack orbit and scene.
    """
    same = expected_companion(file, product)
    if same.is_file():
        return same
    stamp = STAMP.search(file.name)
    if stamp is None:
        return None
    others = sorted(file.parent.glob(f"*_{product}_*{stamp[0]}*{file.suffix}"))
    return others[-1] if others else None
