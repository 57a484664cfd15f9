"""Tiny files in the layouts of public satellite products, for tests.

No sample file of these products is freely available without an account, so the files here are built
to the public specifications, and only as far as a reader needs them:

- EnMAP L2A: "EnMAP HSI Level 1B/1C/2A Product Specification", EN-PCV-ICD-2009-2 (DLR).
- DESIS L2A: "DESIS Product Specification", PAV-DLR-ICD-003 (DLR).
- Sentinel-2 L1C/L2A: "Sentinel-2 Products Specification Document", S2-PDGS-TAS-DI-PSD, issue 14
  (ESA).
- EMIT L2A: "EMIT L2A Algorithm and product user guide", EMITL2ARFL.001 (NASA LP DAAC).
- PRISMA L2D: "PRISMA Products Specification Document", issue 2.3 of 12/03/2020 (ASI).

Every builder takes the stored numbers (y, x, band) and writes what the product would hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import rasterio
from rasterio.transform import Affine

UTM33 = "EPSG:32633"
GRID = Affine(30.0, 0.0, 366000.0, 0.0, -30.0, 5806140.0)
NODATA = -32768
S2_BANDS = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12")


def cube(height: int = 4, width: int = 5, bands: int = 6, dtype: str = "int16") -> np.ndarray:
    """Numbers (y, x, band) that are all different, so that no swapped axis goes unnoticed."""
    return np.arange(100, 100 + height * width * bands).reshape(height, width, bands).astype(dtype)


def write_tiff(
    path: Path,
    values: np.ndarray,
    *,
    crs: str | None = UTM33,
    transform: Affine | None = GRID,
    nodata: float | None = None,
    tags: Mapping[str, Any] | None = None,
    band_tags: Sequence[Mapping[str, Any]] | None = None,
    namespaced: Mapping[str, Mapping[str, Any]] | None = None,
    descriptions: Sequence[str] | None = None,
    scales: Sequence[float] | None = None,
    offsets: Sequence[float] | None = None,
    **profile: Any,
) -> Path:
    """A GeoTIFF of `values` (y, x, band), as GDAL writes it."""
    height, width, count = values.shape
    options: dict[str, Any] = {
        "driver": "GTiff",
        "height": height,
        "width": width,
        "count": count,
        "dtype": values.dtype,
        "crs": crs,
        "transform": transform,
        "nodata": nodata,
    }
    options.update(profile)
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", **options) as file:
        file.write(np.moveaxis(values, -1, 0))
        file.update_tags(**(tags or {}))
        for namespace, content in (namespaced or {}).items():
            file.update_tags(ns=namespace, **content)
        for band, content in enumerate(band_tags or [], start=1):
            file.update_tags(band, **content)
        if descriptions is not None:
            file.descriptions = tuple(descriptions)
        if scales is not None:
            file.scales = tuple(scales)
        if offsets is not None:
            file.offsets = tuple(offsets)
    return path


def write_enmap(
    folder: Path,
    values: np.ndarray,
    wavelength: Sequence[float],
    *,
    fwhm: float = 8.0,
    gain: float | Sequence[float] = 1e-4,
    level: str = "L2A",
    start: str = "2022-07-24T10:45:26.123456Z",
    stem: str = "ENMAP01-____L2A-DT0000001867_20220724T104526Z_008_V010302_20230628T165614Z",
    **tiff: Any,
) -> Path:
    """An EnMAP product: spectral image and METADATA.XML. Returns the metadata file."""
    folder.mkdir(parents=True, exist_ok=True)
    gains = np.broadcast_to(np.asarray(gain, dtype=float), (len(wavelength),))
    bands = "".join(
        f'<bandID number="{number}"><wavelengthCenterOfBand>{centre}</wavelengthCenterOfBand>'
        f"<FWHMOfBand>{fwhm}</FWHMOfBand><GainOfBand>{g}</GainOfBand>"
        "<OffsetOfBand>0</OffsetOfBand></bandID>"
        for number, (centre, g) in enumerate(zip(wavelength, gains, strict=True), start=1)
    )
    metadata = folder / f"{stem}-METADATA.XML"
    metadata.write_text(
        '<?xml version="1.0" encoding="UTF-8"?><level_X '
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">'
        f"<metadata><name>{stem}-METADATA.XML</name></metadata>"
        f"<base><format>ENMAP_{level}</format><level>{level}</level><temporalCoverage>"
        f"<startTime>{start}</startTime><stopTime>{start}</stopTime></temporalCoverage></base>"
        "<specific><qualityFlag><cloudCover>12</cloudCover></qualityFlag>"
        f"<backgroundValue>{NODATA}</backgroundValue>"
        f"<bandCharacterisation>{bands}</bandCharacterisation></specific></level_X>"
    )
    write_tiff(folder / f"{stem}-SPECTRAL_IMAGE.TIF", values, **{"nodata": NODATA, **tiff})
    # A layer that a reader must not take for the image.
    write_tiff(folder / f"{stem}-QL_PIXELMASK.TIF", np.zeros_like(values, dtype="uint8"))
    return metadata


def write_desis(
    folder: Path,
    values: np.ndarray,
    wavelength: Sequence[float],
    *,
    gain: Sequence[float] | None = None,
    offset: Sequence[float] | None = None,
    start: str = "2020-06-01T23:45:20.512000Z",
    stem: str = "DESIS-HSI-L2A-DT0884573241_001-20200601T234520-V0210",
) -> Path:
    """A DESIS product: spectral image (interleaved by pixel, compressed) and METADATA.xml."""
    folder.mkdir(parents=True, exist_ok=True)
    gain = [1e-4] * len(wavelength) if gain is None else gain
    offset = [0.0] * len(wavelength) if offset is None else offset
    bands = "".join(
        f"<band><bandNumber>{number}</bandNumber><wavelengthCenterOfBand>{centre}"
        "</wavelengthCenterOfBand><wavelengthWidthOfBand>3.5</wavelengthWidthOfBand>"
        f"<response>0.1,0.9</response><wavelengths>{centre - 1},{centre}</wavelengths>"
        f"<gainOfBand>{g}</gainOfBand><offsetOfBand>{o}</offsetOfBand></band>"
        for number, (centre, g, o) in enumerate(zip(wavelength, gain, offset, strict=True), 1)
    )
    metadata = folder / f"{stem}-METADATA.xml"
    metadata.write_text(
        '<?xml version="1.0" encoding="UTF-8"?><hsi_doc><metadata><mission>DESIS</mission>'
        f"</metadata><processing/><base><temporalCoverage><startTime>{start}</startTime>"
        f"<endTime>{start}</endTime></temporalCoverage></base><specific>"
        # Elements of the same name that hold the geometry, not the spectrum.
        "<interiorOrientation><band><bandNumber>1</bandNumber></band></interiorOrientation>"
        f"<bandCharacterisation>{bands}</bandCharacterisation></specific></hsi_doc>"
    )
    image = folder / f"{stem}-SPECTRAL_IMAGE.tif"
    write_tiff(image, values, nodata=NODATA, interleave="pixel", compress="deflate")
    return metadata


def write_safe(
    folder: Path,
    bands: Mapping[str, np.ndarray],
    *,
    level: str = "2A",
    baseline: str = "05.11",
    offset: int | None = -1000,
    resolution: int = 20,
    start: str = "2024-08-30T10:05:59.024Z",
    satellite: str = "S2B",
    spectral: bool = True,
) -> Path:
    """A Sentinel-2 .SAFE folder with bands (y, x) as lossless JPEG 2000. Returns the folder."""
    stamp = start.replace("-", "").replace(":", "")[:15]
    safe = folder / f"{satellite}_MSIL{level}_{stamp}_N0511_R022_T32TPS_20240830T134009.SAFE"
    images = safe / "GRANULE" / f"L{level}_T32TPS_A038765_{stamp}" / "IMG_DATA"
    suffix = ""
    if level == "2A":
        images, suffix = images / f"R{resolution}m", f"_{resolution}m"
    images.mkdir(parents=True, exist_ok=True)
    write_s2_metadata(
        safe / f"MTD_MSIL{level}.xml", level, baseline, offset, start, satellite, spectral
    )
    grid = Affine(resolution, 0.0, 600000.0, 0.0, -resolution, 5100000.0)
    for name, values in bands.items():
        padded = name if len(name) > 2 else f"B0{name[1:]}"
        write_tiff(
            images / f"T32TPS_{stamp}_{padded}{suffix}.jp2",
            values[..., np.newaxis],
            crs="EPSG:32632",
            transform=grid,
            driver="JP2OpenJPEG",
            QUALITY="100",
            REVERSIBLE="YES",
        )
    return safe


def write_s2_metadata(
    path: Path,
    level: str = "2A",
    baseline: str = "05.11",
    offset: int | None = -1000,
    start: str = "2024-08-30T10:05:59.024Z",
    satellite: str = "S2B",
    spectral: bool = True,
) -> Path:
    """The product metadata MTD_MSIL1C.xml or MTD_MSIL2A.xml."""
    kind = "BOA" if level == "2A" else "RADIO"
    quantification = (
        "<QUANTIFICATION_VALUES_LIST><BOA_QUANTIFICATION_VALUE unit='none'>10000"
        "</BOA_QUANTIFICATION_VALUE></QUANTIFICATION_VALUES_LIST>"
        if level == "2A"
        else "<QUANTIFICATION_VALUE unit='none'>10000</QUANTIFICATION_VALUE>"
    )
    offsets = ""
    if offset is not None:
        listed = "".join(
            f'<{kind}_ADD_OFFSET band_id="{i}">{offset}</{kind}_ADD_OFFSET>'
            for i in range(len(S2_BANDS))
        )
        name = "BOA_ADD_OFFSET_VALUES_LIST" if level == "2A" else "Radiometric_Offset_List"
        offsets = f"<{name}>{listed}</{name}>"
    centres = [442.3, 492.1, 559.0, 665.0, 703.8, 739.1, 779.7, 833.0, 864.0, 943.2, 1376.9, 1610.4]
    centres.append(2185.7)
    information = "".join(
        f'<Spectral_Information bandId="{i}" physicalBand="{band}"><RESOLUTION>20</RESOLUTION>'
        f'<Wavelength><MIN unit="nm">{centre - 10}</MIN><MAX unit="nm">{centre + 10}</MAX>'
        f'<CENTRAL unit="nm">{centre}</CENTRAL></Wavelength></Spectral_Information>'
        for i, (band, centre) in enumerate(zip(S2_BANDS, centres, strict=True))
    )
    image = f"<Product_Image_Characteristics>{quantification}{offsets}"
    if spectral:
        image += f"<Spectral_Information_List>{information}</Spectral_Information_List>"
    path.write_text(
        f'<?xml version="1.0" encoding="UTF-8"?><n1:Level-{level}_User_Product '
        'xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/User_Product_Level-2A.xsd">'
        f"<n1:General_Info><Product_Info><PRODUCT_START_TIME>{start}</PRODUCT_START_TIME>"
        f"<PROCESSING_BASELINE>{baseline}</PROCESSING_BASELINE><Datatake>"
        f"<SPACECRAFT_NAME>Sentinel-{satellite[1:]}</SPACECRAFT_NAME></Datatake></Product_Info>"
        f"{image}<Special_Values><SPECIAL_VALUE_TEXT>NODATA</SPECIAL_VALUE_TEXT>"
        "<SPECIAL_VALUE_INDEX>0</SPECIAL_VALUE_INDEX></Special_Values><Special_Values>"
        "<SPECIAL_VALUE_TEXT>SATURATED</SPECIAL_VALUE_TEXT><SPECIAL_VALUE_INDEX>65535"
        "</SPECIAL_VALUE_INDEX></Special_Values></Product_Image_Characteristics>"
        f"</n1:General_Info></n1:Level-{level}_User_Product>"
    )
    return path


def write_emit(
    path: Path,
    values: np.ndarray,
    wavelength: Sequence[float],
    *,
    good: Sequence[int] | None = None,
    units: str | None = "nm",
    start: str | None = "2022-08-17T10:05:33+0000",
    **storage: Any,
) -> Path:
    """An EMIT L2A reflectance file (downtrack, crosstrack, bands), fill -9999."""
    with h5py.File(path, "w") as file:
        file.attrs["title"] = "EMIT L2A Estimated Surface Reflectance 60 m V001"
        if start is not None:
            file.attrs["time_coverage_start"] = start
        file.attrs["geotransform"] = [9.0, 0.0005, 0.0, 27.0, 0.0, -0.0005]
        for name, size in zip(("downtrack", "crosstrack", "bands"), values.shape, strict=True):
            file[name] = np.arange(size, dtype="f4")
            file[name].make_scale(name)
        cube = file.create_dataset("reflectance", data=values.astype("f4"), **storage)
        cube.attrs["_FillValue"] = np.array([-9999.0], dtype="f4")
        cube.attrs["units"] = "unitless"
        for axis, name in enumerate(("downtrack", "crosstrack", "bands")):
            cube.dims[axis].attach_scale(file[name])
        group = file.create_group("sensor_band_parameters")
        for name, content in (
            ("wavelengths", np.asarray(wavelength, dtype="f4")),
            ("fwhm", np.full(len(wavelength), 8.5 if units == "nm" else 0.0085, dtype="f4")),
        ):
            group[name] = content
            if units is not None:
                group[name].attrs["units"] = units
        group["good_wavelengths"] = np.asarray(
            [1] * len(wavelength) if good is None else good, dtype="u1"
        )
        location = file.create_group("location")
        location["glt_x"] = np.zeros((3, 3), dtype="i4")
        location["lat"] = np.zeros(values.shape[:2])
    return path


def write_prisma(
    path: Path,
    vnir: np.ndarray,
    swir: np.ndarray,
    *,
    vnir_wavelength: Sequence[float],
    swir_wavelength: Sequence[float],
    vnir_range: tuple[float, float] = (0.0, 0.9),
    swir_range: tuple[float, float] = (0.0, 0.7),
    epsg: int = 32633,
    corner: tuple[float, float] = (366000.0, 5806110.0),
    level: str = "2D",
    start: str = "2020-04-11T10:11:12.345678",
    **storage: Any,
) -> Path:
    """A PRISMA L2D file: cubes (y, x, band) in, stored (line, band, sample) as the product does.

    `corner` is the centre of the upper left pixel. Wavelengths are given in the file's order, which
    is descending; 0 marks a band that is not used.
    """
    height, width, _ = vnir.shape
    with h5py.File(path, "w") as file:
        fields = file.create_group(f"HDFEOS/SWATHS/PRS_L{level}_HCO/Data Fields")
        lists = {"Vnir": (vnir, vnir_wavelength), "Swir": (swir, swir_wavelength)}
        for name, (stored, centres) in lists.items():
            data = stored.transpose(0, 2, 1).astype("u2")
            fields.create_dataset(f"{name.upper()}_Cube", data=data, **storage)
            file.attrs[f"List_Cw_{name}"] = np.asarray(centres, dtype="f4")
            file.attrs[f"List_Fwhm_{name}"] = np.where(np.asarray(centres) > 0, 11.5, 0).astype(
                "f4"
            )
            file.attrs[f"List_Cw_{name}_Flags"] = (np.asarray(centres) > 0).astype("u1")
        for name, (low, high) in (("Vnir", vnir_range), ("Swir", swir_range)):
            file.attrs[f"L2Scale{name}Min"] = np.float32(low)
            file.attrs[f"L2Scale{name}Max"] = np.float32(high)
        file.attrs["Product_ID"] = np.bytes_("PRS_L2D_STD")
        file.attrs["Product_StartTime"] = np.bytes_(start)
        file.attrs["Epsg_Code"] = np.int64(epsg)
        east, north = corner
        right, bottom = east + 30.0 * (width - 1), north - 30.0 * (height - 1)
        for name, (x, y) in {
            "UL": (east, north),
            "UR": (right, north),
            "LL": (east, bottom),
            "LR": (right, bottom),
        }.items():
            file.attrs[f"Product_{name}corner_easting"] = x
            file.attrs[f"Product_{name}corner_northing"] = y
    return path
