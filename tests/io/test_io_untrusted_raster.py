"""Images of others: GDAL opens nothing that the image, or a file beside it, names."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from products import write_tiff

from pyro_unmix.data import crs as _crs
from pyro_unmix.io import FileError, read_sequence
from pyro_unmix.io.formats.raster_file import read_raster
from pyro_unmix.io.integrity import gdal

rasterio = pytest.importorskip("rasterio")

VALUES = np.random.default_rng(2).uniform(0.1, 0.5, (16, 20, 4)).astype("float32")
FLAGS = {f"INTERNAL_MASK_FLAGS_{band}": 2 for band in range(1, 5)}


def scene(folder: Path, **settings: Any) -> Path:
    return write_tiff(folder / "scene.tif", VALUES, **settings)


def mask(path: Path) -> Path:
    """A mask as GDAL writes it beside an image: nothing in the first row."""
    valid = np.full((16, 20, 1), 255, dtype="uint8")
    valid[0] = 0
    return write_tiff(path, valid, tags=FLAGS)


def virtual(source: Path) -> str:
    """The text of a virtual image whose numbers lie in another file."""
    flags = "".join(f'<MDI key="{name}">{value}</MDI>' for name, value in FLAGS.items())
    return (
        f'<VRTDataset rasterXSize="20" rasterYSize="16"><Metadata>{flags}</Metadata>'
        '<VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        f'<SourceFilename relativeToVRT="0">{source}</SourceFilename><SourceBand>1</SourceBand>'
        "</SimpleSource></VRTRasterBand></VRTDataset>"
    )


@pytest.mark.parametrize("chunks", [None, "auto"], ids=["whole", "lazy"])
def test_a_mask_beside_the_image_is_used(tmp_path: Path, chunks: Any) -> None:
    path = scene(tmp_path)
    mask(tmp_path / "scene.tif.msk")
    expected = VALUES.copy()
    expected[0] = np.nan
    np.testing.assert_array_equal(read_sequence(path, chunks=chunks)[0], expected)


@pytest.mark.parametrize("suffix", [".msk", ".MSK"])
@pytest.mark.parametrize("chunks", [None, "auto"], ids=["whole", "lazy"])
def test_a_mask_that_names_other_files_is_refused(tmp_path: Path, chunks: Any, suffix: str) -> None:
    path = scene(tmp_path)
    other = mask(tmp_path / "elsewhere" / "secret.tif")
    (tmp_path / f"scene.tif{suffix}").write_text(virtual(other))
    with pytest.raises(FileError, match="must be a TIFF file, as it is the mask of scene.tif"):
        read_sequence(path, chunks=chunks)


def test_a_broken_mask_is_refused(tmp_path: Path) -> None:
    path = scene(tmp_path)
    whole = mask(tmp_path / "scene.tif.msk").read_bytes()
    (tmp_path / "scene.tif.msk").write_bytes(whole[:-100])
    with pytest.raises(FileError, match="truncated"):
        read_sequence(path)


_SERVER = """
import http.server, pathlib, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        pathlib.Path(sys.argv[1]).touch()
        self.send_error(404)
    do_HEAD = do_GET
    def log_message(self, *args): pass
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Of a server (a process of its own: GDAL holds Python's lock) that makes the file `asked` at any request."""
    command = [sys.executable, "-c", _SERVER, str(tmp_path / "asked")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        server.kill()


@pytest.mark.parametrize("settings", [True, False])
def test_the_settings_alone_keep_the_network_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, settings: bool
) -> None:
    """Should GDAL follow a name to an address in spite of the checks, it is not fetched."""
    monkeypatch.setattr(gdal, "_check_sidecars", lambda path: None)
    if not settings:
        monkeypatch.setattr(gdal, "_SETTINGS", {})
    path = scene(tmp_path)
    source = Path(f"/vsicurl/{address.replace('//', '/-/')}/{settings}.tif")
    (tmp_path / "scene.tif.msk").write_text(virtual(source).replace("/-/", "//"))
    with pytest.raises(FileError):
        read_sequence(path)
    assert (tmp_path / "asked").exists() != settings


def test_world_files_and_auxiliary_metadata_are_read(tmp_path: Path) -> None:
    path = scene(tmp_path, crs=None, transform=None)
    (tmp_path / "scene.tfw").write_text("30\n0\n0\n-30\n500015\n4000000\n")
    bands = "".join(
        f'<PAMRasterBand band="{band}"><Scale>0.5</Scale></PAMRasterBand>' for band in range(1, 5)
    )
    (tmp_path / "scene.tif.aux.xml").write_text(f"<PAMDataset>{bands}</PAMDataset>")
    found = read_sequence(path)
    np.testing.assert_allclose(found[0], 0.5 * VALUES)
    assert found["x"][0] == 500015 and found["y"][1] == 4000000 - 30


@pytest.mark.parametrize("name", ["scene.tif.msk", "scene.tif.aux.xml", "scene.tfw", "scene.imd"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_is_no_file_beside_the_image_is_refused_at_once(
    tmp_path: Path, name: str, kind: str
) -> None:
    path = scene(tmp_path, crs=None, transform=None)
    if kind == "pipe":
        os.mkfifo(tmp_path / name)
    else:
        (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(FileError, match="must be a file, as it lies beside scene.tif"):
        read_sequence(path)


@pytest.mark.parametrize(
    ("image", "other"),
    [
        ("scene.tif", "METADATA.DIM"),
        ("scene_B1.tif", "scene_MTL.txt"),
        ("IMG_scene_R1C1.tif", "DIM_scene.XML"),
        ("IMG-01-scene.tif", "summary.txt"),
    ],
)
def test_metadata_of_satellites_in_the_folder_are_not_looked_for(
    tmp_path: Path, image: str, other: str
) -> None:
    path = scene(tmp_path).rename(tmp_path / image)
    os.mkfifo(tmp_path / other)
    np.testing.assert_array_equal(read_sequence(path)[0], VALUES)


def test_pipes_in_the_folder_of_jpeg_2000_are_refused(tmp_path: Path) -> None:
    numbers = (10_000 * VALUES[..., :1]).astype("uint16")
    settings = {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES"}
    path = write_tiff(tmp_path / "scene.jp2", numbers, **settings)
    np.testing.assert_array_equal(read_raster(path).values, numbers)
    os.mkfifo(tmp_path / "METADATA.DIM")
    with pytest.raises(FileError, match="METADATA.DIM: kind: must be a file, as it lies beside"):
        read_raster(path)


def test_large_auxiliary_metadata_are_refused(tmp_path: Path) -> None:
    path = scene(tmp_path)
    with (tmp_path / "scene.tif.aux.xml").open("wb") as file:
        file.truncate(2**27)
    with pytest.raises(FileError, match="expected at most"):
        read_sequence(path)


def test_settings_of_the_user_come_back(tmp_path: Path) -> None:
    path = scene(tmp_path)
    with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="TRUE"):
        read_sequence(path, chunks="auto").load()
        assert rasterio.env.getenv()["GDAL_DISABLE_READDIR_ON_OPEN"] in ("TRUE", True)
        assert "CPL_VSIL_CURL_ALLOWED_FILENAME" not in rasterio.env.getenv()


@pytest.mark.parametrize("prefix", ["", "/vsicurl/"])
def test_a_crs_is_never_looked_up_elsewhere(tmp_path: Path, address: str, prefix: str) -> None:
    """Without pyproj, rasterio decides, which takes such a text for an address."""
    text = f"{prefix}{address}/crs"
    assert not _crs._same_by_rasterio(text, "EPSG:4326")
    assert not _crs._same_by_rasterio("EPSG:4326", text)
    assert not (tmp_path / "asked").exists()


def test_all_spellings_of_a_crs_are_known_without_pyproj() -> None:
    from rasterio.crs import CRS

    crs = CRS.from_epsg(32633)
    spellings = ["EPSG:32633", " epsg:32633", "+proj=utm +zone=33 +datum=WGS84 +type=crs"]
    spellings += [crs.to_wkt(), crs.to_wkt(version="WKT1_ESRI"), "urn:ogc:def:crs:EPSG::32633"]
    for text in spellings:
        assert _crs._same_by_rasterio(text, crs.to_wkt()), text
