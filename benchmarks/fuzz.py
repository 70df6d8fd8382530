"""Coverage-guided fuzzing of one reader, by hand, with what atheris finds in libFuzzer.

    pip install --no-deps atheris
    python benchmarks/fuzz.py record [--seconds 120] [--corpus FOLDER]

The readers, and what counts as a fault, are those of `bad_input`. An input is made from one that reached
new lines of ours, by libFuzzer or as in `mutations`. Each new fault is printed once, with the file that
has it, and the run goes on; it ends with 1 if there was one.
"""

from __future__ import annotations

import argparse
import gzip
import os
import random
import resource
import sys
import time
import warnings
import zlib
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psutil

atheris: Any = import_module("atheris")

with atheris.instrument_imports(include=["lofit_lens"]):
    from benchmarks.bad_input import MEMORY, READERS, Count, outcome, show
    from benchmarks.mutations import mutated

LONGEST = 2**18
"""Bytes of an input."""


def main() -> None:
    """Fuzz the reader that is named; atheris ends the process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reader", choices=READERS)
    parser.add_argument("--seconds", type=int, default=120)
    parser.add_argument("--corpus", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    reader, count, faults = READERS[options.reader], Count(), set[str]()
    place = TemporaryDirectory()
    good = {path: path.read_bytes() for path in reader.write(Path(place.name))}
    files = list(good)
    corpus = options.corpus or Path(mkdtemp(prefix="fuzz-"))
    corpus.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(files):  # the first byte of an input says which file it is
        show(reader.read(path))
        content = good[path]
        plain = gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
        (corpus / f"good-{number}").write_bytes(bytes([number]) + plain)
    used = psutil.Process().memory_info().vms + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (used, used))
    end = time.monotonic() + options.seconds

    def one_input(data: bytes) -> None:
        path = files[data[0] % len(files) if data else 0]
        zipped = good[path].startswith(b"\x1f\x8b")
        path.write_bytes(gzip.compress(data[1:], 1) if zipped else data[1:])
        fault = outcome(reader, path, count)
        count.tried += 1
        if fault is not None and fault not in faults:
            faults.add(fault)
            kept = corpus / f"fault-{len(faults)}"
            kept.write_bytes(data)
            print(f"{fault}\n    {kept}", flush=True)
        path.write_bytes(good[path])
        if time.monotonic() > end:
            print(
                f"{options.reader}: {count.tried} inputs, {count.accepted} accepted, {count.refused} "
                f"refused, {len(faults)} kinds of faults; corpus in {corpus}",
                flush=True,
            )
            place.cleanup()
            os._exit(bool(faults))

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < 0.5:
            # what is made bad may be too bad for that already
            with suppress(EOFError, OSError, RecursionError, TypeError, ValueError, zlib.error):
                return (data[:1] + mutated(data[1:], rng))[:most]
        return atheris.Mutate(data, most)

    libfuzzer = [sys.argv[0], str(corpus), f"-max_len={LONGEST}", "-timeout=0", "-verbosity=0"]
    atheris.Setup(libfuzzer, one_input, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
