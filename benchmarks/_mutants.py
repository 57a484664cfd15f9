"""Faults that somebody could have written into the package: each changes results, and some test must fail."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """In `file` of the package `old`, which stands there once, becomes `new`; `tests` are those that shall notice."""

    file: str
    old: str
    new: str
    tests: str


MUTANTS = [
    # ops
    Mutant(
        "ops/solvers.py", "ordered.cumsum(-1) - 1", "ordered.cumsum(-1) + 1", "ops/test_solvers.py"
    ),
    Mutant(
        "ops/solvers.py",
        "ordered * rank > excess",
        "ordered * rank < excess",
        "ops/test_solvers.py",
    ),
    Mutant(
        "ops/distributions.py",
        "noise.square().sum(-1), alpha=-0.5",
        "noise.square().sum(-1), alpha=-1.0",
        "ops/test_distributions.py",
    ),
    Mutant(
        "ops/distributions.py",
        "self.log_det_of_root() + 0.5 *",
        "0.5 *",
        "ops/test_distributions.py",
    ),
    Mutant(
        "ops/small_matrices.py",
        "row[i:], value=-1)",
        "row[i:], value=1)",
        "ops/test_small_matrices.py",
    ),
    Mutant(
        "ops/simplex.py",
        "logs - logs.mean(-1, keepdim=True)",
        "logs",
        "mixing/test_mixing.py",
    ),
    Mutant(
        "ops/least_squares.py",
        "lack = 1 - free.sum(-1, keepdim=True)",
        "lack = -free.sum(-1, keepdim=True)",
        "ops/test_least_squares.py",
    ),
    Mutant(
        "ops/checks.py",
        "number <= high",
        "number < high",
        "ops/test_checks.py data/test_refused_input.py",
    ),
    Mutant(
        "ops/softmax_distributions.py",
        "trigamma.sum(-1, keepdim=True) / size**2",
        "trigamma.sum(-1, keepdim=True) / size",
        "ops/test_softmax_distributions.py",
    ),
    # data
    Mutant(
        "data/bands.py",
        "(centres >= low) & (centres <= high)",
        "(centres > low) & (centres < high)",
        "data/test_ignored.py",
    ),
    Mutant(
        "data/bands.py",
        "np.diff(chosen) != 1) + 1",
        "np.diff(chosen) != 1)",
        "data/test_bands.py data/test_ignored.py",
    ),
    Mutant(
        "data/libraries.py",
        ".astype(float)) > 0] = np.nan",
        ".astype(float)) > 1] = np.nan",
        "data/test_library_selection.py io/test_library.py io/test_library_fill.py",
    ),
    Mutant(
        "data/libraries.py",
        "spectra[:, labels == label].mean(1)",
        "spectra[:, labels == label].max(1)",
        "data/test_library_classes.py",
    ),
    Mutant(
        "data/selection.py",
        "fraction >= min_fraction) & (fraction",
        "fraction > min_fraction) | (fraction",
        "data/test_library_selection.py",
    ),
    # priors
    Mutant(
        "priors/abundance_walks.py",
        "decay = elapsed * nn.functional.softplus(odds)",
        "decay = nn.functional.softplus(odds) / elapsed",
        "priors/test_dated_models.py priors/test_abundance_walks.py",
    ),
    Mutant(
        "priors/abundance_walks.py",
        "(1 - jump) * drift + jump * leap",
        "jump * drift + (1 - jump) * leap",
        "priors/test_priors.py::test_jump_walk_stand_in_lies_between_drift_and_jump",
    ),
    Mutant(
        "priors/seasonal_variability.py",
        "[phase.cos() * weight, phase.sin() * weight]",
        "[phase.cos() * weight, phase.cos() * weight]",
        "priors/test_seasonal_variability.py",
    ),
    Mutant(
        "priors/smooth_variability.py",
        "np.sqrt(values[strong])",
        "values[strong]",
        "priors/test_smooth_variability.py",
    ),
    # mixing
    Mutant(
        "mixing/forward.py",
        "return 0.5 * (clip_to_simplex",
        "return (clip_to_simplex",
        "mixing/test_mixing.py",
    ),
    Mutant(
        "mixing/forward.py",
        "return linear if self.is_linear else linear +",
        "return linear if self.is_linear else linear -",
        "mixing/test_mixing.py mixing/test_hapke.py models/test_idnet_parts.py",
    ),
    Mutant(
        "mixing/hapke.py",
        "return 2 * (k - r) / (b + root)",
        "return (k - r) / (b + root)",
        "mixing/test_hapke.py",
    ),
    Mutant(
        "mixing/hapke.py",
        "return _reweighted(masses, densities, diameters, -1)",
        "return _reweighted(masses, densities, diameters, 1)",
        "mixing/test_hapke.py",
    ),
    # io
    Mutant(
        "io/formats/envi.py",
        "shape, offset=offset, interleave",
        "shape, offset=0, interleave",
        "io/test_io_lazy.py io/test_io_lazy_formats.py io/test_io_envi.py",
    ),
    Mutant(
        "io/formats/envi.py", 'found["scale"] = 1 / ', 'found["scale"] = 1 * ', "io/test_io_envi.py"
    ),
    Mutant(
        "io/spectral_axis.py",
        '("micron", "microns"), 1000.0',
        '("micron", "microns"), 1.0',
        "io/test_io_bands.py io/test_io_envi.py",
    ),
    Mutant(
        "io/formats/netcdf_packing.py",
        "self.low > info.min",
        "self.low >= info.min",
        "io/test_io_netcdf_packing.py",
    ),
    Mutant(
        "io/reflectance.py",
        "empty &= missing.all(axis=0)",
        "empty &= missing.any(axis=0)",
        "io/test_io_reflectance.py io/test_io_bands.py",
    ),
    Mutant(
        "io/libraries/tables.py",
        "== (1 if up else -1)",
        "== (-1 if up else 1)",
        "io/test_library.py io/test_library_databases.py",
    ),
    Mutant(
        "io/uncertainty.py",
        "np.sqrt(squares / np.where",
        "(squares / np.where",
        "methods/test_uncertainty.py io/test_io_emit.py",
    ),
    # simulate
    Mutant(
        "simulate/scene.py",
        "-snr_db / 10.0",
        "-snr_db / 20.0",
        "simulate/test_simulate.py simulate/test_simulate_scenes.py",
    ),
    Mutant(
        "simulate/maps.py",
        "weights / weights.sum(axis=0)",
        "weights / weights.sum(axis=1, keepdims=True)",
        "simulate/test_simulate.py",
    ),
    Mutant(
        "simulate/smooth.py",
        "np.sqrt(1 - memory**2) * fresh",
        "(1 - memory) * fresh",
        "simulate/test_simulate_scenes.py simulate/test_simulate.py",
    ),
    Mutant(
        "simulate/scaled.py",
        "SMALLEST_SCALING + np.abs(walk - SMALLEST_SCALING)",
        "walk",
        "simulate/test_simulate.py simulate/test_simulate_scenes.py",
    ),
    # bases
    Mutant(
        "bases/linear.py",
        "(2 * band[:, None] + 1) * k",
        "(2 * band[:, None]) * k",
        "models/test_sglmm.py models/test_sglmm_density.py",
    ),
    Mutant(
        "bases/linear.py",
        "torch.where(k == 0, 1.0, 2.0)",
        "torch.where(k == 0, 2.0, 2.0)",
        "models/test_sglmm.py models/test_sglmm_density.py",
    ),
    Mutant(
        "bases/linear.py",
        "np.sqrt(max(count - 1, 1))",
        "np.sqrt(max(count, 1))",
        "data/test_library_classes.py",
    ),
    Mutant(
        "bases/decoded.py",
        "max(math.ceil(num_bands / 10), latent_size + 1)",
        "max(math.ceil(num_bands / 4), latent_size + 1)",
        "models/test_idnet_parts.py",
    ),
    # models
    Mutant(
        "models/smoothness.py",
        "energy + _squares(field) / self.level_scale**2",
        "energy",
        "methods/test_hbun_densities.py",
    ),
    Mutant(
        "models/smoothness.py",
        "2 - 2 * torch.cos(math.pi * k / size)",
        "2 + 2 * torch.cos(math.pi * k / size)",
        "methods/test_hbun_densities.py",
    ),
    Mutant(
        "models/sglmm.py",
        'latents[f"psi_{t}"] for t in dates], dim=-2)',
        'latents[f"psi_{t}"] for t in dates], dim=-2).flip(-2)',
        "models/test_sglmm.py",
    ),
    # guides
    Mutant(
        "guides/conjugate/path.py",
        "u = moment[:, None] - b",
        "u = moment[:, None] + b",
        "guides/test_path.py guides/test_conjugate.py",
    ),
    Mutant(
        "guides/conjugate/smoother.py",
        "_plus(gain.clone(), -1.0)",
        "_plus(gain.clone(), 1.0)",
        "guides/test_smoother.py",
    ),
    Mutant(
        "guides/conjugate/smoother.py",
        "apply(gain, loc) + apply(noise, vectors[:, t])",
        "apply(gain, loc)",
        "guides/test_smoother.py",
    ),
    Mutant(
        "guides/conjugate/variability.py",
        "self.variance[1:2] + first.square()",
        "self.variance[1:2] + first",
        "guides/test_variability.py guides/test_exact_variability.py",
    ),
    Mutant(
        "guides/shrinkage.py",
        "step * (slope + shrinkage)",
        "step * (slope - shrinkage)",
        "models/test_idnet_parts.py methods/test_idnet_densities.py",
    ),
    # kernels
    Mutant(
        "kernels/truncated.py",
        "score = torch.where(turned, -score, score)",
        "score = torch.where(turned, score, score)",
        "kernels/test_kernels.py",
    ),
    Mutant(
        "kernels/concentration.py",
        "+ (alpha - 1) * total",
        "+ 0.5 * (alpha - 1) * total",
        "kernels/test_kernels_exact.py kernels/test_kernels.py",
    ),
    Mutant(
        "kernels/residual.py",
        "1 + 0.5 * left.numel()",
        "1 + left.numel()",
        "kernels/test_kernels.py kernels/test_kernels_exact.py",
    ),
    Mutant(
        "kernels/collapsed.py",
        "inner - coupling @ coupling.mT",
        "inner + coupling @ coupling.mT",
        "kernels/test_collapsed.py",
    ),
    Mutant(
        "kernels/abundances.py",
        "target = marginal.log_likelihood + (alpha - 1)",
        "target = marginal.log_likelihood + alpha",
        "kernels/test_kernels.py kernels/test_kernels_exact.py",
    ),
    # posterior
    Mutant(
        "posterior/intervals.py",
        "tail = (1 - level) / 2",
        "tail = 1 - level",
        "posterior/test_intervals.py",
    ),
    Mutant(
        "posterior/intervals.py",
        "mean * (1 - mean) / variance - 1",
        "mean * (1 - mean) / variance",
        "posterior/test_intervals.py posterior/test_joint_intervals.py",
    ),
    Mutant(
        "posterior/intervals.py",
        "math.ceil(level * (count + 1)), count) - 1",
        "math.ceil(level * (count + 1)), count) - 2",
        "posterior/test_joint_intervals.py",
    ),
    Mutant(
        "posterior/evidence.py",
        "np.exp(weights - largest).mean(0)",
        "np.exp(weights - largest).sum(0)",
        "posterior/test_evidence.py",
    ),
    Mutant(
        "posterior/evidence.py",
        "ordered[-size:]) - np.exp(ordered[-size - 1])",
        "ordered[-size:]) - np.exp(ordered[-size])",
        "posterior/test_pareto.py",
    ),
    # start
    Mutant(
        "start/num_endmembers.py",
        "power > 2 * variance",
        "power > variance",
        "start/test_num_endmembers.py",
    ),
    Mutant(
        "start/num_endmembers.py",
        "(count - bands + 1)",
        "(count - 1)",
        "start/test_num_endmembers.py",
    ),
    Mutant(
        "start/extraction.py",
        'np.argsort(-abundances, axis=0, kind="stable")[:count]\n    return np.median',
        'np.argsort(abundances, axis=0, kind="stable")[:count]\n    return np.median',
        "start/test_endmembers.py",
    ),
    Mutant(
        "start/purity.py",
        "(pure - rest @ matrix.T)",
        "(pure + rest @ matrix.T)",
        "start/test_purity.py start/test_choice.py",
    ),
    Mutant(
        "start/seasons.py",
        "np.cos(phase), np.sin(phase)], axis=1)",
        "np.cos(phase), np.cos(phase)], axis=1)",
        "start/test_seasons.py",
    ),
    # infer
    Mutant(
        "infer/stopping.py",
        "before.mean() - after.mean() <= 2 * error",
        "before.mean() - after.mean() >= 2 * error",
        "infer/test_fit_outcome.py infer/test_fit_steps.py",
    ),
    Mutant(
        "infer/weighted_elbo.py",
        'if not msg["is_observed"]',
        'if msg["is_observed"]',
        "infer/test_weighted_elbo.py",
    ),
    Mutant(
        "infer/between_chains.py",
        "(factor - 1) * (1 - 1 / len(own))",
        "(factor - 1)",
        "infer/test_between_chains.py",
    ),
    Mutant(
        "infer/between_chains.py",
        "(count + 1) / (count - 1)",
        "count / (count - 1)",
        "infer/test_between_chains.py",
    ),
    # methods
    Mutant(
        "methods/kalman_em.py",
        "covariance = covariance + parameters.step_covariance",
        "covariance = covariance",
        "methods/test_kalman_em.py",
    ),
    Mutant(
        "methods/mesma.py",
        "found[rmse > max_rmse] = np.nan",
        "found[rmse < max_rmse] = np.nan",
        "methods/test_library_methods.py",
    ),
    Mutant(
        "methods/online_unmixing.py",
        "self.gram = rho * self.gram + gram",
        "self.gram = self.gram + gram",
        "methods/test_online.py methods/test_online_steps.py",
    ),
    Mutant(
        "methods/weights.py",
        "weights = 1 / finite_array",
        "weights = 1.0 * finite_array",
        "methods/test_uncertainty.py",
    ),
    # metrics
    Mutant(
        "metrics/scores.py", "count += true.size", "count += len(true)", "metrics/test_metrics.py"
    ),
    Mutant(
        "metrics/scores.py",
        "(low <= true) & (true <= high)",
        "(low <= true) | (true <= high)",
        "metrics/test_metrics.py",
    ),
    Mutant(
        "metrics/agreement.py",
        "values.mean(axis=1)",
        "values.mean(axis=2)",
        "metrics/test_agreement.py",
    ),
    Mutant(
        "metrics/matched.py",
        "(differences**2).sum(axis=0)",
        "(-(differences**2)).sum(axis=0)",
        "metrics/test_metrics.py metrics/test_arrays_as_truth.py",
    ),
    # plots
    Mutant(
        "plots/composite.py",
        "1.0 - shares.sum(axis=-1, keepdims=True)",
        "shares.sum(axis=-1, keepdims=True)",
        "plots/test_plot_composite.py",
    ),
    Mutant(
        "plots/verdict.py",
        "if worst <= LARGEST_R_HAT",
        "if worst > LARGEST_R_HAT",
        "plots/test_report.py",
    ),
    Mutant(
        "plots/style.py",
        "return {1: 1, 2: 2, 4: 2}.get(num_materials, 3)",
        "return {1: 1, 2: 2, 4: 2}.get(num_materials, 2)",
        "plots/test_plots.py plots/test_plot_maps.py plots/test_plot_endmembers.py",
    ),
    Mutant(
        "plots/fans.py",
        "order[:MAX_BAND_SPECTRA]], [5, 50, 95]",
        "order[:MAX_BAND_SPECTRA]], [25, 50, 75]",
        "plots/test_plot_endmembers.py",
    ),
    # cli
    Mutant(
        "cli/score.py",
        'notnull().all("endmember")',
        'notnull().any("endmember") & False',
        "cli/test_cli_score.py",
    ),
    Mutant(
        "cli/arguments.py",
        "row + height <= rows",
        "row + height < rows",
        "cli/test_cli_scene.py cli/test_cli_files.py",
    ),
    Mutant(
        "cli/info.py",
        "np.isnan(values).any(axis=-1) & values.any(axis=-1)",
        "np.isnan(values).any(axis=-1)",
        "cli/test_cli_info.py",
    ),
]
