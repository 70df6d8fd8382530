"""ITI's probes: ours for all heads against scikit-learn's, one head at a time, on one thread.

    OMP_NUM_THREADS=1 python benchmarks/probes.py [--heads 1024] [--repeats 1]

The activations are drawn, 128 dimensions and 2,350 texts to train on a head, with the spectra that
`hook_z` at the last token shows in two small models. On standardised features, the eigenvalues of
the covariance fall off geometrically in both: the condition number alone predicts the number of
effective dimensions (the squared sum over the sum of squares) to 10%.

- stories3M on 3,112 statements of TruthfulQA (36 heads of 32 dimensions): condition number 9 to
  210, median 23; scikit-learn takes 8 to 20 steps.
- the embedded model on its tasks (64 heads of 8 dimensions): 9 to 47,000, median 300 to 450;
  scikit-learn takes 7 to 24 steps.

No model with heads of 128 dimensions was at hand, so each head draws its condition number from one
of these ranges, evenly on a logarithmic scale; scikit-learn then takes about 20 steps in the first
range and 60 in the second. Means are about half a standard deviation. The labels are a noisy
linear rule: a hidden number of each text, seen through noise in the label and, along a random
direction, more or less strongly in each head.

Times are processor time of the one thread, so that other work on the machine counts little; the two
take turns after every 32 heads. scikit-learn stops at its own tolerance (1e-4 on the gradient of the
mean loss), which leaves more of an error than ours; on some heads both are compared with its
converged solution.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lofit_lens.analysis.baselines.probes import fit_probes, score_probes

TEXTS, HELD_OUT, D_HEAD, PER_LAYER = 2350, 600, 128, 32
CONDITION = {"white": (1, 1), "like stories3M": (9, 210), "like the embedded model": (9, 47_000)}
SOME = 16
"""Heads on which scikit-learn is also run to convergence, and on raw features as in ITI's code."""


def probe_rows(*, heads: int = 1024, repeats: int = 1) -> list[dict[str, Any]]:
    """Time both on each kind of data, turn by turn, a layer of 32 heads at a time.

    Args:
        heads: Number of heads, a multiple of 32.
        repeats: Times that all heads are fitted.
    """
    from threadpoolctl import threadpool_limits

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            return [_row(kind, heads, repeats) for kind in CONDITION]
    finally:
        torch.set_num_threads(threads)


def draw(kind: str, heads: int) -> tuple[Tensor, np.ndarray]:
    """Activations `[text, layer, head, d_head]` in float16, as a model may store them; labels."""
    rng = np.random.default_rng(0)
    n = TEXTS + HELD_OUT
    hidden = rng.standard_normal(n)
    right = hidden + 0.5 * rng.standard_normal(n) > 0
    z = torch.empty(n, heads // PER_LAYER, PER_LAYER, D_HEAD, dtype=torch.float16)
    for place in np.ndindex(*z.shape[1:3]):
        x = rng.standard_normal((n, D_HEAD), dtype=np.float32)
        along = rng.standard_normal(D_HEAD)
        x += np.outer(hidden, along * rng.uniform(0.3, 1.2) / np.linalg.norm(along))
        condition = np.exp(rng.uniform(*np.log(CONDITION[kind])))
        if condition > 1:
            turn = np.linalg.qr(rng.standard_normal((D_HEAD, D_HEAD)))[0]
            x = x * condition ** np.linspace(0, -0.5, D_HEAD) @ turn
            x += 0.5 * x.std(0) * rng.standard_normal(D_HEAD)
        z[:, *place] = torch.from_numpy(x)
    return z, right


def peak_memory(kind: str, heads: int) -> tuple[float, float]:
    """Most memory a fresh process held, in GB: with the activations drawn, and all heads fitted."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_fit_alone, kind, heads).result()


def _row(kind: str, heads: int, repeats: int) -> dict[str, Any]:
    drawn_gb, peak_gb = peak_memory(kind, heads)
    z, right = draw(kind, heads)
    known, labels, unseen = z[:TEXTS], right[:TEXTS], right[TEXTS:]
    fit_probes(known[:, :1], labels)
    _logistic(known[:, 0, 0].float().numpy(), labels)
    ours, theirs, steps, gaps = [], [], [], []
    for layer in list(range(z.shape[1])) * repeats:
        start = time.thread_time()
        probes = fit_probes(known[:, layer : layer + 1], labels)
        ours.append(time.thread_time() - start)
        scores = score_probes(probes, z[TEXTS:, layer : layer + 1], unseen).accuracy[0]
        seconds = 0.0
        for head in range(PER_LAYER):
            start = time.thread_time()
            x = known[:, layer, head].float().numpy()
            mean, std = x.mean(0), x.std(0)
            fitted = _logistic((x - mean) / std, labels)
            seconds += time.thread_time() - start
            steps.append(int(fitted.n_iter_[0]))
            held_out = (z[TEXTS:, layer, head].float().numpy() - mean) / std
            gaps.append(100 * (float(scores[head]) - fitted.score(held_out, unseen)))
        theirs.append(seconds)
    some = range(min(SOME, heads))
    start = time.thread_time()
    for head in some:
        _logistic(known[:, 0, head].float().numpy(), labels)
    raw = time.thread_time() - start
    errors = np.array([_errors(known[:, :1, head : head + 1], labels) for head in some])
    ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
    return {
        "data": kind,
        "heads": heads,
        "scikit-learn, s": sum(theirs) / repeats,
        "fit_probes, s": sum(ours) / repeats,
        "times faster": sum(theirs) / sum(ours),
        "of layers, lowest": min(ratios),
        "of layers, median": statistics.median(ratios),
        "of layers, highest": max(ratios),
        "scikit-learn, median steps": statistics.median(steps),
        "scikit-learn, ms a head": 1e3 * sum(theirs) / len(steps),
        "raw features, ms a head": 1e3 * raw / len(some),
        "error, scikit-learn": float(errors[:, 0].max()),
        "error, fit_probes": float(errors[:, 1].max()),
        "accuracy gap, mean points": statistics.mean(gaps),
        "accuracy gap, 99% of heads within points": float(np.quantile(np.abs(gaps), 0.99)),
        "accuracy gap, largest points": max(map(abs, gaps)),
        "activations drawn, GB": drawn_gb,
        "peak memory, GB": peak_gb,
    }


def _errors(z: Tensor, labels: np.ndarray) -> tuple[float, float]:
    """Distance of scikit-learn's and of our coefficients to the converged ones, relative."""
    x = z[:, 0, 0].float().numpy()
    x = (x - x.mean(0)) / x.std(0)
    best = _logistic(x.astype(np.float64), labels, tol=1e-9, max_iter=100_000).coef_[0]
    found = _logistic(x, labels).coef_[0], fit_probes(z, labels).weight[0, 0].numpy()
    theirs, ours = (float(np.linalg.norm(w - best) / np.linalg.norm(best)) for w in found)
    return theirs, ours


def _logistic(x: np.ndarray, labels: np.ndarray, tol: float = 1e-4, max_iter: int = 1000) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(tol=tol, max_iter=max_iter).fit(x, labels)


def _fit_alone(kind: str, heads: int) -> tuple[float, float]:
    torch.set_num_threads(1)
    z, right = draw(kind, heads)
    drawn = _peak_gb()
    fit_probes(z[:TEXTS], right[:TEXTS])
    return drawn, _peak_gb()


def _peak_gb() -> float:
    """From Linux: `getrusage` would include the process that started this one."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / 1e9


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--heads", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=1)
    given = parser.parse_args()
    for row in probe_rows(heads=given.heads, repeats=given.repeats):
        for name, value in row.items():
            print(f"{name:42}", f"{value:.3g}" if isinstance(value, float) else value)
        print()


if __name__ == "__main__":
    main()
