"""Vectors of other tools, as edits, against plain hooks on a plain model."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformer_lens.model_bridge import TransformerBridge

from lofit_lens.edits.of_vectors import read_vectors
from lofit_lens.errors import LofitLensError
from lofit_lens.heads import HeadSet
from tests.helpers import (
    D_MODEL,
    HEAD_DIM,
    N_HEADS,
    N_LAYERS,
    assert_same_logits,
    draw_tokens,
    hooked_projections,
    load_plain,
)

DIRECTIONS = np.random.default_rng(0).normal(size=(N_LAYERS, N_HEADS, HEAD_DIM))
VECTORS = np.random.default_rng(1).normal(size=(N_LAYERS, D_MODEL)).astype(np.float32)
CHOSEN = [(2, 1), (0, 3)]


@contextmanager
def after_blocks(plain: Any, vectors: Mapping[int, np.ndarray]) -> Iterator[None]:
    """The oracle: a vector added to what some blocks of a plain Llama put out."""

    def add(vector: np.ndarray) -> Callable[..., Any]:
        def hook(_module: Any, _args: Any, output: Any) -> Any:
            added = torch.from_numpy(vector).float()
            return (output[0] + added, *output[1:]) if isinstance(output, tuple) else output + added

        return hook

    layers = plain.model.layers
    handles = [layers[i].register_forward_hook(add(vector)) for i, vector in vectors.items()]
    yield
    for handle in handles:
        handle.remove()


def check(model: TransformerBridge, folder: Path, edit: Any, oracle: Callable[[Any], Any]) -> None:
    """The edit gives the logits of hooks on the plain model, and others than no edit."""
    plain, tokens = load_plain(folder), draw_tokens()
    with torch.no_grad():
        with edit.applied(model):
            found = model(tokens)
        with oracle(plain):
            expected = plain(tokens).logits
        assert (plain(tokens).logits - expected).abs().max() > 0.01
    assert_same_logits(found, expected)


def added_to_heads(alpha: float, heads: list[tuple[int, int]]) -> Callable[[Any], Any]:
    """As the code of ITI: alpha times the direction, in front of the output projection."""
    bias = np.zeros_like(DIRECTIONS)
    for layer, head in heads:
        bias[layer, head] = alpha * DIRECTIONS[layer, head]
    flat = torch.from_numpy(bias).float().flatten(1)
    return lambda plain: hooked_projections(plain, lambda layer, z: z + flat[layer])


@pytest.mark.parametrize("shape", [(-1, HEAD_DIM), (N_LAYERS, N_HEADS, HEAD_DIM)])
def test_directions_of_iti_shift_the_heads_of_a_list(
    shape: tuple[int, ...],
    llama: TransformerBridge,
    tiny_folder: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    np.save(tmp_path / "directions.npy", DIRECTIONS.reshape(shape))
    np.save(tmp_path / "top_heads.npy", np.array(CHOSEN))
    listed = HeadSet(CHOSEN, n_layers=N_LAYERS, n_heads=N_HEADS)
    for heads in (tmp_path / "top_heads.npy", "L2H1,L0H3", listed):
        edit = read_vectors(tmp_path / "directions.npy", llama, heads=heads)
        check(llama, tiny_folder("llama"), 5.0 * edit, added_to_heads(5, CHOSEN))
    scoped = read_vectors(tmp_path / "directions.npy", llama, scope="iti_compat")
    assert scoped.scope == "iti_compat" and len(scoped.heads) == N_LAYERS * N_HEADS  # pyright: ignore[reportAttributeAccessIssue]


NAMES: dict[str, Callable[[int], str]] = {
    "number": str,
    "from the end": lambda layer: str(layer - N_LAYERS),
    "layer_": "layer_{}".format,
    "repeng": "direction.{}".format,
    "transformers": "model.layers.{}".format,
    "resid_post": "blocks.{}.hook_resid_post".format,
    "resid_pre": lambda layer: f"blocks.{layer + 1}.hook_resid_pre",
    "bridge": "blocks.{}.hook_out".format,
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ending", ["npz", "safetensors"])
def test_vectors_by_layer_are_added_behind_blocks(
    name: str,
    ending: str,
    llama: TransformerBridge,
    tiny_folder: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    path = tmp_path / f"v.{ending}"
    named = {NAMES[name](layer): VECTORS[None, layer] for layer in (1, 0)}
    if ending == "npz":
        np.savez(path, **named)  # pyright: ignore[reportArgumentType]
    else:
        save_file({key: torch.from_numpy(v).contiguous() for key, v in named.items()}, path)
    edit = read_vectors(path, llama)
    expected = {layer: 2 * VECTORS[layer] for layer in (1, 0)}
    check(llama, tiny_folder("llama"), 2.0 * edit, lambda plain: after_blocks(plain, expected))


def test_an_array_of_all_layers_is_added_behind_every_block(
    llama: TransformerBridge, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    np.save(tmp_path / "v.npy", VECTORS)
    edit = read_vectors(tmp_path / "v.npy", llama)
    check(
        llama,
        tiny_folder("llama"),
        edit,
        lambda plain: after_blocks(plain, dict(enumerate(VECTORS))),
    )


@pytest.mark.parametrize("flat", [False, True])
def test_vectors_by_head_hook_are_added_to_the_heads_that_have_one(
    flat: bool, llama: TransformerBridge, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    named = {}
    for layer, head in CHOSEN:
        rows = torch.zeros(N_HEADS, HEAD_DIM)
        rows[head] = torch.from_numpy(DIRECTIONS[layer, head])
        named[f"blocks.{layer}.attn.hook_z"] = rows.flatten() if flat else rows
    save_file(named, tmp_path / "v.safetensors")
    edit: Any = read_vectors(tmp_path / "v.safetensors", llama)
    assert sorted(edit.heads.heads) == [(0, 3), (2, 1)]
    check(llama, tiny_folder("llama"), edit, added_to_heads(1, CHOSEN))


def control_vector(path: Path, vectors: Mapping[int, np.ndarray]) -> Path:
    """As repeng writes it."""
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_uint32("controlvector.layer_count", len(vectors))
    writer.add_array("notes", ["a", "b"])
    writer.add_array("numbers", [1, 2, 3])
    writer.add_custom_alignment(64)
    for layer, vector in vectors.items():
        writer.add_tensor(f"direction.{layer}", vector)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_control_vector_is_added_behind_blocks(
    dtype: Any, llama: TransformerBridge, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    vectors = {layer: VECTORS[layer].astype(dtype) for layer in (1, 2)}
    edit = read_vectors(control_vector(tmp_path / "v.gguf", vectors), llama)
    assert edit.layers == (1, 2)  # pyright: ignore[reportAttributeAccessIssue]
    check(llama, tiny_folder("llama"), edit, lambda plain: after_blocks(plain, vectors))


@pytest.mark.parametrize("name", ["v.pt", "v.bin", "v.pkl", "V.PT"])
def test_a_pickle_is_refused_with_the_line_that_writes_it_anew(
    name: str, llama: TransformerBridge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({layer: torch.from_numpy(VECTORS[layer]) for layer in (0, 2)}, tmp_path / name)
    with pytest.raises(LofitLensError, match="can run code") as caught:
        read_vectors(tmp_path / name, llama)
    (line,) = [line for line in str(caught.value).splitlines() if "python -c" in line]
    monkeypatch.chdir(tmp_path)
    exec(line.partition('"')[2].rpartition('"')[0], {})
    edit = read_vectors((tmp_path / name).with_suffix(".safetensors"), llama)
    assert edit.layers == (0, 2)  # pyright: ignore[reportAttributeAccessIssue]


def refused(model: TransformerBridge, path: Path, told: str, **options: Any) -> None:
    with pytest.raises(LofitLensError, match=rf"(?s){path.name}.*{told}"):
        read_vectors(path, model, **options)


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ({"blocks.0.mlp.hook_post": VECTORS[0]}, "names no place in a model. Known are a layer"),
        ({"scaler_mean": VECTORS[0]}, "'scaler_mean' names no place"),
        ({"layer_3": VECTORS[0]}, "'layer_3' lies outside the model, which has 3 layers"),
        ({"-4": VECTORS[0]}, "'-4' lies outside"),
        ({"blocks.0.hook_resid_pre": VECTORS[0]}, "in front of the first block"),
        ({"1": VECTORS[0], "layer_1": VECTORS[1]}, "second vector of layer 1"),
        ({"1": VECTORS[0, :-1]}, r"'1' has shape \[63\]; expected \[64\]"),
        ({"1": VECTORS}, r"'1' has shape \[3, 64\]"),
        ({"blocks.0.attn.hook_z": DIRECTIONS[0].T}, r"shape \[24, 4\]; expected \[4, 24\]"),
        ({"1": VECTORS[0], "blocks.0.attn.hook_z": DIRECTIONS[0]}, "keep them apart"),
        ({"1": np.full(D_MODEL, np.nan)}, "not finite"),
        ({"1": np.zeros(D_MODEL, bool)}, "type bool"),
        ({"1": np.array([{}], dtype=object)}, "type object"),
        ({"blocks.0.attn.hook_z": 0 * DIRECTIONS[0]}, "all its numbers are zero"),
        ({}, "it is empty"),
    ],
)
def test_what_is_not_known_or_does_not_fit_is_told(
    named: dict[str, Any], told: str, llama: TransformerBridge, tmp_path: Path
) -> None:
    np.savez(tmp_path / "v.npz", **named)
    refused(llama, tmp_path / "v.npz", told)


def test_other_files_are_told(llama: TransformerBridge, tmp_path: Path) -> None:
    refused(llama, tmp_path / "no.npy", "")
    (tmp_path / "v.txt").write_text("1")
    refused(llama, tmp_path / "v.txt", r"none of \.npy, \.npz, \.safetensors, \.gguf")
    np.save(tmp_path / "v.npy", DIRECTIONS[:2])
    refused(
        llama,
        tmp_path / "v.npy",
        r"its shape is \[2, 4, 24\]; expected \[12, 24\], \[3, 4, 24\] or",
    )
    np.save(tmp_path / "r.npy", VECTORS)
    refused(llama, tmp_path / "r.npy", "heads cannot be chosen", heads="L0H1")


@pytest.mark.parametrize("size", [2**40, 2**62])
def test_what_a_header_promises_is_not_believed(
    size: int, llama: TransformerBridge, tmp_path: Path
) -> None:
    path = tmp_path / "v.safetensors"
    path.write_bytes(size.to_bytes(8, "little") + b"{}")
    refused(llama, path, "its header is longer than 16 MB")
    vector = tmp_path / "v.npy"
    np.save(vector, VECTORS)
    vector.write_bytes(vector.read_bytes().replace(b"(3, 64)", b"(9" + b"9" * 12 + b", 64)"))
    refused(llama, vector, "in the shape")
    control = control_vector(tmp_path / "v.gguf", {1: VECTORS[1]})
    raw = control.read_bytes()
    control.write_bytes(raw.replace((D_MODEL).to_bytes(8, "little"), size.to_bytes(8, "little")))
    refused(llama, control, "is longer than the file")


def test_a_file_takes_no_more_memory_than_it_is_long(
    llama: TransformerBridge, tmp_path: Path
) -> None:
    bomb = tmp_path / "bomb.npz"
    with ZipFile(bomb, "w", ZIP_DEFLATED) as archive:
        archive.writestr("1.npy", b"\x93NUMPY" + b"\0" * 2**27)
    refused(llama, bomb, "unpacked, it is longer than 64 MB")
    names = [f"direction.{i}".encode() for i in range(100)]
    size = 2**16
    described = b"".join(
        struct.pack("<Q", len(name)) + name + struct.pack("<IQIQ", 1, size // 4, 0, 0)
        for name in names
    )
    head = b"GGUF" + struct.pack("<IQQ", 3, len(names), 0)
    (tmp_path / "same.gguf").write_bytes(head + described + b"\0" * (size + 32))
    refused(llama, tmp_path / "same.gguf", "'direction.1' is longer than the file")
