"""The rows of the tables that benchmarks print."""

from __future__ import annotations


def rows_of(text: str) -> list[list[list[str]]]:
    """The Markdown tables of a text: tables, rows, cells."""
    tables: list[list[list[str]]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            tables[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        elif tables[-1]:
            tables.append([])
    return [table for table in tables if table]
