"""XML files of others: nothing expands, in whatever encoding."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyro_unmix.io import FileError
from pyro_unmix.io.formats.metadata import read_xml

BOMB = '<!DOCTYPE a [<!ENTITY b "cc"><!ENTITY d "&b;&b;">]><a>&d;</a>'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "iso-8859-1"])
def test_document_types_are_refused_in_every_encoding(tmp_path: Path, encoding: str) -> None:
    declared = "" if encoding == "utf-16-le" else encoding.removesuffix("-sig")
    head = f'<?xml version="1.0" encoding="{declared}"?>' if declared else ""
    (tmp_path / "a.xml").write_bytes((head + BOMB).encode(encoding))
    with pytest.raises(FileError, match="DOCTYPE: is not allowed"):
        read_xml(tmp_path / "a.xml")
    (tmp_path / "b.xml").write_bytes((head + "<n:a xmlns:n='m'>text</n:a>").encode(encoding))
    assert read_xml(tmp_path / "b.xml").text == "text"


def test_a_comment_about_document_types_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text("<!-- <!DOCTYPE a> --><a><![CDATA[<!ENTITY]]></a>")
    assert read_xml(tmp_path / "a.xml").text == "<!ENTITY"


@pytest.mark.parametrize(
    "text",
    ["", "<a>", "<a/><a/>", "text", '<?xml version="1.0" encoding="none"?><a/>', "<a>&b;</a>"],
)
def test_broken_xml(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(FileError, match="XML: is broken"):
        read_xml(tmp_path / "a.xml")
