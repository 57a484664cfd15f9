"""Records of `paper_tables` as Markdown and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

Records = Sequence[dict[str, Any]]

COLUMNS = ("NRMSE_A", "NRMSE_M", "SAM_M", "NRMSE_Y", "CPU s")
_SHOWN = ("NRMSE_A", "NRMSE_M")  # in the picture and in short

#: What the full run at its defaults says, written by hand.
FINDINGS = Path(__file__).with_name("paper_findings.md")

NOTES = """\
## Notes

- Bold: the smallest median of a column, CPU seconds aside. A seed of DS1-like and DS2-like is
  another scene, with other spectra; of the other scenes it is another draw of what is random in the
  methods (VCA, training).
- DS1-like and DS2-like: `simulate.scaled_scene` and `simulate.bundle_scene` with spectra of
  earthlib, one material each of its classes vegetation, bare, built (and npv), drawn anew until all
  angles between materials are .2 rad or more; a bundle is a spectrum and the 19 nearest of its class.
- Initial endmembers: OU, HBUN, Kalman, `redsunn` and `redsunn_published` get the same array, VCA of
  the spectra of all dates, as in the paper; no method gets any truth. FCLS is with VCA of each date,
  as in the paper, materials matched across dates. The first abundances of Kalman are, as published, FCLS
  with VCA of the first date; with the array of the others instead, the median NRMSE_A is .336 on ds1, .390
  on ds2, .250 on DS1-like and .638 on DS2-like. `unmix` searches its own start, which is a part of it. Rows with
  "`unmix`'s start" get the endmembers that this search finds: FCLS for all dates, Kalman for its first
  abundances too. The row "kept at the VCA start" is `unmix` with the array of the others, which it
  takes as known and does not change.
- Settings: OU and Kalman those published (docstrings); `redsunn` the paper's, with K = 10 on DS1,
  2 on DS2, 3 on the real sequence and sigma_psi^2 = 1e-5, 1e-5 and 1 (the paper chose these per
  scene for good abundances); `redsunn_published`, the program published with the paper, the same, one
  sampled trajectory; `unmix` its defaults on all scenes. HBUN is our reading of its publication, at
  the defaults of `methods.hbun`. How far its M may go from the start, `reference_scale`, is 1 %
  reflectance, a convention that looks at no score. It matters little: 0.003, 0.01 and 0.03 give
  NRMSE_A .277, .282, .283 and NRMSE_M .187, .193, .195 on ds1, seed 0.
- What was seen in development: ds1 and ds2, when the defaults of `unmix` were made. The scenes
  DS1-like and DS2-like were made for this comparison, and no default was chosen on them.
- Kalman is not the published program: filters of size P per band stand for one of size L P (which takes
  minutes), and all pixels for every 25th. The program's scores from its authors' code are, with other initial
  endmembers (VCA too), NRMSE_A .177 on ds1 and .399 on ds2 after its 5 iterations. `kalman_em` with those has
  .373 and .374 (.333 and .375 where its first abundances come from them too): **worse than the published
  program on ds1**. With fewer iterations it is near it: .201, .194, .204, .235 and .373 after 1 to 5 on ds1,
  .335 to .374 on ds2. The number of iterations is the published one in all rows.
- CPU s: from cubes to result, with VCA or search for the start, one thread. Measured on a machine
  under changing load, which adds up to a half: they tell ratios of two and more.
"""


def write(
    out: Path,
    tables: Records,
    figure: Records,
    *,
    scene_titles: Mapping[str, str],
    method_titles: Mapping[str, str],
    facts: Mapping[str, str],
    findings: str = "",
) -> None:
    """Write ``paper_tables.md``, ``scores.png`` and, where the grid was computed, ``sensitivity.png``.

    `findings` is a section of Markdown in front of the tables.
    """
    out.mkdir(parents=True, exist_ok=True)
    true = [record for record in tables if "NRMSE_A" in record]
    real = [record for record in tables if "NRMSE_A" not in record]
    parts = ["# The tables of the ReDSUNN paper", _made_with(tables, facts)]
    if findings:
        parts.append(findings.strip())
    if true:
        parts += [
            "## In short",
            "Medians: NRMSE_A / NRMSE_M / CPU s.",
            summary(true, scene_titles, method_titles),
            "## Table II: scenes with known truth",
        ]
        for scene, title in scene_titles.items():
            mine = [record for record in true if record["scene"] == scene]
            if mine:
                parts += [f"### {title}", _over(mine), table_ii(mine, method_titles)]
        plot_scores(true, scene_titles, method_titles).savefig(out / "scores.png", dpi=100)
        parts += ["![Errors of every seed](scores.png)"]
    if real:
        name = scene_titles[real[0]["scene"]]
        parts += [
            "## Table III: a real sequence",
            f"{name}. {_over(real)}",
            table_iii(real, method_titles),
        ]
    if figure:
        plot_sensitivity(figure).savefig(out / "sensitivity.png", dpi=100)
        parts += [
            "## Fig. 8: sensitivity of `redsunn`",
            "![NRMSE_A over K and sigma_psi^2](sensitivity.png)",
            f"NRMSE_A of seed 0 after {figure[0]['settings']['num_epochs']} epochs (30 in the "
            "tables), from VCA of all dates.",
        ]
    parts.append(NOTES.rstrip())
    (out / "paper_tables.md").write_text("\n\n".join(parts) + "\n")


def _made_with(records: Records, facts: Mapping[str, str]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in facts.items())
    text = f"Made by `python benchmarks/paper_tables.py`. One torch thread; {versions}."
    if any(record["quick"] for record in records):
        text += " **A quick run: small scenes and few steps; the figures mean nothing.**"
    return text


def _over(records: Records) -> str:
    """What the cells of a table are."""
    seeds = _seeds(records)
    if len(seeds) == 1:
        return f"Seed {seeds[0]}."
    return f"Seeds {', '.join(map(str, seeds))}; median (first to third quartile)."


def _seeds(records: Records) -> list[int]:
    return sorted({record["seed"] for record in records})


# ------------------------------------------------------------------------------- tables


def table_ii(records: Records, titles: Mapping[str, str]) -> str:
    """A row per method: median and quartiles over the seeds."""
    rows = _by_method(records)
    medians = {name: {c: _median(group, c) for c in COLUMNS} for name, group in rows.items()}
    best = {c: min(medians, key=lambda name: medians[name][c]) for c in COLUMNS[:-1]}
    lines = ["| method | " + " | ".join(COLUMNS) + " |", "|---|" + "---:|" * len(COLUMNS)]
    everywhere = _seeds(records)
    for name, group in rows.items():
        cells = [_cell(group, c, bold=best.get(c) == name) for c in COLUMNS]
        mine = _seeds(group)
        several = "seeds" if len(mine) > 1 else "seed"
        only = "" if mine == everywhere else f" ({several} {', '.join(map(str, mine))} only)"
        lines.append(f"| {titles[name]}{only} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def table_iii(records: Records, titles: Mapping[str, str]) -> str:
    """A row per method."""
    columns = ("NRMSE_Y", "CPU s")
    lines = ["| method | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    for name, group in _by_method(records).items():
        cells = [_cell(group, column, bold=False) for column in columns]
        lines.append(f"| {titles[name]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def summary(records: Records, scenes: Mapping[str, str], methods: Mapping[str, str]) -> str:
    """A row per method, a column per scene: medians of two errors and of the seconds."""
    names = [name for name in scenes if any(record["scene"] == name for record in records)]
    by_scene = {
        name: _by_method([record for record in records if record["scene"] == name])
        for name in names
    }
    lines = ["| method | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    for method, title in methods.items():
        if any(method in rows for rows in by_scene.values()):
            cells = [_in_short(rows, method) for rows in by_scene.values()]
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _in_short(rows: Mapping[str, Records], method: str) -> str:
    if method not in rows:
        return "-"
    texts = []
    for column in _SHOWN:
        value = _median(rows[method], column)
        text = f"{value:.3f}".removeprefix("0")
        best = value == min(_median(group, column) for group in rows.values())
        texts.append(f"**{text}**" if best else text)
    seconds = _median(rows[method], "CPU s")
    return " / ".join([*texts, f"{seconds:.1f}" if seconds < 1 else f"{seconds:.0f}"])


def _by_method(records: Records) -> dict[str, list[dict[str, Any]]]:
    rows: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        rows.setdefault(record["method"], []).append(record)
    return rows


def _median(group: Records, column: str) -> float:
    return float(np.median([record[column] for record in group]))


def _cell(group: Records, column: str, bold: bool) -> str:
    digits = 1 if column.endswith(" s") else 3
    low, middle, high = np.percentile([record[column] for record in group], [25, 50, 75])
    text = f"{middle:.{digits}f}"
    text = f"**{text}**" if bold else text
    return text if len(group) == 1 else f"{text} ({low:.{digits}f} to {high:.{digits}f})"


# ------------------------------------------------------------------------------- pictures


def plot_scores(
    records: Records, scene_titles: Mapping[str, str], method_titles: Mapping[str, str]
) -> Figure:
    """A dot per seed and a bar at the median; scenes side by side, a score in each row."""
    names = [name for name in scene_titles if any(r["scene"] == name for r in records)]
    methods = [name for name in method_titles if any(r["method"] == name for r in records)]
    size = (1.2 + 2.6 * len(names), 1.0 + 0.28 * len(methods) * len(_SHOWN) + 0.8)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(_SHOWN), len(names), squeeze=False, sharey=True)
    places = {name: len(methods) - place for place, name in enumerate(methods)}
    for column, row in zip(_SHOWN, axes, strict=True):
        for scene, ax in zip(names, row, strict=True):
            largest = max(record[column] for record in records if record["scene"] == scene)
            groups = _by_method([record for record in records if record["scene"] == scene])
            for name, group in groups.items():
                values = [record[column] for record in group]
                colour = "C3" if name.startswith("unmix") else "C0"
                ax.plot(values, [places[name]] * len(values), "o", color=colour, ms=4, alpha=0.6)
                ax.plot(np.median(values), places[name], "|", color="k", ms=12, mew=1.5)
            ax.set(xlim=(0, 1.08 * largest), xlabel=column)
            ax.set_title(scene if column == _SHOWN[0] else "")
            ax.set_yticks(
                list(places.values()), [method_titles[n].replace("`", "") for n in places]
            )
            ax.grid(axis="x", alpha=0.4)
    return figure


def plot_sensitivity(records: Records) -> Figure:
    """Heat maps of NRMSE_A over K and sigma_psi^2, a scene each."""
    names = list(dict.fromkeys(record["scene"] for record in records))
    figure = Figure(figsize=(0.6 + 3.6 * len(names), 3.2), layout="constrained")
    for scene, ax in zip(names, figure.subplots(1, len(names), squeeze=False)[0], strict=True):
        mine = [record for record in records if record["scene"] == scene]
        bases = sorted({record["settings"]["num_basis"] for record in mine})
        variances = sorted({record["settings"]["variance"] for record in mine})
        values = np.full((len(bases), len(variances)), np.nan)
        for record in mine:
            place = bases.index(record["settings"]["num_basis"])
            values[place, variances.index(record["settings"]["variance"])] = record["NRMSE_A"]
        image = ax.imshow(values, origin="lower", cmap="viridis", aspect="auto")
        middle = (np.nanmin(values) + np.nanmax(values)) / 2
        for (row, column), value in np.ndenumerate(values):
            colour = "k" if value > middle else "w"
            ax.text(column, row, f"{value:.3f}", ha="center", va="center", color=colour, size=8)
        ax.set_xticks(range(len(variances)), [f"{v:g}" for v in variances])
        ax.set_yticks(range(len(bases)), [str(k) for k in bases])
        ax.set(xlabel=r"$\sigma_\psi^2$", ylabel="K", title=scene)
        figure.colorbar(image, ax=ax, label="NRMSE_A")
    return figure
