"""Results as one page of HTML that needs nothing else: plots, tables, and how they were made."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

from .figures import micro, times
from .peers import OURS
from .results import Report
from .tables import AIMED, LIMIT, Table, answered, facts, preamble, tables

__all__ = ["page"]

STYLE = """
:root { --ink: #212529; --soft: #868e96; --line: #e9ecef; --ours: #d9480f; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); }
body { max-width: 76rem; margin: 2.5rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.7rem; margin: 0; }
h2 { font-size: 1.15rem; margin: 2.6rem 0 .4rem; }
h3 { font-size: .95rem; margin: 1.6rem 0 .3rem; }
p { max-width: 62rem; margin: .4rem 0; }
code { font-size: .9em; }
.soft, footer, li { color: var(--soft); font-size: .88rem; }
.cards { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1.6rem 0; }
.card { border: 1px solid var(--line); border-radius: 8px; padding: .8rem 1.1rem; min-width: 9.5rem; }
.card b { display: block; font-size: 1.55rem; color: var(--ours); font-variant-numeric: tabular-nums; }
.card span { color: var(--soft); font-size: .82rem; }
svg { width: 100%; height: auto; display: block; }
svg text { font-family: system-ui, sans-serif !important; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .86rem; white-space: nowrap; }
th, td { text-align: right; padding: .22rem .75rem; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 500; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
td b { color: var(--ours); }
td i { color: var(--soft); font-style: normal; }
"""
#: What each plot shows, in a sentence.
CAPTIONS = {
    "latency": ("A step against the size of the net", "Median over rounds. Dashed: reading the weights once."),
    "roofline": (
        "What the machine could do",
        "A case below the lines waits for something else: the call, activations, or one step for the one before.",
    ),
    "tails": ("The slowest steps", "Every step timed by itself; the last point is the slowest of all."),
    "growth": ("How a step grows", "Solid: the step. Dashed: the limit."),
}


def page(report: Report, plots: dict[str, str]) -> str:
    """The page; `plots` is SVG by name."""
    where, *notes = preamble(report)
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>gatestep {escape(report.surroundings.versions['gatestep'])}: benchmarks</title>",
        f"<style>{STYLE}</style></head><body>",
        "<h1>gatestep: what a step costs</h1>",
        f'<p class="soft">{_text(where)}</p>',
        *(f"<p>{_text(note)}</p>" for note in notes),
        _cards(report),
    ]
    for name, plot in plots.items():
        title, caption = CAPTIONS[name]
        parts += [f"<h2>{title}</h2>", f'<p class="soft">{caption}</p>', plot]
    made = answered(report)
    if made:
        parts += ["<h2>What was to be reached</h2>", f'<p class="soft">{_text(AIMED)}</p>', *map(_table, made)]
    parts += ["<h2>Every figure</h2>", *map(_table, tables(report)), f"<p>{_text(LIMIT)}</p>" if report.cases else ""]
    said = facts(report)
    if said:
        parts += ["<h2>And</h2>", "<ul>", *(f"<li>{_text(fact)}</li>" for fact in said), "</ul>"]
    parts += [
        "<footer><p>Made by <code>gatestep bench</code>; docs/benchmarks.md says how each figure is made.</p></footer>",
        "</body></html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _cards(report: Report) -> str:
    """The figures that one looks for first."""
    found: list[tuple[str, str]] = []
    for case in report.cases:
        if case.mode == "step" and case.precision == "float32" and case.threads == 1 and case.size in ("", "40→64"):
            found.append((f"{micro(case.engines[OURS].ns.median)} µs", f"a step of {case.net}"))
            if case.fastest is not None:
                ratio = case.ratios[case.fastest].median
                found.append((times(ratio), f"as long takes {case.fastest}, the fastest other"))
            break
    if report.cold is not None:
        start = report.cold.first_frame["gatestep (.gatestep)"]
        found.append((f"{start.median_ms:.0f} ms", "from starting Python to the first frame"))
    if report.allocations:
        found.append((f"{report.allocations['lstm step(x, out)']:g}", "requests for memory in a step"))
    if OURS in report.installed:
        found.append((f"{report.installed[OURS][0] / 1e6:.1f} MB", "on the disk"))
    cards = "".join(f'<div class="card"><b>{escape(a)}</b><span>{escape(b)}</span></div>' for a, b in found)
    return f'<div class="cards">{cards}</div>' if cards else ""


def _table(table: Table) -> str:
    title, head, lines = table
    return "\n".join(
        [
            f'<h3>{_text(title)}</h3><div class="wide"><table>',
            _line("th", head),
            *(_line("td", line) for line in lines),
            "</table></div>",
        ]
    )


def _line(kind: str, cells: Sequence[str]) -> str:
    """A line of a table; what stands in brackets stands back."""
    texts = [re.sub(r" (\([^)]*\))$", r" <i>\1</i>", _text(cell)) for cell in cells]
    return f"<tr>{''.join(f'<{kind}>{text}</{kind}>' for text in texts)}</tr>"


def _text(markdown: str) -> str:
    """The little Markdown that tables and sentences use."""
    text = escape(markdown, quote=False)
    text = re.sub(r"\*\*([^*]+)\*\*", r"<b>\1</b>", text)
    text = re.sub(r"\*([^*]+)\*", r"<em>\1</em>", text)
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
