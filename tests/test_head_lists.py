"""Head lists as people write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lofit_lens.analysis.methods.selectors import selector
from lofit_lens.analysis.methods.settings import Settings
from lofit_lens.analysis.runs import read_heads
from lofit_lens.errors import LofitLensError
from lofit_lens.heads import HeadSet

SHAPE: Any = {"n_layers": 4, "n_heads": 8}
EXPECTED = HeadSet([(1, 3), (2, 7)], **SHAPE)

FILES = {
    "heads.json": "[[1, 3],\n [2, 7]]",
    "objects.json": '[{"layer": 1, "head": 3}, {"layer": 2, "head": 7}]',
    "names.json": '["L1H3", "L2H7"]',
    "heads.csv": "layer,head\n1,3\n2,7\n",
    "frame.csv": "rank,layer,head,name\n1,1,3,L1H3\n2,2,7,L2H7\n",
    "excel.csv": "\ufeffHead;Layer\r\n3;1\r\n7;2\r\n",
    "heads.tsv": "layer\thead\n1\t3\n2\t7\n",
    "heads.txt": "L1H3,L2H7\n",
    "lines.txt": "l1h3\nl2h7\n",
}


@pytest.mark.parametrize("name", list(FILES))
def test_head_lists_are_read_as_people_write_them(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(FILES[name], encoding="utf-8")
    assert HeadSet.load(tmp_path / name, **SHAPE) == EXPECTED
    assert read_heads(tmp_path / name, **SHAPE) == EXPECTED
    assert callable(selector(str(tmp_path / name), Settings()))


@pytest.mark.parametrize("text", ["L1H3,L2H7", "L1H3, L2H7", "L1H3 L2H7", "l1h3;l2h7"])
def test_heads_can_be_named_in_place_of_a_file(text: str) -> None:
    assert HeadSet.load(text, **SHAPE) == EXPECTED
    assert read_heads(Path(text), **SHAPE) == EXPECTED
    assert callable(selector(text, Settings()))


def test_a_frame_of_heads_is_read_back(tmp_path: Path) -> None:
    EXPECTED.frame().to_csv(tmp_path / "heads.csv", index=False)
    assert HeadSet.load(tmp_path / "heads.csv", **SHAPE) == EXPECTED


def test_lofits_own_list_is_read_as_before(tmp_path: Path) -> None:
    np.save(tmp_path / "heads.npy", np.array([[1, 3], [2, 7]]))
    assert HeadSet.load(tmp_path / "heads.npy", **SHAPE) == EXPECTED


def test_a_list_without_a_shape_asks_for_one(tmp_path: Path) -> None:
    (tmp_path / "heads.json").write_text("[[1, 3]]")
    for source in (tmp_path / "heads.json", "L1H3"):
        with pytest.raises(LofitLensError, match="pass n_layers and n_heads"):
            HeadSet.load(source)


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("heads.json", "[[1, 3, 5]]", "Expected rows"),
        ("heads.json", "[1, 3]", "Expected rows"),
        ("heads.json", '["1.3"]', "'1.3' does not name heads"),
        ("heads.json", '[{"layer": 1}]', "Expected rows"),
        ("heads.csv", "l,h\n1,3\n", "no columns layer and head; its columns: l, h"),
        ("heads.csv", "layer,head\n1,third\n", "Expected rows"),
        ("heads.csv", "layer,head\n1,3\n2\n", "line 3: 1 cells, expected 2"),
        ("heads.csv", "layer,head\n1,1.5\n", "Expected rows"),
        ("heads.txt", "1, 3", "does not name heads.*Expected rows.*L1H3,L2H7"),
        ("heads.txt", "", "does not name heads"),
    ],
)
def test_other_content_is_refused_with_what_was_expected(
    tmp_path: Path, name: str, text: str, what: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(LofitLensError, match=what):
        HeadSet.load(tmp_path / name, **SHAPE)
