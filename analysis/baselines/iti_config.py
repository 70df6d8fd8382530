"""How ITI is fitted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from lofit_lens.analysis.baselines.validation import StrengthConfig
from lofit_lens.errors import LofitLensError, check_one_of, check_whole

Direction = Literal["mass-mean", "probe", "random"]
"""Which way a head is shifted; always a unit vector.

* `mass-mean`: from the mean of wrong to the mean of right statements, of train and val together.
* `probe`: up the gradient of the log-odds of the head's probe, which is trained on train.
* `random`: drawn uniformly with the seed; the heads stay those of the probes.
"""

Sigma = Literal["train", "legacy"]
"""Which statements give the standard deviation along the direction.

* `train`: those of train and val (ITI, section 4).
* `legacy`: those of the test as well. It is the leak of ITI's released code and not its texts: it
  reads every answer of the test questions, though not which of them are right. A task has its test
  in the format of the test only, so on TruthfulQA those texts have the instruction and the primer
  in front and a full stop behind, which train and val have not. The code takes other texts for
  sigma, with a second question drawn at random behind the answer ("Q: … A: … Q: …").
"""


@dataclass(frozen=True, kw_only=True)
class ITIConfig(StrengthConfig):
    """How ITI is fitted. With more than one alpha or K, the best pair on validation is taken.

    Raises:
        LofitLensError: A value is out of range; the message names it.
    """

    direction: Direction = "mass-mean"
    """Which way a head is shifted."""
    sigma: Sigma = "train"
    """Which statements give the standard deviation along the direction."""
    alphas: tuple[float, ...] = (1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0, 50.0, 80.0)
    """Strengths to choose from, in standard deviations along the direction."""
    ks: tuple[int, ...] | None = None
    """Numbers of heads to choose from; None takes `fraction`, or all heads that are given."""
    fraction: float = 0.03
    """Share of heads where `ks` is None and no heads are given."""

    def __post_init__(self) -> None:
        for name, kind in (("direction", Direction), ("sigma", Sigma)):
            check_one_of(name, getattr(self, name), get_args(kind))
        super().__post_init__()
        if self.ks is not None and not self.ks:
            raise LofitLensError("ks must be one or more numbers, got ().")
        for k in self.ks or ():
            check_whole("ks", k, 1)
        if not 0 < self.fraction <= 1:
            raise LofitLensError(f"fraction must be in (0, 1], got {self.fraction}.")

    @classmethod
    def legacy(cls, *, k: int | None = 48) -> ITIConfig:
        """Alpha 15 and the positions of ITI's first released code, sigma "legacy"; nothing chosen.

        The texts are not the code's; see `Sigma` and the module `statements`.

        Args:
            k: Number of heads; None takes 3% of them, as LoFiT's comparison does (its section 4).
        """
        return cls(
            sigma="legacy", scope="iti_compat", alphas=(15.0,), ks=None if k is None else (k,)
        )
