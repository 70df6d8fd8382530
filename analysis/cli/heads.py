"""The commands `heads` and `export`: what is done with the heads and the edit of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lofit_lens.analysis.cli.console import Report, check_file
from lofit_lens.analysis.cli.groups import option, with_options
from lofit_lens.analysis.cli.of_run import RunOfEdit
from lofit_lens.analysis.cli.options import HeadOptions, ModelOptions


@with_options
def export(
    *,
    report: Report,
    model_options: ModelOptions,
    intervention: Annotated[
        str,
        option("Folder with an intervention, the --out of `lofit` or `tune`, or one on the hub."),
    ],
    out: Annotated[Path, option("New folder for the checkpoint.")],
) -> None:
    """Write a stock Hugging Face checkpoint with the edit folded into the weights.

    It is reloaded with plain `transformers` and its logits compared before it counts as written.
    """
    from lofit_lens.export import check_new_folder, export_checkpoint
    from lofit_lens.folding import check_foldable

    run = RunOfEdit.read(intervention)
    edit = run.one()
    check_foldable(edit)
    check_new_folder(out)
    model = model_options.load(run.loaded)
    done = export_checkpoint(model, edit, out)
    report.add(
        f"{done.architecture} written to {done.folder}; largest logit difference to the hooked "
        f"model {done.max_logit_difference:.2g} (largest logit {done.largest_logit:.3g})",
        out=str(done.folder),
        architecture=done.architecture,
        max_logit_difference=done.max_logit_difference,
        largest_logit=done.largest_logit,
    )


@with_options
def heads(
    *,
    report: Report,
    head_options: HeadOptions,
    source: Annotated[
        Path, typer.Argument(help="Folder of a run, scores.json, a head list, or L1H3,L2H7.")
    ],
    other: Annotated[
        Path | None, typer.Argument(help="A second one, to compare with the first.")
    ] = None,
    n_layers: Annotated[
        int | None, option("Layers of the model; for a head list that does not say.")
    ] = None,
    n_heads: Annotated[int | None, option("Heads per layer; likewise.")] = None,
    out: Annotated[
        Path | None, option("Write the heads as .npy (LoFiT's format) or .json.")
    ] = None,
    overwrite: Annotated[bool, option("Replace the file --out.")] = False,
) -> None:
    """Show, compare or convert sets of heads."""
    from lofit_lens.analysis.runs import read_heads

    check_file(out, overwrite=overwrite)
    shape = {"n_layers": n_layers, "n_heads": n_heads}
    wanted = {"k": head_options.k, "fraction": head_options.fraction}
    first = read_heads(source, **shape, **wanted)
    counts = {i: int(n) for i, n in enumerate(first.layer_counts()) if n}
    report.add(
        f"{first!r}\n{first.frame().to_string(index=False)}\nheads per layer: "
        + ", ".join(f"{layer}: {n}" for layer, n in counts.items()),
        heads=[list(head) for head in first],
        layer_counts=[int(n) for n in first.layer_counts()],
    )
    if other is not None:
        second = read_heads(other, **first.grid.shape, **wanted)
        common = first & second
        report.add(
            f"{other}: {second!r}\nin both: {' '.join(map(str, common)) or 'none'}; "
            f"Jaccard {first.jaccard(second):.3f}",
            other=[list(head) for head in second],
            common=[list(head) for head in common],
            jaccard=first.jaccard(second),
        )
    if out is not None:
        report.add(f"written to {first.save(out)}", paths=[str(out)])
