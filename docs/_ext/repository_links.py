"""Pages that the repository shows as well, and links between all: to a page, or else to the file in the repository."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

# A page whose text is another file of the repository; {include} would not change its links.
_PAGE_OF = re.compile(r"^<!-- page of (\S+) -->$", re.MULTILINE)
_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#|<|/)([^)#\s]+)(#[^)]*)?\)")


def _read(app: Any, name: str, source: list[str]) -> None:
    docs = Path(app.srcdir)
    origin = Path(app.env.doc2path(name))
    if stated := _PAGE_OF.search(source[0]):
        origin = docs.parent / stated[1]
        app.env.note_dependency(str(origin))
        source[0] = source[0].replace(stated[0], origin.read_text(encoding="utf-8"))
    if origin.suffix != ".md":
        return
    pages = {page: path for path in docs.rglob("*.md") if (page := _origin(path, docs))}

    def mend(match: re.Match[str]) -> str:
        picture, text, target, anchor = match.groups(default="")
        path = (origin.parent / target).resolve()
        if not path.exists():
            return match[0]  # Sphinx complains of it
        if picture:
            return f"![{text}](/{os.path.relpath(path, docs)})"
        if path in pages:
            return f"[{text}](/{os.path.relpath(pages[path], docs)}{anchor})"
        relative = path.relative_to(docs.parent.resolve()).as_posix()
        kind = "tree" if path.is_dir() else "blob"
        return f"[{text}]({app.config.repository}/{kind}/main/{relative}{anchor})"

    source[0] = _LINK.sub(mend, source[0])


def _origin(page: Path, docs: Path) -> Path | None:
    """The file whose text a page shows: mostly itself."""
    if page.is_relative_to(docs / "_build"):
        return None
    stated = _PAGE_OF.search(page.read_text(encoding="utf-8"))
    return ((docs.parent / stated[1]) if stated else page).resolve()


def setup(app: Any) -> dict[str, bool]:
    app.add_config_value("repository", "", "env")
    app.connect("source-read", _read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
