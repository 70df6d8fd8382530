r"""Files named as tasks, with what is said of their columns.

* `questions.csv`: the file alone.
* `questions.csv?prompt=Q: {q} A:&answer=a`: the file with arguments of `from_file` behind it.
  `&NAME=` begins the next one, `\&` is the character itself, a name given again makes a list.
* `questions.toml`: a task file with `file = "questions.csv"`, or `train`, `val` and `test` for
  three files, and with any argument of `from_file`. Paths count from its folder. Arguments behind
  its name replace those in it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lofit_lens.documents import TOO_DEEP, check_content, check_size
from lofit_lens.errors import DataError, LofitLensError
from lofit_lens.files import whole
from lofit_lens.tasks.arguments import read_arguments
from lofit_lens.tasks.data import SPLITS, find

TASK_FILE = ".toml"


@dataclass(frozen=True)
class NamedFile:
    """A file, or one for each split, and the arguments of `from_file` that came with it."""

    path: str | Mapping[str, str]
    arguments: Mapping[str, Any]


def named_file(name: str | Mapping[str, str]) -> NamedFile | None:
    """The file a task is named by; None where the name is not that of a file.

    Args:
        name: As above, or the files of the splits.

    Raises:
        LofitLensError: An argument is unknown or of the wrong type.
        DataError: A task file cannot be read or does not name its files.
    """
    if not isinstance(name, str):
        return NamedFile(dict(name), {})
    with_arguments = re.fullmatch(r"(.+?)\?([\w-]+=.*)", name, flags=re.DOTALL)
    path, behind = with_arguments.groups() if with_arguments else (name, "")
    if not Path(path).suffix:
        return None
    arguments = read_arguments(_behind(behind), path)
    if Path(path).suffix != TASK_FILE:
        return NamedFile(path, arguments)
    found = _task_file(find(path))
    return NamedFile(found.path, {**found.arguments, **arguments})


def _behind(text: str) -> dict[str, str | list[str]]:
    """The arguments behind a file's name, as they were written."""
    found: dict[str, list[str]] = {}
    for part in re.split(r"(?<!\\)&(?=[\w-]+=)", text) if text else ():
        name, _, value = part.partition("=")
        found.setdefault(name, []).append(value.replace("\\&", "&"))
    return {name: texts[0] if len(texts) == 1 else texts for name, texts in found.items()}


def _task_file(path: Path) -> NamedFile:
    if not path.is_file():
        raise DataError(f"There is no task file {path}.")
    try:
        raw = whole(path)
        check_size(raw)
        content = tomllib.loads(raw.decode("utf-8-sig").replace("\r\n", "\n"))
        check_content(content)
    except RecursionError as error:
        raise DataError(f"The task file {path} cannot be read: {TOO_DEEP}.") from error
    except (OSError, ValueError, LofitLensError) as error:
        raise DataError(f"The task file {path} is not TOML: {error}.") from error
    files = {name: content.pop(name) for name in ("file", *SPLITS) if name in content}
    arguments = read_arguments(content, str(path), beside=("file", *SPLITS))
    if not files or ("file" in files and len(files) > 1):
        raise DataError(
            f'{path} must name its data: file = "questions.csv", or train, val and test for three '
            f"files; got {', '.join(files) or 'none of them'}."
        )
    if not all(isinstance(file, str) for file in files.values()):
        raise DataError(f"{path}: {', '.join(files)} must be paths in quotes.")
    paths = {name: str(path.parent / Path(file).expanduser()) for name, file in files.items()}
    missing = [place for place in paths.values() if not find(place).is_file()]
    if missing:
        raise DataError(f"There is no file {missing[0]}, which {path} names.")
    return NamedFile(paths.get("file", paths), {"name": path.stem, **arguments})
