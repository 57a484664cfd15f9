"""What the abundances of a result are an estimate of, and how its draws are made."""

from __future__ import annotations

from dataclasses import dataclass

from pyro_unmix.ops.checks import in_range, positive_int

#: Up to as many pixel-dates, sweeps are taken without being asked for and without a word.
MOST_POLISHED = 100_000
_MANY_DATES = 50  # from which on the sweeps of a pixel take longer than in proportion


def are_many_to_polish(num_pixels: int, num_dates: int) -> bool:
    """Whether sweeps take longer than for `MOST_POLISHED` pixel-dates of sequences of some dates."""
    return num_pixels * num_dates * max(1.0, num_dates / _MANY_DATES) > MOST_POLISHED


@dataclass(frozen=True)
class PosteriorMean:
    """Abundances are read out as the posterior mean on the simplex.

    Parameters
    ----------
    num_samples : int
        Draws behind mean and standard deviation.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> pu.posterior.PosteriorMean(num_samples=32)
    PosteriorMean(num_samples=32)
    """

    num_samples: int = 64

    def __post_init__(self) -> None:
        positive_int(self.num_samples, "num_samples", minimum=2)


@dataclass(frozen=True)
class PlugInMean(PosteriorMean):
    """Algorithm 1 of the ReDSUNN paper: every site's mean, fed forward; the std is of draws all the same.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> pu.posterior.PlugInMean(num_samples=32)
    PlugInMean(num_samples=32)
    """


@dataclass(frozen=True)
class PolishedMean(PosteriorMean):
    """As `PosteriorMean`, of draws that Markov-chain sweeps carried from the guide to the model's own posterior.

    Mean, std, samples and quantiles of a result all follow it; losses and `Unmixing.diagnose` are still the guide's.
    Needs a linear model with Gaussian noise, such as `SGLMM` with its defaults, and any guide. With more sweeps the
    draws come to the posterior given the trained parameters; near the corners of the simplex, where a guide leans
    inwards most, that takes more than sixteen sweeps of the exact kind.

    Parameters
    ----------
    num_samples : int
        Draws behind mean and standard deviation; four of them are states of one chain.
    num_sweeps : int
        Rounds of moves of every chain; the draws are spread over the second half of them. 0: the guide's own draws.
    noise_factor : float
        By which the model's noise is multiplied in the posterior: above one where the model does not explain all
        spectra, see `misfit_factor`.
    exact : bool
        Whether the sweeps leave the model's own posterior as it is. False: they move abundances alone, in a likelihood
        whose variability is integrated out once, over all dates, its covariance that of the guide's mean abundances
        (`Quadratic`). That is several times faster, and as no variability holds a chain back, sixteen sweeps come
        further than hundreds of the exact ones where dates are many.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> pu.posterior.PolishedMean(num_sweeps=8, noise_factor=1.5)
    PolishedMean(num_samples=64, num_sweeps=8, noise_factor=1.5, exact=True)
    """

    num_sweeps: int = 16
    noise_factor: float = 1.0
    exact: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        positive_int(self.num_sweeps, "num_sweeps", minimum=0)
        in_range(self.noise_factor, "noise_factor", low=0.0, open_low=True)
        if not isinstance(self.exact, bool):
            raise TypeError(f"exact must be True or False, got {self.exact!r}")


def as_estimate(estimate: object) -> PosteriorMean:
    """The estimate, if it is one.

    Raises
    ------
    TypeError
    """
    if not isinstance(estimate, PosteriorMean):
        raise TypeError(
            f"estimate must be PosteriorMean(), PlugInMean() or PolishedMean(), got {estimate!r}"
        )
    return estimate
