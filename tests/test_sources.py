from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from lofit_lens.errors import DataError
from lofit_lens.tasks import sources

NAME = "clutrr/val.json"
MQUAKE = "mquake/val.jsonl"
ARC, SIQA = "llm_adapters/arc-challenge_test.json", "llm_adapters/social_i_qa_train.json"
CONTENT = b'[{"made": "up"}]'


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def put(folder: Path, content: bytes = CONTENT, name: str = NAME) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return folder


@pytest.fixture(autouse=True)
def expected(monkeypatch: pytest.MonkeyPatch) -> None:
    """No folder is set, no network is there, and the pinned hash is that of `CONTENT`."""
    monkeypatch.delenv("LOFIT_LENS_DATA", raising=False)
    monkeypatch.setattr("pooch.retrieve", no_network)
    monkeypatch.setitem(sources.FILES, NAME, sha256(CONTENT))


def no_network(*args: Any, **options: Any) -> str:
    raise OSError("Name or service not known")


def test_a_file_of_the_data_folder_is_used_without_the_network(tmp_path: Path) -> None:
    assert sources.find_file(NAME, put(tmp_path)) == tmp_path / NAME


def test_data_dir_wins_over_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOFIT_LENS_DATA", str(put(tmp_path / "environment")))
    given = put(tmp_path / "given")
    assert sources.find_file(NAME, given) == given / NAME


def test_the_environment_is_used_where_no_folder_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOFIT_LENS_DATA", str(put(tmp_path)))
    assert sources.find_file(NAME) == tmp_path / NAME


def test_a_changed_file_is_refused_with_both_hashes(tmp_path: Path) -> None:
    changed = CONTENT + b"\n"
    with pytest.raises(DataError) as error:
        sources.find_file(NAME, put(tmp_path, changed))
    assert all(text in str(error.value) for text in (sha256(changed), sha256(CONTENT), NAME))


def test_a_file_missing_from_the_given_folder_is_not_looked_for_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOFIT_LENS_DATA", str(put(tmp_path / "environment")))
    with pytest.raises(DataError, match=r"empty/clutrr/val\.json"):
        sources.find_file(NAME, tmp_path / "empty")


def test_without_a_network_the_message_says_which_file_to_put_where() -> None:
    with pytest.raises(DataError) as error:
        sources.find_file(NAME)
    message = str(error.value)
    for text in (f"FOLDER/{NAME}", sha256(CONTENT), "LOFIT_LENS_DATA", "data_dir", "not known"):
        assert text in message


@pytest.mark.parametrize(
    ("name", "url"),
    [
        (NAME, sources.LOFIT + "dataset/clutrr/val.json"),
        (MQUAKE, sources.LOFIT + "dataset/MQuAKE/val.jsonl"),
        (ARC, sources.LLM_ADAPTERS + "dataset/ARC-Challenge/test.json"),
        (SIQA, sources.LLM_ADAPTERS + "dataset/social_i_qa/train.json"),
        ("llm_adapters/svamp.json", sources.LLM_ADAPTERS + "dataset/SVAMP/SVAMP.json"),
    ],
)
def test_a_file_is_fetched_at_the_pinned_commit_with_its_pinned_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, url: str
) -> None:
    asked: list[tuple[str, str | None]] = []

    def retrieve(url: str, known_hash: str | None, **options: Any) -> str:
        asked.append((url, known_hash))
        return str(tmp_path / "cached")

    monkeypatch.setattr("pooch.retrieve", retrieve)
    assert sources.find_file(name) == tmp_path / "cached"
    assert asked == [(url, sources.FILES[name])]


def test_every_file_is_pinned_by_a_commit_and_a_sha256() -> None:
    for repository in (sources.LOFIT, sources.LLM_ADAPTERS):
        assert len(repository.rstrip("/").rsplit("/", 1)[1]) == 40
    hashes = {**sources.FILES, **{n: part[2] for n, part in sources.PROMPT_PARTS.items()}}
    assert [name for name, value in hashes.items() if value is None] == [SIQA]
    assert all(len(bytes.fromhex(value)) == 32 for value in hashes.values() if value)


def test_a_file_whose_hash_is_not_known_is_taken_from_the_folder_or_asked_for_without_one(
    tmp_path: Path,
) -> None:
    assert sources.find_file(SIQA, put(tmp_path, name=SIQA)) == tmp_path / SIQA
    with pytest.raises(DataError, match=f"put the file at FOLDER/{SIQA} and") as error:
        sources.find_file(SIQA)
    assert "None" not in str(error.value)


PRIMER, INSTRUCTION = "Q: Is water wet?\nA: Yes.", "Answer “briefly”."

SOURCE = '''
from somewhere import that_is_not_installed

raise SystemExit("this file must not be run")

OTHER = "Q: Is"
PRESETS = {{"qa": """\n{primer}\n"""}}


def prompt():
    text = {instruction!r}
    return text
'''


@pytest.fixture
def own_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    for part, text, beginning in (
        ("qa_primer", PRIMER, "Q: Is water"),
        ("instruction", INSTRUCTION, "Answer"),
    ):
        path = sources.PROMPT_PARTS[part][0]
        pinned = (path, beginning, sha256(text.encode()))
        monkeypatch.setitem(sources.PROMPT_PARTS, part, pinned)


@pytest.fixture
def fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that every fetch returns."""
    path = tmp_path / "fetched.py"
    path.write_text(SOURCE.format(primer=PRIMER, instruction=INSTRUCTION), encoding="utf-8")
    monkeypatch.setattr("pooch.retrieve", lambda *_, **__: str(path))
    return path


def test_prompts_are_read_from_the_data_folder(tmp_path: Path, own_prompts: None) -> None:
    content = {"qa_primer": PRIMER, "instruction": INSTRUCTION, "source": "made up"}
    put(tmp_path, json.dumps(content).encode(), sources.PROMPTS)
    found = sources.find_prompts(tmp_path)
    assert found == {"qa_primer": PRIMER, "instruction": INSTRUCTION}


def test_prompts_are_taken_out_of_source_text_without_running_it(
    own_prompts: None, fetched: Path
) -> None:
    assert sources.find_prompts() == {"qa_primer": PRIMER, "instruction": INSTRUCTION}


@pytest.mark.parametrize("part", ["qa_primer", "instruction"])
def test_another_prompt_text_is_refused(tmp_path: Path, own_prompts: None, part: str) -> None:
    content = {"qa_primer": PRIMER, "instruction": INSTRUCTION}
    content[part] += " "
    put(tmp_path, json.dumps(content).encode(), sources.PROMPTS)
    with pytest.raises(DataError, match=rf"{part}.*not the expected text.*prompts\.json"):
        sources.find_prompts(tmp_path)


def test_another_prompt_text_in_the_fetched_source_is_refused(
    own_prompts: None, fetched: Path
) -> None:
    text = fetched.read_text(encoding="utf-8").replace("wet", "dry")
    fetched.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"qa_primer.*not the expected text"):
        sources.find_prompts()


def test_a_fetched_source_without_the_prompt_is_refused(own_prompts: None, fetched: Path) -> None:
    fetched.write_text("x = 1\n", encoding="utf-8")
    with pytest.raises(DataError, match="Q: Is water"):
        sources.find_prompts()


def test_a_fetched_file_that_is_not_python_is_refused(own_prompts: None, fetched: Path) -> None:
    fetched.write_text("<html>Not found</html>", encoding="utf-8")
    with pytest.raises(DataError, match=r"fetched\.py"):
        sources.find_prompts()


@pytest.mark.parametrize("content", [b"not json", b"[1]", b"\xff\xfe"])
def test_a_prompt_file_that_holds_no_prompts_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DataError, match=r"prompts\.json|not the expected text"):
        sources.find_prompts(put(tmp_path, content, sources.PROMPTS))


def test_without_a_network_the_message_says_where_the_prompts_belong() -> None:
    with pytest.raises(DataError, match=f"FOLDER/{sources.PROMPTS}"):
        sources.find_prompts()
