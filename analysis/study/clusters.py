"""Parsl as an engine: several GPUs, SLURM, PBS, Kubernetes and others."""

from __future__ import annotations

import runpy
from concurrent.futures import Executor
from importlib.util import find_spec
from pathlib import Path

from lofit_lens.errors import LofitLensError


def parsl_executor(path: str | Path) -> Executor:
    """An executor of Parsl, to be given as `workers`; shut it down behind the work.

    Parsl starts programs of its own by their names: the `bin` of the environment must be on `PATH`, as
    it is where the environment is activated.

    Args:
        path: A Python file that defines `config`, a `parsl.Config`. It is run.

    Raises:
        LofitLensError: Parsl is not installed, there is no such file, it defines no `config`, or one with
            a blank in `run_dir`, where Parsl would wait for its workers forever.
    """
    if find_spec("parsl") is None:
        raise LofitLensError('Parsl is not installed: pip install "lofit-lens[cluster]".')
    from parsl import Config
    from parsl.concurrent import ParslPoolExecutor

    if not Path(path).is_file():
        raise LofitLensError(f"There is no file {path}; give a Python file that defines `config`.")
    config = runpy.run_path(str(path)).get("config")
    if not isinstance(config, Config):
        raise LofitLensError(
            f"{path} must define `config`, a parsl.Config; got {type(config).__name__}."
        )
    if any(map(str.isspace, config.run_dir)):
        raise LofitLensError(
            f"run_dir of {path} has a blank in it, so that Parsl could not start its workers; got "
            f"{config.run_dir!r}. Name another folder."
        )
    return ParslPoolExecutor(config=config)
