"""Run the tutorial on the EMIT crop: what its page says is what comes out.

    OMP_NUM_THREADS=1 python benchmarks/emit_cover.py --data DIR [--page docs/tutorials/cover_emit.md]

The data may not be shipped, so that the page cannot be computed where pages are built. This runs the blocks of Python
and of shell of the page in their order, in a folder with copies of the files that they name, and writes the page anew:
what a block printed follows it as a block of text, pictures that it saved lie in docs/_static. The test of the same
name runs the page, too, and compares numbers.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _data import data_folder
from PIL import Image

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "tutorials" / "cover_emit.md"
PICTURES = DOCS / "_static"
FILES = (
    "readers/emit_l2a_crop",
    "readers/emit_l2a_crop.hdr",
    "emit_endmember_library.csv",
    "sentinel2_5dates.npy",
)
#: A block of code, and what came out of it where it says something.
_BLOCK = re.compile(
    r"^```(?P<kind>python|bash)\n(?P<code>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)
_SECONDS = re.compile(r"(?:seconds +|# )(\d+\.\d+)(?: s)?")
_NUMBER = re.compile(r"(?<![\w.])-?\d*\.?\d+")


def run(page: str, data: Path, folder: Path) -> Iterator[tuple[re.Match[str], str]]:
    """The blocks of a page, and what each printed, run one after the other in a folder that is made ready."""
    for name in FILES:
        shutil.copyfile(data / name, folder / Path(name).name)
    names: dict[str, Any] = {"__name__": "page"}
    for block in _BLOCK.finditer(page):
        said = io.StringIO()
        with _inside(folder), contextlib.redirect_stdout(said), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of fill in the library, as the page says
            if block["kind"] == "bash":
                for line in block["code"].replace("\\\n", " ").splitlines():
                    print(_shell(line))
            else:
                exec(compile(block["code"], "page", "exec"), names)
        yield block, said.getvalue().rstrip() + "\n" if said.getvalue().strip() else ""


def _shell(line: str) -> str:
    """What a command says, after the command itself and its seconds."""
    words = shlex.split(line, comments=True)
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "pyro_unmix", *words[1:]],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{line}\n{done.stderr}")
    return f"# {time.perf_counter() - started:.1f} s: {' '.join(words[:2])}\n{done.stdout}"


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def page_anew(page: str, outputs: list[str]) -> str:
    """The page with other outputs of its blocks."""
    left = iter(outputs)

    def block(found: re.Match[str]) -> str:
        output = next(left)
        shown = f"\n```text\n{output}```\n" if output else ""
        return f"```{found['kind']}\n{found['code']}```\n{shown}"

    return _BLOCK.sub(block, page)


def seconds(text: str) -> list[float]:
    """Those of an output."""
    return [float(found) for found in _SECONDS.findall(text)]


def differences(said: str, now: str) -> list[str]:
    """Where two outputs differ: other words, or numbers that are `far` apart; times may be any."""
    ours, theirs = (_SECONDS.sub("TIME", text) for text in (said, now))
    words = [_NUMBER.sub("", text).split() for text in (ours, theirs)]
    if words[0] != words[1]:
        return [f"{' '.join(words[0])!r} is now {' '.join(words[1])!r}"]
    pairs = zip(_NUMBER.findall(ours), _NUMBER.findall(theirs), strict=True)
    return [f"{a} is now {b}" for a, b in pairs if far(float(a), float(b))]


def far(ours: float, theirs: float) -> bool:
    """A tenth, of small numbers .003; but .03 at most: of draws and rounding on another machine."""
    return abs(ours - theirs) > min(0.03, max(0.003, 0.1 * abs(ours)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", metavar="DIR")
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args()
    text = options.page.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        outputs = [said for _, said in run(text, data_folder(options.data), Path(folder))]
        for picture in Path(folder).glob("emit_*.png"):
            Image.open(picture).convert("RGB").save(PICTURES / picture.name, optimize=True)
    options.page.write_text(page_anew(text, outputs), encoding="utf-8")


if __name__ == "__main__":
    main()
