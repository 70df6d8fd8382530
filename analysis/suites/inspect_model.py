"""Models under an edit for Inspect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lofit_lens.errors import LofitLensError

if TYPE_CHECKING:
    from inspect_ai.model import Model
    from transformer_lens.model_bridge import TransformerBridge

    from lofit_lens.edits.edit import Edit


def inspect_model(
    model: TransformerBridge, edit: Edit | None = None, *, name: str = "model"
) -> Model:
    """A model under an edit, for `inspect_ai.eval(task, model=…)` (extra `inspect`).

    On the command line: `inspect eval TASK --model lofit-lens/FOLDER_OR_NAME -M edit=FOLDER`.

    Args:
        model: A bridge with a tokenizer, in eval mode.
        edit: The edit, of any kind; None asks the model as it is.
        name: What Inspect's logs call it, behind `lofit-lens/`.

    Raises:
        LofitLensError: Inspect is not installed, the edit does not fit, or the tokenizer or its chat
            template cannot be used.

    Examples:
        >>> inspect_ai.eval("task.py", model=inspect_model(model, tuned))  # doctest: +SKIP
    """
    try:
        from inspect_ai.model import GenerateConfig, Model
    except ImportError as error:
        raise LofitLensError(
            "Running evaluations of Inspect needs a package: pip install 'lofit-lens[inspect]' "
            f"({error})."
        ) from error
    from lofit_lens.analysis.suites.registered import provider

    made: Any = provider
    api = made(model_name=name, edit=edit, loaded=model)
    return Model(api, GenerateConfig(), {"edit": repr(edit)})  # for the log
