"""The card of one head as a fragment of HTML: no script, readable on a light and on a dark ground."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from lofit_lens.analysis.inside.decode.token_text import visible
from lofit_lens.analysis.inside.explorer.card import HeadCard, HeadEdit, Rows
from lofit_lens.heads import Head

SHADE = "0,114,178"
"""Blue of attention weights, laid over any ground by at most 60 percent."""

CARD_CSS = """\
.ll-card { color: inherit; line-height: 1.35; margin: 0 0 1.5em; }
.ll-card h3 { font-size: 1.25em; margin: 0 0 .4em; }
.ll-card h4 { font-size: 1em; margin: 1em 0 .3em; }
.ll-card table { border-collapse: collapse; margin: 0 0 .6em; font-variant-numeric: tabular-nums; }
.ll-card caption { text-align: left; padding: .2em 0; opacity: .85; }
.ll-card th, .ll-card td { padding: .15em .6em; text-align: right; font-weight: normal;
  border-bottom: 1px solid var(--ll-line, rgba(127, 127, 127, .35)); }
.ll-card th[scope=row], .ll-card th:first-child { text-align: left; }
.ll-card thead th { font-weight: bold; }
.ll-card .ll-side { display: flex; flex-wrap: wrap; gap: 0 2em; align-items: flex-start; }
.ll-card ol { margin: 0; padding-left: 1.8em; }
.ll-card code { background: none; color: inherit; padding: 0; white-space: pre-wrap; }
.ll-card .ll-logit { opacity: .8; padding-left: .6em; font-variant-numeric: tabular-nums; }
.ll-card .ll-scroll { overflow-x: auto; max-width: 100%; }
.ll-card .ll-attention { font-size: .8em; print-color-adjust: exact;
  -webkit-print-color-adjust: exact; }
.ll-card .ll-attention th, .ll-card .ll-attention td { padding: .1em .3em; border: 0;
  min-width: 1.6em; }
.ll-card .ll-attention thead th { font-weight: normal; vertical-align: bottom; text-align: left; }
.ll-card .ll-attention thead code { writing-mode: vertical-rl; }
.ll-card .ll-attention tbody td { background: rgba(SHADE, calc(.6 * var(--w, 0)));
  border: 1px solid var(--ll-line, rgba(127, 127, 127, .2)); }
""".replace("SHADE", SHADE)


def card_html(card: HeadCard) -> str:
    """One head's card: scores, offsets, tokens, cosines and attention, as a `<section>`.

    It needs `CARD_CSS` once on the page to look right and is readable without. All text is escaped.
    """
    head = str(card.head)
    parts = [f"<h3>{head}</h3>"]
    if card.scores:
        rows = []
        for s in card.scores:
            seed = "n/a" if s.seed is None else str(s.seed)
            rows.append((s.task, seed, f"{s.score:.4g}", f"{s.rank} of {s.n_ranked}"))
        parts.append(_table("Scores", ("task", "seed", "score", "rank"), rows))
    none = "<p>No saved edit changes this head.</p>"
    parts.append(_edits_table(card.edits) if card.edits else none)
    parts += [_tokens(edit) for edit in card.edits if edit.promoted or edit.suppressed]
    if card.attention:
        parts.append(_attention(card))
    body = "\n".join(parts)
    return f'<section class="ll-card" aria-label="Head {head}">\n{body}\n</section>'


def _edits_table(edits: Sequence[HeadEdit]) -> str:
    names = ["edit for", "offset norm", "scale norm"]
    compared = any(edit.cosines for edit in edits)
    if compared:
        names += ["cosine with ITI", "cosine with mean z", "random, 95%"]
    rows = []
    for edit in edits:
        row = [edit.task, f"{edit.offset_norm:.3g}", f"{edit.scale_norm:.3g}"]
        if found := edit.cosines:
            row += [f"{found.iti:+.2f}", f"{found.mean_z:+.2f}", f"±{found.chance:.2f}"]
        elif compared:
            row += 3 * ["n/a"]
        rows.append(row)
    return _table("What is learned", names, rows)


def _tokens(edit: HeadEdit) -> str:
    lists = "".join(
        f"<div><h4>{title}, {escape(edit.task)}</h4><ol>{''.join(map(_token, tokens))}</ol></div>"
        for title, tokens in (("Promoted", edit.promoted), ("Suppressed", edit.suppressed))
    )
    return f'<div class="ll-side">{lists}</div>'


def _token(listed: tuple[str, float]) -> str:
    token, logit = listed
    return f'<li>{_code(token)} <span class="ll-logit">{logit:+.2f}</span></li>'


def _attention(card: HeadCard) -> str:
    """The tables of attention; equal ones, as of tasks that share the text, are shown once."""
    tables: dict[tuple[tuple[str, ...], Rows], list[str]] = {}
    for one in card.attention:
        tables.setdefault((one.tokens, one.before), [])
        tables.setdefault((one.tokens, one.after), []).append(one.task)
    unedited = {(one.tokens, one.before) for one in card.attention}
    shown = "".join(
        _weights(card.head, *key, _title(tasks, unedited=key in unedited))
        for key, tasks in tables.items()
    )
    on = "" if card.text is None else f" on <code>{escape(card.text)}</code>"
    return f'<h4>Attention{on}</h4>\n<div class="ll-side">{shown}</div>'


def _title(tasks: Sequence[str], *, unedited: bool) -> str:
    """Whose attention a table is: without an edit, with the edits for tasks, or both."""
    if not tasks:
        return "without an edit"
    start = "without an edit and with that" if unedited else "with the edit"
    return f"{start} for {', '.join(tasks)}"


def _weights(head: Head, tokens: Sequence[str], rows: Rows, title: str) -> str:
    """A table of weights in percent, one row a query up to itself, one column a key."""
    columns = "".join(f'<th scope="col">{_code(token)}</th>' for token in tokens)
    body = "".join(
        f'<tr><th scope="row">{_code(token)}</th>{"".join(map(_weight, row))}</tr>'
        for token, row in zip(tokens, rows, strict=True)
    )
    label = f"Attention of {head} in percent, {title}"
    caption = f"{title[:1].upper()}{title[1:]}, percent; from (row) to (column)"
    return (
        f'<div class="ll-scroll" role="region" tabindex="0" aria-label="{escape(label)}">'
        f'<table class="ll-attention"><caption>{escape(caption)}</caption>'
        f"<thead><tr><td></td>{columns}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )


def _weight(weight: float) -> str:
    """A cell; `CARD_CSS` shades it by the variable --w, which keeps a large table small."""
    percent = round(100 * weight)
    return f'<td style="--w:{weight:.2f}">{percent}</td>' if percent else "<td>0</td>"


def _table(caption: str, names: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>'
        f"{''.join(f'<td>{escape(cell)}</td>' for cell in rest)}</tr>"
        for first, *rest in rows
    )
    return (
        f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead>\n"
        f"<tbody>{body}</tbody></table>"
    )


def _code(token: str) -> str:
    return f"<code>{escape(visible(token))}</code>"
