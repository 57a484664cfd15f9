"""The page on the EMIT crop says what comes out of its code now."""

from __future__ import annotations

from pathlib import Path

import emit_cover
import pytest

pytest.importorskip("rasterio")


def test_what_the_page_says_comes_out(data_dir: Path, tmp_path: Path) -> None:
    page = emit_cover.PAGE.read_text(encoding="utf-8")
    took = 0.0
    wrong = []
    blocks = list(emit_cover.run(page, data_dir, tmp_path))
    for block, now in blocks:
        wrong += emit_cover.differences(block["output"] or "", now)
        if block["kind"] == "bash":
            took += sum(emit_cover.seconds(now))
    assert wrong == []
    assert 0 < took < 60  # look, unmix, write GeoTIFF: asked of the shell
    pictures = {path.name for path in tmp_path.glob("emit_*.png")}
    assert pictures and all(f"_static/{name}" in page for name in pictures)
    assert all((emit_cover.PICTURES / name).is_file() for name in pictures)
    assert (tmp_path / "cover" / "geotiff").is_dir() and len(blocks) > 8


def test_other_numbers_and_other_words_are_found() -> None:
    said = "soil 0.61\n# 1.2 s: pyro-unmix info\n"
    assert emit_cover.differences(said, "soil 0.62\n# 9.9 s: pyro-unmix info\n") == []
    assert emit_cover.differences(said, "soil 0.71\n# 1.2 s: pyro-unmix info\n") == [
        "0.61 is now 0.71"
    ]
    assert emit_cover.differences("RMSE 0.010", "RMSE 0.014") == ["0.010 is now 0.014"]
    (other,) = emit_cover.differences(said, "")
    assert "soil" in other


def test_a_page_gets_the_outputs_of_its_blocks() -> None:
    page = "a\n\n```python\nprint(1)\n```\n\n```text\n2\n```\n\nb\n\n```python\nx = 1\n```\n"
    anew = emit_cover.page_anew(page, ["1\n", ""])
    assert anew == page.replace("\n2\n", "\n1\n")
    assert emit_cover.page_anew(anew, ["1\n", ""]) == anew
