"""Seeded damage to the files of a sample: bits, blocks, lengths and numbers in texts."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path

# What a counter, a size or an offset is put to.
_EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)
_NUMBERS = ("0", "-1", "1e999", "nan", "99999999999", "1.5", "", "0x10", "²", "[]", "1" * 400)
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


def _bits(content: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice([1, 1, 2, 8, 32])):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def _cut(content: bytearray, rng: random.Random) -> None:
    del content[rng.randrange(len(content)) :]


def _block(content: bytearray, rng: random.Random) -> slice:
    length = min(rng.choice([1, 2, 4, 8, 16, 64, 512]), len(content))
    start = rng.randrange(len(content) - length + 1)
    return slice(start, start + length)


def _zeroed(content: bytearray, rng: random.Random) -> None:
    block = _block(content, rng)
    content[block] = bytes([rng.choice([0, 0xFF])]) * (block.stop - block.start)


def _swapped(content: bytearray, rng: random.Random) -> None:
    first = _block(content, rng)
    length = first.stop - first.start
    start = rng.randrange(len(content) - length + 1)
    second = slice(start, start + length)
    content[first], content[second] = content[second], content[first]


def _doubled(content: bytearray, rng: random.Random) -> None:
    block = _block(content, rng)
    content[block.stop : block.stop] = content[block]


def _removed(content: bytearray, rng: random.Random) -> None:
    del content[_block(content, rng)]


def _edge(content: bytearray, rng: random.Random) -> None:
    width = rng.choice([1, 2, 4, 8])
    start = rng.randrange(max(len(content) - width, 1))
    value = rng.choice(_EDGES) % 256**width
    content[start : start + width] = value.to_bytes(width, rng.choice(["little", "big"]))


def _number(content: bytearray, rng: random.Random) -> None:
    """Another number in a text; in what has none, a bit."""
    found = list(_NUMBER.finditer(content))
    if not found:
        return _bits(content, rng)
    match = rng.choice(found)
    content[match.start() : match.end()] = rng.choice(_NUMBERS).encode()


_BYTES: tuple[Callable[[bytearray, random.Random], None], ...] = (
    *(_bits, _cut, _zeroed, _swapped, _doubled, _removed, _edge, _edge),
)


def _is_text(content: bytes) -> bool:
    return all(9 <= byte < 127 for byte in content[:200])


def mutated(files: dict[str, bytes], seed: str) -> dict[str, bytes]:
    """The files with damage in one of them; the same for the same seed."""
    rng = random.Random(seed)
    name = rng.choice(sorted(name for name, content in files.items() if content))
    content = bytearray(files[name])
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        if content:
            number = _is_text(content) and rng.random() < 0.5
            (_number if number else rng.choice(_BYTES))(content, rng)
    return files | {name: bytes(content)}


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def write(files: dict[str, bytes], folder: Path) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
