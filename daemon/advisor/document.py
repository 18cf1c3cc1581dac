"""A report as a list of blocks, and its two forms: Markdown, and one HTML page that needs nothing but itself. Pure.

Text may hold `code` and **strong**; everything else is literal in both forms.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from daemon.advisor.style import CSS


@dataclass(frozen=True, slots=True, kw_only=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Lead:
    """What a reader in a hurry takes away: one sentence and the facts behind it."""

    text: str
    items: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Paragraph:
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bullets:
    items: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The first column names the row. strong: rows that stand out."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    strong: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """(caption, SVG) side by side where there is room; Markdown has the numbers and leaves them out."""

    items: tuple[tuple[str, str], ...]


Block = Heading | Lead | Paragraph | Bullets | Table | Figures


def markdown(blocks: Sequence[Block]) -> str:
    return "\n\n".join(part for b in blocks if (part := _markdown(b))) + "\n"


def html(blocks: Sequence[Block], *, title: str) -> str:
    """One page, no script, nothing fetched: the policy in its head forbids both."""
    body = "\n".join(_html(b) for b in blocks)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _markdown(block: Block) -> str:
    match block:
        case Heading():
            return f"{'#' * block.level} {block.text}"
        case Lead():
            return "\n".join([f"**{block.text}**", "", *(f"- {i}" for i in block.items)])
        case Paragraph():
            return block.text
        case Bullets():
            return "\n".join(f"- {i}" for i in block.items)
        case Table():
            rows = [block.head, ("---",) * len(block.head), *block.rows]
            return "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in rows)
        case Figures():
            return ""


def _html(block: Block) -> str:
    match block:
        case Heading():
            return f"<h{block.level}>{_inline(block.text)}</h{block.level}>"
        case Lead():
            return f'<section class="lead"><p>{_inline(block.text)}</p>{_list(block.items)}</section>'
        case Paragraph():
            return f"<p>{_inline(block.text)}</p>"
        case Bullets():
            return _list(block.items)
        case Table():
            return _table(block)
        case Figures():
            shown = "".join(f"<figure>{svg}<figcaption>{_inline(c)}</figcaption></figure>" for c, svg in block.items)
            return f'<div class="figures">{shown}</div>'


def _list(items: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{_inline(i)}</li>" for i in items) + "</ul>" if items else ""


def _table(table: Table) -> str:
    """Every cell carries its column's name, which a narrow screen shows in place of the head."""
    head = "".join(f"<th>{_inline(h)}</th>" for h in table.head)
    rows = []
    for k, row in enumerate(table.rows):
        cells = "".join(
            f'<td data-name="{escape(name, quote=True)}">{_inline(cell)}</td>'
            for name, cell in zip(table.head, row, strict=True)
        )
        rows.append(f"<tr class='{'strong' if k in table.strong else 'plain'}'>{cells}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _inline(text: str) -> str:
    marked = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
    return re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", marked)
