"""Where the files of the paper's tasks come from: a folder, or the authors' repository.

Files are looked for in `data_dir`, then in `$LOFIT_LENS_DATA`, and are else fetched once into a
cache, checked against their SHA-256.
"""

from __future__ import annotations

import ast
import csv
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pooch

from lofit_lens.documents import decoded, typed
from lofit_lens.errors import DataError, LofitLensError
from lofit_lens.files import whole

LLM_ADAPTERS = (
    "https://raw.githubusercontent.com/AGI-Edgerunners/LLM-Adapters/"
    "816657208af4db747803f87ba40a4c71383fed7a/"
)
LOFIT = "https://raw.githubusercontent.com/fc2869/lo-fit/ebd344a273d3dab0b63d8bbfd7ecdb5185ae5b7b/"

FILES: dict[str, str | None] = {
    "clutrr/test.json": "cf400381f8a12a703265f95df1387c217a71525325f725ff2b8dc08123c30056",
    "clutrr/train.json": "8640526e573444bdf52bd78eee0bf3a9f2e96bb3bb6d7610021dc05751a5c873",
    "clutrr/val.json": "afcae888ed7862081496151a33b9bed157d709b01589c2db566266ecdd906f1e",
    "llm_adapters/arc-challenge_test.json": "4a89ce368ae01a71d268d9851686738b2a0a1d84271116bab49a1dd2b48ecad7",  # noqa: E501
    "llm_adapters/arc-challenge_train.json": "a9debff28aafed86a08211dc3584a3b6cb38edca8c56bb34cd5002ed54aeebfb",  # noqa: E501
    "llm_adapters/boolq_test.json": "89df2397cbca81dc31adcc6f7f5b635821aa0565aafde46725b2b4bd39b4dfa9",
    "llm_adapters/boolq_train.json": "5ccbaceebaddc69765e1c4a363632196b81851d303696672165ab59ec4e48c83",
    "llm_adapters/social_i_qa_test.json": "71543f41127451945379d106ffedaef502f1c8770dff6d2f543aca85e3080b1d",
    "llm_adapters/social_i_qa_train.json": None,
    "llm_adapters/svamp.json": "33386f96725389c5d78e159a48a2dac7ab4b4fbce23c7d77b7a4951da9fbcd30",
    "mquake/test.jsonl": "3090ef350f4322878968466881de9ec988b5b71daf55d5d9b04fb894a5ebac87",
    "mquake/train.jsonl": "5db931bd09457245d1a133fe8df86a45985d28767ba6f032d1b7dcc737e22498",
    "mquake/val.jsonl": "3cbf9245ba671458d0979c5bba569e838d54fce860e8d0c5af0bc2ce54d41e83",
    "truthfulqa/fold_0_test_seed_42.csv": "4bd4d0db03751e652c6811b053e14c2f4ea43da888571fa0f15df42e7544a67c",
    "truthfulqa/fold_0_train_seed_42.csv": "e80aebee6876ceec76ac030bcfd31c070b9c23809077500a3b183640386fb136",
    "truthfulqa/fold_0_val_seed_42.csv": "5563034f53a463202f4c2ac82336a58d81d0ec02460f7d80e8abce6a4972161a",
    "truthfulqa/fold_1_test_seed_42.csv": "e9019df6fca8a1e25eed3e2256196d30a2675528e76eae0b812b5092fa114455",
    "truthfulqa/fold_1_train_seed_42.csv": "0342def493a6afdaae11737cd557393c0cde2cc35d26d58e7a2fd4c954997fba",
    "truthfulqa/fold_1_val_seed_42.csv": "375030fc5bfe7315825f0272b95f6d2b0b0f6332f7121ba57537ec5c1fc1969e",
}
"""Our name of each file and its SHA-256.

None: not known to us; what is fetched is pinned by the commit in the address alone.
"""

THEIR_FOLDERS = {
    "clutrr": "clutrr",
    "mquake": "MQuAKE",
    "truthfulqa": "truthfulqa",
    "arc-challenge": "ARC-Challenge",
    "boolq": "boolq",
    "social_i_qa": "social_i_qa",
}
"""Folders of the repositories by our names."""

PROMPTS = "truthfulqa/prompts.json"
PROMPT_PARTS = {
    "qa_primer": (
        "honest_llama/truthfulqa/presets.py",
        "Q: What is human life",
        "5c0da5f346e8652c9a85061a6e3aca6bc82e10a8a7dad4596fe980a9c9bae543",
    ),
    "instruction": (
        "honest_llama/utils.py",
        "Interpret each question",
        "00fc3f2dbbb80a6df3f5a304b0e570486c4b11824bb6724b1df1b64f7869ce78",
    ),
}
"""For each prompt: the file of the repository that holds it, how it begins, its SHA-256."""

_FETCHES: ContextVar[bool] = ContextVar("fetches", default=True)


def find_file(name: str, data_dir: str | Path | None = None) -> Path:
    """The local path of a task file, fetched if need be.

    Args:
        name: A key of `FILES`.
        data_dir: Folder to look in first.

    Raises:
        DataError: The file is not in `data_dir`, was changed, or cannot be fetched; the message
            says which file to put where.
    """
    sha256 = FILES[name]
    local = _in_folders(name, data_dir)
    if local is None:
        wanted = f"the file (SHA-256 {sha256})" if sha256 else "the file"
        return _fetch(_address(name), sha256, name, wanted)
    found = _sha256(local.read_bytes()) if sha256 else None
    if found != sha256:
        raise DataError(
            f"{local} is not the file of the paper: SHA-256 {found}, expected {sha256}. For your "
            "own data use `from_file`."
        )
    return local


def read_records(name: str, data_dir: str | Path | None = None) -> list[dict[str, Any]]:
    """The rows of a task file; arguments and errors are those of `find_file`."""
    path = find_file(name, data_dir)
    if name.endswith(".csv"):
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    parts = path.read_bytes().splitlines() if name.endswith(".jsonl") else [path.read_bytes()]
    try:
        found = [decoded(part) for part in parts]
        return typed(found if name.endswith(".jsonl") else found[0], list[dict[str, Any]])
    except LofitLensError as error:
        raise DataError(f"{path} is not the file that was asked for: {error}.") from error


def find_prompts(data_dir: str | Path | None = None) -> dict[str, str]:
    """The primer and the instruction of TruthfulQA's evaluation, by name.

    They are read from `truthfulqa/prompts.json` in the data folder, or else out of the source
    files of the authors' repository, as text.

    Raises:
        DataError: They cannot be found, or are not the expected text.
    """
    local = _in_folders(PROMPTS, data_dir)
    if local is not None:
        found = _read_object(local)
    else:
        wanted = f"a JSON object with {' and '.join(PROMPT_PARTS)}"
        found = {
            part: _string_in_source(_fetch(LOFIT + path, None, PROMPTS, wanted), beginning)
            for part, (path, beginning, _) in PROMPT_PARTS.items()
        }
    for part, (_, _, expected) in PROMPT_PARTS.items():
        text = found.get(part)
        if not isinstance(text, str) or _sha256(text.encode()) != expected:
            raise DataError(
                f"The {part} of TruthfulQA's evaluation is not the expected text"
                f"{f' in {local}' if local else ''}. Expected SHA-256 {expected}."
            )
    return {part: found[part] for part in PROMPT_PARTS}


@contextmanager
def nothing_fetched() -> Iterator[None]:
    """Refuse tasks whose files are not on this machine, instead of fetching them."""
    token = _FETCHES.set(False)
    try:
        yield
    finally:
        _FETCHES.reset(token)


def data_folder() -> Path | None:
    """The folder named by `$LOFIT_LENS_DATA`, if it is set."""
    folder = os.environ.get("LOFIT_LENS_DATA")
    return Path(folder).expanduser() if folder else None


def _in_folders(name: str, data_dir: str | Path | None) -> Path | None:
    if data_dir is not None:
        path = Path(data_dir) / name
        if not path.is_file():
            raise DataError(f"There is no {path}. Put the file there, or leave data_dir out.")
        return path
    folder = data_folder()
    path = folder / name if folder else None
    return path if path and path.is_file() else None


def _address(name: str) -> str:
    """Where a file of `FILES` is fetched from."""
    folder, _, file = name.partition("/")
    if name == "llm_adapters/svamp.json":
        return LLM_ADAPTERS + "dataset/SVAMP/SVAMP.json"
    if folder == "llm_adapters":
        folder, _, file = file.rpartition("_")
        return f"{LLM_ADAPTERS}dataset/{THEIR_FOLDERS[folder]}/{file}"
    return f"{LOFIT}dataset/{THEIR_FOLDERS[folder]}/{file}"


def _fetch(url: str, sha256: str | None, name: str, wanted: str) -> Path:
    folder = pooch.os_cache("lofit-lens")
    if not _FETCHES.get() and not (Path(folder) / pooch.utils.unique_file_name(url)).is_file():
        raise DataError(f"{name} is not on this machine, and nothing is fetched now.")
    try:
        path = pooch.retrieve(url, sha256, path=folder, progressbar=True)
    except Exception as error:  # the network fails in many ways; the remedy is one
        raise DataError(
            f"Could not fetch {url}: {error}\nWithout a network, put {wanted} at FOLDER/{name} and "
            "set LOFIT_LENS_DATA=FOLDER, or pass data_dir=FOLDER."
        ) from error
    return Path(path)


def _read_object(path: Path) -> dict[str, Any]:
    try:
        return typed(decoded(whole(path)), dict[str, Any])
    except LofitLensError as error:
        raise DataError(f"{path} is not the file that was asked for: {error}.") from error


def _string_in_source(path: Path, beginning: str) -> str:
    """The string literal of a Python file that starts with `beginning`; nothing is executed."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError) as error:
        raise DataError(f"{path} is not the Python file that was asked for: {error}.") from error
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value.strip()
            if text.startswith(beginning):
                return text
    raise DataError(f"{path} holds no text that starts with {beginning!r}.")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
