"""Examples, README and pages run as they stand, and what they refer to exists."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pyro
import pytest
import scipy.io
import torch
from matplotlib.image import imread
from pyro import poutine
from pyro.infer import Trace_ELBO

import pyro_unmix as pu

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
HOW_TO = ROOT / "docs" / "howto"

# script: arguments besides --quick and --out ("{data}" is the data folder), and its pictures
EXAMPLES: list[tuple[str, list[str], set[str]]] = [
    ("quickstart.py", [], {"abundances", "uncertainty", "losses"}),
    (
        "real_image.py",
        ["{data}/jasper_ridge_r198.mat", "--reference", "{data}/jasper_ridge_end4.mat"],
        {"abundances", "uncertainty", "endmembers"},
    ),
    (
        "real_image.py",
        ["{data}/samson.mat", "--names", "soil", "tree", "water"],
        {"abundances", "uncertainty", "endmembers"},
    ),
    (
        "real_sequence.py",
        ["{data}/sentinel2_5dates.npy"],
        {"true_colour", "abundances", "uncertainty", "change", "endmembers"},
    ),
    (
        "paper_scenes.py",
        [],
        {
            f"{scene}_{method}_{picture}"
            for scene in ("scaled", "bundle")
            for method in ("vca", "redsunn", "unmix")
            for picture in ("abundances", "endmembers")
        },
    ),
    ("ablation.py", [], {"losses"}),
    ("idnet.py", [], {"abundances", "nonlinearity", "latents"}),
    ("nonlinear_sequence.py", [], {"abundances", "nonlinearity"}),
    ("latent_endmembers.py", [], {"abundances", "endmembers", "latents"}),
    ("ablate_priors.py", [], {"errors"}),
    ("ablate_guides.py", [], {"losses"}),
    ("own_prior.py", [], {"trend"}),
    ("redsunn_line_by_line.py", [], {"abundances"}),
    ("own_model.py", [], {"abundances", "uncertainty"}),
    ("irregular_dates.py", [], {"pixel"}),
    ("seasons.py", [], {"pixel"}),
    ("model_choice.py", [], {"held_out"}),
    ("calibration.py", [], {"coverage"}),
]


def run_script(name: str, arguments: list[str]) -> None:
    """As ``python examples/<name> <arguments>``, without a new process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")


def check_run(
    name: str,
    arguments: list[str],
    pictures: set[str],
    out: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_script(name, [*arguments, "--quick", "--out", str(out)])
    assert {path.stem for path in out.iterdir()} == pictures
    for picture in pictures:
        image = imread(out / f"{picture}.png")
        assert min(image.shape[:2]) > 100 and image[..., :3].std() > 0.02
    printed = capsys.readouterr().out
    assert re.search(r"\d\.\d\d", printed)
    assert not re.search(r"\b(nan|inf)\b", printed)


def test_every_script_is_tested() -> None:
    scripts = {path.name for path in (ROOT / "examples").glob("*.py")}
    assert scripts == {name for name, _, _ in EXAMPLES}


@pytest.mark.parametrize(
    ("name", "arguments", "pictures"),
    [example for example in EXAMPLES if not example[1]],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_examples(
    name: str,
    arguments: list[str],
    pictures: set[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    check_run(name, arguments, pictures, tmp_path, capsys)


@pytest.mark.parametrize(
    ("name", "arguments", "pictures"),
    [example for example in EXAMPLES if example[1]],
    ids=[Path(arguments[0]).stem for _, arguments, _ in EXAMPLES if arguments],
)
def test_examples_on_real_data(
    name: str,
    arguments: list[str],
    pictures: set[str],
    data_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [argument.format(data=data_dir) for argument in arguments]
    check_run(name, given, pictures, tmp_path, capsys)


def test_a_real_image_without_reference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = pu.simulate.scaled_scene(num_dates=1, height=40, width=48).cubes.values[0, ..., ::10]
    columns = image.transpose(2, 1, 0).reshape(image.shape[2], -1)  # column-major pixels
    content = {"Y": columns, "nRow": 40, "nCol": 48}
    scipy.io.savemat(tmp_path / "image.mat", content)
    arguments = [str(tmp_path / "image.mat"), "--endmembers", "3"]
    run_script("real_image.py", [*arguments, "--quick", "--out", str(tmp_path / "out")])
    assert "RMSE" not in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        run_script("real_image.py", arguments[:1])
    assert "pass --reference FILE or --endmembers N" in capsys.readouterr().err


# --------------------------------------------------------------------- ReDSUNN line by line

# Parameters of `SGLMM` and `BiLSTMGuide`: those of the example, in this order.
SAME = {
    "model.reference.value": ["M0"],
    "model.abundance_prior.initial_loc": ["nu_c"],
    "model.abundance_prior.log_initial_scale": ["log_gamma_c"],
    "model.abundance_prior.weight_0": ["log_sigma_a.0.weight"],
    "model.abundance_prior.bias_0": ["log_sigma_a.0.bias"],
    "model.abundance_prior.weight_1": ["log_sigma_a.2.weight"],
    "model.abundance_prior.bias_1": ["log_sigma_a.2.bias"],
    "model.variability_prior.initial_loc": ["nu_psi"],
    "model.variability_prior.log_initial_scale": ["log_gamma_psi"],
    "model.noise.log_scale": ["log_sigma_r"],
    "guide.initial_loc": ["zeta_c", "zeta_psi"],
    "guide.log_initial_scale": ["log_xi_c", "log_xi_psi"],
    "guide.alpha": ["alpha_1", "alpha_2"],
    "guide.beta": ["beta"],
    "guide.shift_c": ["W_c"],
    "guide.shift_psi": ["W_psi"],
    "guide.scale_c": ["V_c"],
    "guide.scale_psi": ["V_psi"],
    **{
        f"guide.encoder.lstm.{name}": [f"lstm.{name}"]
        for name, _ in torch.nn.LSTM(1, 1, bidirectional=True).named_parameters()
    },
}


@pytest.mark.parametrize("batch_size", [None, 3])
def test_line_by_line_is_our_model_and_guide(batch_size: int | None) -> None:
    """They start alike, and with equal parameters and draws have one ELBO, at each site and pixel, and one gradient."""
    rng, draw = np.random.default_rng(0), torch.Generator().manual_seed(0)
    matrix, num_components = rng.uniform(0.1, 0.9, (12, 3)), 2
    example = runpy.run_path(str(ROOT / "examples" / "redsunn_line_by_line.py"))["ReDSUNN"](
        torch.from_numpy(matrix), K=num_components, sigma_psi=0.3
    ).double()
    model = pu.SGLMM(
        matrix, basis=pu.bases.DCT(num_components), variability_prior=pu.priors.RandomWalk(0.3)
    ).double()
    guide = pu.BiLSTMGuide(model).double()
    theirs = dict(example.named_parameters())
    ours = {f"model.{name}": value for name, value in model.named_parameters()}
    ours |= {f"guide.{name}": value for name, value in guide.named_parameters()}
    assert ours.keys() == SAME.keys()
    assert sorted(theirs) == sorted(name for names in SAME.values() for name in names)

    def same_as(name: str) -> torch.Tensor:
        return torch.cat([theirs[other].flatten() for other in SAME[name]])

    with torch.no_grad():
        for name, value in ours.items():
            if not any(random in name for random in ("prior.weight", "lstm.weight", "guide.scale")):
                np.testing.assert_allclose(value.flatten(), same_as(name), rtol=1e-6, err_msg=name)
        for value in theirs.values():  # away from the start, where much is zero
            value.add_(0.3 * torch.randn(value.shape, generator=draw))
        for name, value in ours.items():
            value.copy_(same_as(name).view_as(value))

    valid = torch.ones(5, 4, dtype=torch.bool)
    valid[0, 0] = valid[1, 1:3] = valid[2] = valid[4, 3] = False
    y = torch.from_numpy(rng.uniform(0.1, 0.9, (5, 4, 12))) * valid[..., None]
    with torch.random.fork_rng(devices=[]), pyro.get_param_store().scope():
        torch.manual_seed(0)
        loss = Trace_ELBO().loss_and_grads(example.model, example.guide, y, valid, batch_size)
        torch.manual_seed(0)
        traces = [poutine.trace(example.guide).get_trace(y, valid, batch_size)]
        replayed = poutine.replay(example.model, trace=traces[0])
        traces.append(poutine.trace(replayed).get_trace(y, valid, batch_size))
        torch.manual_seed(0)
        index = torch.randperm(5)[:3] if batch_size else torch.arange(5)  # drawn before all else
        assert torch.equal(traces[0].nodes["pixels"]["value"], index)
        batch, where = (y[index], valid[index]), {"index": index, "size": 5}
        assert not batch[1].all()
        got = Trace_ELBO().loss_and_grads(model, guide, *batch, **where)

        sites = traces[0].nodes.items()
        draws = {k: s["value"].flatten(1) for k, s in sites if k.startswith(("c_", "psi_"))}
        for program, expected in zip((guide, model), traces, strict=True):
            trace = poutine.trace(poutine.condition(program, draws)).get_trace(*batch, **where)
            trace.compute_log_prob()
            expected.compute_log_prob()
            sites = [k for k, s in trace.nodes.items() if s["type"] == "sample"]
            assert sites == [k for k, s in expected.nodes.items() if s["type"] == "sample"]
            for name in sites:
                density, same = (t.nodes[name]["log_prob"].detach() for t in (trace, expected))
                np.testing.assert_allclose(density, same, rtol=1e-5, atol=1e-5, err_msg=name)
    assert got == pytest.approx(loss, rel=1e-5)
    for name, value in ours.items():
        same = torch.cat([theirs[other].grad.flatten() for other in SAME[name]])
        allowed = 1e-5 * same.abs().max().item()
        np.testing.assert_allclose(value.grad.flatten(), same, atol=allowed, err_msg=name)


# --------------------------------------------------------------------- README and pages


def block_after(marker: str, page: Path = ROOT / "README.md") -> str:
    """The code block that follows a marker directly."""
    text = page.read_text(encoding="utf-8")
    found = re.search(rf"<!-- {marker} -->\n```\w+\n(.*?)```", text, re.DOTALL)
    assert found, f"{page} has no code block right after <!-- {marker} -->"
    return found[1]


def test_readme_code_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    block = block_after("readme-example")
    assert len(block.strip().splitlines()) <= 10
    exec(compile(block, "README.md", "exec"), names)
    result, scene = names["result"], names["scene"]
    assert isinstance(result, pu.Unmixing) and isinstance(scene, pu.simulate.Scene)
    assert (names["lower"] <= names["upper"]).all()
    assert {path.name for path in tmp_path.iterdir()} == {"abundances.png", "result.nc"}
    knowing_nothing = np.full(scene.abundances.shape, 1 / 3)
    worst = pu.metrics.nrmse_abundances(knowing_nothing, scene.abundances)
    assert pu.metrics.score(result, scene)["NRMSE_A"] < worst / 3
    assert capsys.readouterr().out.startswith("<Unmixing by unmix")


def test_code_of_parts_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    page = HOW_TO / "swap_parts.md"
    blocks = [block_after("fit-example", page), block_after("ablation-example", page)]
    assert len(blocks[0].strip().splitlines()) <= 12 and len(blocks[1].splitlines()) <= 5
    for block in blocks:
        exec(compile(block, str(page), "exec"), names)
    assert (tmp_path / "abundances.png").stat().st_size > 1000
    result = names["result"]
    assert isinstance(result, pu.Unmixing)
    scene = names["scene"]
    assert isinstance(scene, pu.simulate.Scene)
    knowing_nothing = np.full(scene.abundances.shape, 1 / 3)
    worst = pu.metrics.nrmse_abundances(knowing_nothing, scene.abundances)
    error = pu.metrics.score(result, scene)["NRMSE_A"]
    assert error < worst / 3
    fresh = pu.SGLMM(
        names["endmembers"], variability_prior=pu.priors.AutoRegressive(0.5), **names["parts"]
    )
    untrained = pu.fit(fresh, pu.ConjugateGuide(fresh), scene.cubes, num_steps=0, progress=False)
    assert error < pu.metrics.score(untrained, scene)["NRMSE_A"]
    errors = re.findall(r"NRMSE_A (\S+)\n", capsys.readouterr().out)
    assert len(errors) == 3 and all(np.isfinite(float(error)) for error in errors)


def test_code_for_single_images_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    block = block_after("single-image-example", HOW_TO / "single_images.md")
    exec(compile(block, "single_images.md", "exec"), names)
    result, cube = names["result"], names["cube"]
    assert isinstance(result, pu.Unmixing) and isinstance(cube, np.ndarray)
    assert result.abundances.shape[1:3] == cube.shape[:2]
    assert (tmp_path / "nonlinearity.png").stat().st_size > 1000
    assert type(result.model.mixing).__name__ == "BilinearMixing"
    assert pu.posterior.degree_of_nonlinearity(result).max() > 0.05  # which is seen


def test_readme_has_two_commands() -> None:
    commands = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    assert len(commands) == 2
    for command, end in zip(commands, ("pyro-unmix demo", "python -m pytest"), strict=True):
        assert command.count("\n") == 1 and command.startswith("python3 -m venv .venv && ")
        assert command.strip().endswith(end)
    assert block_after("test-command") == commands[1]


def test_readme_is_short_and_stands_alone() -> None:
    """PyPI shows it without the files beside it: links are absolute, to pages and files that exist."""
    assert len(README.splitlines()) <= 150
    targets = re.findall(r"\]\(([^)#]+)", README)
    assert all(target.startswith("https://") for target in targets)
    repository = r"https://(?:github\.com|raw\.githubusercontent\.com)/pyro-unmix/pyro_unmix/"
    files = {
        rf"{repository}(?:blob/main|tree/main|main)/(.+)": "{}",
        r"https://pyro-unmix\.readthedocs\.io/en/latest/(.+)\.html": "docs/{}.md",
    }
    found = [
        ROOT / place.format(match[1])
        for target in targets
        for pattern, place in files.items()
        if (match := re.fullmatch(pattern, target))
    ]
    assert len(found) > 10
    assert [path for path in found if not path.exists()] == []
    assert (ROOT / "docs" / "demo.png").stat().st_size < 200_000
    table = "\n".join(line for line in README.splitlines() if line.startswith("|"))
    assert table in (ROOT / "docs" / "explanation" / "results.md").read_text(encoding="utf-8")


def test_pages_refer_to_what_exists() -> None:
    parts = (HOW_TO / "swap_parts.md").read_text(encoding="utf-8")
    table = parts.partition("## The parts")[2].partition("\n## ")[0]
    assert table.count("\n|") > 10
    for row in table.splitlines():
        cells = [re.findall(r"`([A-Za-z_.]+)`", cell) for cell in row.split("|")[1:3]]
        rooms = [pu, *(getattr(pu, room) for room in (cells[0] if cells else []))]
        for name in cells[1] if cells else []:
            room, _, attribute = name.rpartition(".")
            owners = [getattr(pu, room)] if room else rooms
            assert any(hasattr(owner, attribute) for owner in owners), name
    offers = re.findall(r"`\.(\w+)", (HOW_TO / "read_out.md").read_text(encoding="utf-8"))
    assert len(offers) > 20
    fields = {field.name for field in pu.Unmixing.__dataclass_fields__.values()}
    for name in offers:
        assert name in fields or hasattr(pu.Unmixing, name), name
