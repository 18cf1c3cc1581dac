"""A report as a list of blocks, and its two forms: Markdown, and one HTML page that needs nothing but itself. Pure.

Text may hold `code` and **strong**; everything else is literal in both forms.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Protocol

from daemon.advisor.style import CSS


class Block(Protocol):
    """A piece of a report; an empty form is left out."""

    def markdown(self) -> str: ...

    def html(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Heading:
    text: str
    level: int = 2

    def markdown(self) -> str:
        return f"{'#' * self.level} {self.text}"

    def html(self) -> str:
        return f"<h{self.level}>{_inline(self.text)}</h{self.level}>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lead:
    """What a reader in a hurry takes away: one sentence and the facts behind it."""

    text: str
    items: tuple[str, ...]

    def markdown(self) -> str:
        return f"**{self.text}**\n\n" + Bullets(items=self.items).markdown()

    def html(self) -> str:
        return f'<section class="lead"><p>{_inline(self.text)}</p>{Bullets(items=self.items).html()}</section>'


@dataclass(frozen=True, slots=True, kw_only=True)
class Paragraph:
    text: str

    def markdown(self) -> str:
        return self.text

    def html(self) -> str:
        return f"<p>{_inline(self.text)}</p>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bullets:
    items: tuple[str, ...]

    def markdown(self) -> str:
        return "\n".join(f"- {i}" for i in self.items)

    def html(self) -> str:
        return "<ul>" + "".join(f"<li>{_inline(i)}</li>" for i in self.items) + "</ul>" if self.items else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Names and what is known of each."""

    items: tuple[tuple[str, str], ...]

    def markdown(self) -> str:
        return "\n".join(f"- **{name}**: {what}" for name, what in self.items)

    def html(self) -> str:
        return "<dl>" + "".join(f"<dt>{_inline(n)}</dt><dd>{_inline(w)}</dd>" for n, w in self.items) + "</dl>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The first column names the row. strong: rows that stand out."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    strong: frozenset[int] = frozenset()

    def markdown(self) -> str:
        rows = [self.head, ("---",) * len(self.head), *self.rows]
        return "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in rows)

    def html(self) -> str:
        """Every cell carries its column's name, which a narrow screen shows in place of the head."""
        head = "".join(f"<th>{_inline(h)}</th>" for h in self.head)
        names = [escape(h, quote=True) for h in self.head]
        rows = []
        for k, row in enumerate(self.rows):
            cells = (f'<td data-name="{n}">{_inline(c)}</td>' for n, c in zip(names, row, strict=True))
            rows.append(f"<tr class='{'strong' if k in self.strong else 'plain'}'>{''.join(cells)}</tr>")
        return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """(caption, SVG) side by side where there is room; Markdown has the numbers and leaves them out."""

    items: tuple[tuple[str, str], ...]

    def markdown(self) -> str:
        return ""

    def html(self) -> str:
        shown = "".join(f"<figure>{svg}<figcaption>{_inline(c)}</figcaption></figure>" for c, svg in self.items)
        return f'<div class="figures">{shown}</div>'


@dataclass(frozen=True, slots=True, kw_only=True)
class Folded:
    """Details for who wants them: closed on the page, so that a phone shows a report and not its appendix."""

    summary: str
    blocks: tuple[Block, ...]

    def markdown(self) -> str:
        return "\n\n".join(part for b in self.blocks if (part := b.markdown()))

    def html(self) -> str:
        inner = "\n".join(part for b in self.blocks if (part := b.html()))
        return f"<details><summary>{_inline(self.summary)}</summary>\n{inner}\n</details>" if inner else ""


def markdown(blocks: Sequence[Block]) -> str:
    return "\n\n".join(part for b in blocks if (part := b.markdown())) + "\n"


def html(blocks: Sequence[Block], *, title: str) -> str:
    """One page, no script, nothing fetched: the policy in its head forbids both."""
    body = "\n".join(part for b in blocks if (part := b.html()))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _inline(text: str) -> str:
    marked = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
    return re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", marked)
