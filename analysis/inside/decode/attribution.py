"""Direct logit attribution: what each component adds to the right answer, with and without an edit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from lofit_lens.analysis.inside.decode.contributions import (
    Component,
    check_decomposable,
    components,
    contributions,
)
from lofit_lens.analysis.inside.decode.pairs import AnswerPair, answer_pairs
from lofit_lens.analysis.inside.decode.token_text import token_texts
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.errors import check_one_of
from lofit_lens.heads import Head
from lofit_lens.statistics.tables import group_sums
from lofit_lens.tasks.task import Example
from lofit_lens.tokens import Encoder

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from transformer_lens.model_bridge import TransformerBridge

RESAMPLES = 2000
Values = Float[Tensor, "example component"]


@dataclass(frozen=True, eq=False)
class Attribution:
    """The direct contribution of each component to the logit difference, right minus wrong.

    Attributes:
        components: The terms. `kind` is "embedding" (token and, where the family adds one, position),
            "head" (`z_h W_O[h]`, z as it is before the edit of its own layer), "attention bias" (of
            the output projection), "mlp", "output bias" (of final norm and unembedding together), and
            for each edited head "scale" (`(A_h z_h) W_O[h]`) and "offset" (`v_h W_O[h]`).
        pairs: The examples, cut where their two answers part.
        tokens: Readable text of the right and wrong token of each example.
        before: The terms without the edit, float32 on the CPU; they sum to the logit difference.
        after: The same with the edit; None if none was given.
    """

    components: tuple[Component, ...]
    pairs: tuple[AnswerPair, ...]
    tokens: tuple[tuple[str, str], ...]
    before: Values
    after: Values | None = None

    def frame(self) -> pd.DataFrame:
        """One row per component: means over examples with 95% intervals.

        Columns `component` (the kind), `layer`, `head` (empty where they mean nothing), `name`,
        `before`, and with an edit `after` and `change`, each with `_low` and `_high`. The intervals
        are percentiles of a bootstrap over the groups of the examples; with one group they are empty.
        """
        frame = pd.DataFrame(self.components, columns=["component", "layer", "head"])
        frame[["layer", "head"]] = frame[["layer", "head"]].astype("Int64")
        frame["name"] = [_name(component) for component in self.components]
        for column, values in self._columns().items():
            frame[column] = values.mean(0)
            frame[f"{column}_low"], frame[f"{column}_high"] = self._interval(values)
        return frame

    def differences(self) -> pd.DataFrame:
        """One row per example.

        Columns `id`, `group`, `right`, `wrong` (the two tokens), `before`, and with an edit `after`
        and `change`: the logit difference, which is the sum over components.
        """
        frame = pd.DataFrame([(p.id, p.group) for p in self.pairs], columns=["id", "group"])
        frame[["right", "wrong"]] = pd.DataFrame(self.tokens, columns=["right", "wrong"])
        for column, values in self._columns().items():
            frame[column] = values.sum(1)
        return frame

    def plot(self, *, values: Literal["before", "after", "change"] | None = None) -> go.Figure:
        """Layer x head heat map, scale and offset of a head included, and bars for the layers' rest.

        Args:
            values: What to show; default: the change by the edit, or "before" if there is none.

        Raises:
            LofitLensError: There is no edit, or no such column.
        """
        from lofit_lens.analysis.figures.decode import attribution_map

        columns = list(self._columns())
        shown = values or columns[-1]
        check_one_of("values", shown, columns)
        totals = {column: float(v.sum(1).mean()) for column, v in self._columns().items()}
        return attribution_map(self.frame(), values=shown, totals=totals, n=len(self.pairs))

    def __repr__(self) -> str:
        means = (f"{k} {v.sum(1).mean():+.3f}" for k, v in self._columns().items())
        return f"Attribution({len(self.pairs)} examples; logit difference {', '.join(means)})"

    def _repr_html_(self) -> str:
        column = list(self._columns())[-1]
        largest = self.frame().sort_values(column, key=abs, ascending=False).head(12)
        return f"<p>{escape(repr(self))}</p>{largest.round(3).to_html(index=False)}"

    def _columns(self) -> dict[str, np.ndarray]:
        """The terms by the name of their column, [example, component]."""
        before = self.before.double().numpy()
        if self.after is None:
            return {"before": before}
        after = self.after.double().numpy()
        return {"before": before, "after": after, "change": after - before}

    def _interval(self, values: np.ndarray) -> Float[np.ndarray, "2 component"]:
        """95% interval of the mean of each column, all of them resampled together."""
        sums, sizes = group_sums(values.T, [pair.group for pair in self.pairs])
        n = len(sizes)
        if n == 1:
            return np.full((2, len(sums)), np.nan)
        counts = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
        means = (counts @ sums.T) / (counts @ sizes)[:, None]
        return np.quantile(means, (0.025, 0.975), axis=0)


def direct_attribution(
    model: TransformerBridge,
    examples: Sequence[Example],
    edit: HeadIntervention | None = None,
    *,
    batch_size: int = 16,
) -> Attribution:
    """Split the logit difference of right and wrong answers into what each component adds directly.

    Of each example the first correct and the first incorrect answer are put behind the prompt. Where
    their tokens first differ, the position before predicts either: the difference of those two logits
    there, right minus wrong, is the sum of one term per component. A term is the product of what
    the component writes to the residual stream with the difference of the two unembedding vectors,
    through the final norm with its scale frozen at its value on that text, its gain, and in
    LayerNorm its subtraction of the mean. Nothing is left over: biases are terms of their own, and
    every batch is checked against the logits of the model.

    Only direct effects are seen. An offset that works through later layers shows as a change of
    their terms, and the norm's scale, frozen at another value under the edit, moves all of them.

    Args:
        model: A native bridge, in eval mode.
        examples: With at least one correct and one incorrect answer each, such as `task.test[:50]`;
            for a task without incorrect answers, `baselines.statements.with_wrong_answers` draws them.
        edit: Contributions are given without it and with it, at the positions of its scope.
        batch_size: Texts per forward pass.

    Raises:
        DataError: There are no examples, one has no incorrect answer, or its two answers do not part.
        UnsupportedError: In this family components do not sum to the logits (a norm behind attention
            or MLP, capped or scaled logits), or the weights are quantised.
        ModelMismatchError: The edit was made for another model.

    Examples:
        >>> direct_attribution(model, task.test[:50], tuned).plot()  # doctest: +SKIP
    """
    check_decomposable(model)
    if edit is not None:
        edit.check_model(model)
    pairs = answer_pairs(Encoder(model), examples)
    texts = token_texts(model, [i for pair in pairs for i in (pair.right, pair.wrong)])
    idle = None if edit is None else 0.0 * edit  # exactly the identity, with the same terms
    return Attribution(
        components=components(model, edit),
        pairs=tuple(pairs),
        tokens=tuple(zip(texts[::2], texts[1::2], strict=True)),
        before=contributions(model, pairs, idle, batch_size=batch_size),
        after=None if edit is None else contributions(model, pairs, edit, batch_size=batch_size),
    )


def _name(component: Component) -> str:
    kind, layer, head = component
    if layer is None:
        return kind
    place = f"L{layer}" if head is None else str(Head(layer, head))
    return place if kind == "head" else f"{place} {kind}"
