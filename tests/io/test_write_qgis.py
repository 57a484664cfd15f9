"""Styles for QGIS: read as XML, and by QGIS itself where it is installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest
from writer_cases import NORTH_UP, make_result

from pyro_unmix.io.write.qgis import style_name, style_of, styles
from pyro_unmix.plots import MATERIAL_COLOURS

pytest.importorskip("rioxarray")
#: The interpreter that QGIS's own modules are installed for.
SYSTEM_PYTHON = shutil.which("python3", path="/usr/bin")
#: What QGIS says of a file that it opens: renderer, band, and colours with labels.
LOOK = """
import sys
from qgis.core import QgsApplication, QgsRasterLayer
application = QgsApplication([], False)
application.initQgis()
for path in sys.argv[1:]:
    layer = QgsRasterLayer(path)
    assert layer.isValid(), layer.error().summary()
    renderer = layer.renderer()
    items = renderer.shader().rasterShaderFunction().colorRampItemList()
    print(renderer.type(), renderer.band(), layer.bandName(1),
          *(f"{i.value:g}={i.label}={i.color.name()}" for i in items), sep="|")
"""


def has_qgis() -> bool:
    if SYSTEM_PYTHON is None:
        return False
    return (
        subprocess.run([SYSTEM_PYTHON, "-c", "import qgis.core"], capture_output=True).returncode
        == 0
    )


def test_a_style_has_the_names_and_the_colours_of_pictures() -> None:
    for position, name in enumerate(["soil", 'dry & "wet" <grass>', "Wasser öl"]):
        root = ElementTree.fromstring(style_of(name, position).partition("\n")[2])
        renderer = root.find("pipe/rasterrenderer")
        assert root.tag == "qgis" and renderer is not None
        assert renderer.get("band") == str(position + 1)
        items = [item.attrib for item in root.iter("item")]
        assert [item["value"] for item in items] == ["0", "1"]
        assert [item["label"] for item in items] == [f"{name}: 0", f"{name}: 1"]
        assert items[1]["color"] == MATERIAL_COLOURS[position].lower()


def test_control_characters_are_left_out_of_names() -> None:
    root = ElementTree.fromstring(style_of("so\x00il\x1b\n\ud800 \ufffe2", 0).partition("\n")[2])
    assert [item.get("label") for item in root.iter("item")] == ["soil 2: 0", "soil 2: 1"]


def test_names_of_files_are_plain_and_differ() -> None:
    names = ["soil", "a/b", "a b", "../..", "Öl", "x" * 200]
    files = [style_name(name, p) for p, name in enumerate(names)]
    assert files[:4] == ["style_0_soil.qml", "style_1_a_b.qml", "style_2_a_b.qml", "style_3.qml"]
    assert files[4] == "style_4_Ol.qml"
    assert len(set(files)) == len(files) and max(map(len, files)) < 60
    assert set(styles(["soil"], ["abundances_0"])) == {"abundances_0.qml", "style_0_soil.qml"}


def test_styles_are_not_replaced_unasked(tmp_path: Path) -> None:
    pytest.importorskip("rasterio")
    result = make_result(NORTH_UP)
    result.to_geotiff(tmp_path)
    for path in tmp_path.glob("*.tif"):
        path.unlink()
    with pytest.raises(FileExistsError, match="qml"):
        result.to_geotiff(tmp_path)
    assert not list(tmp_path.glob("*.tif"))
    result.to_geotiff(tmp_path, overwrite=True)


@pytest.mark.slow
def test_qgis_takes_the_style(tmp_path: Path) -> None:
    if not has_qgis():
        pytest.skip("needs QGIS")
    pytest.importorskip("rasterio")
    result = make_result(NORTH_UP)
    paths = [p for p in result.to_geotiff(tmp_path) if not p.stem.endswith("_std")]
    run = subprocess.run(
        [str(SYSTEM_PYTHON), "-c", LOOK, *map(str, paths)],
        capture_output=True, text=True, check=True, env={"QT_QPA_PLATFORM": "offscreen", "HOME": str(tmp_path)},
    )  # fmt: skip
    name = str(result.abundances["endmember"].values[0])
    colour = MATERIAL_COLOURS[0].lower()
    told = [line for line in run.stdout.splitlines() if "|" in line]
    assert told == [
        f"singlebandpseudocolor|1|Band 1: {name}|0={name}: 0=#ffffff|1={name}: 1={colour}"
    ] * len(paths)
