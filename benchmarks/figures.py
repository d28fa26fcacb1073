"""Figures as text, and lines of them as a table."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["megabytes", "micro", "rows", "times"]


def micro(ns: float | None) -> str:
    """Nanoseconds as µs with three digits, whole ones from 100 on."""
    if ns is None:
        return ""
    us = ns / 1e3
    return f"{us:,.0f}" if us >= 100 else f"{us:.{2 if us < 10 else 1}f}" if us >= 1 else f"{us:.3f}"


def times(ratio: float) -> str:
    """How many times as long."""
    return f"{ratio:.0f}×" if ratio >= 10 else f"{ratio:.1f}×" if ratio >= 2 else f"{ratio:.2f}×"


def megabytes(size: float) -> str:
    """Bytes as MB."""
    return f"{size / 1e6:,.0f}" if size >= 1e7 else f"{size / 1e6:.1f}"


def rows(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, aligned as text too: the first column to the left, others to the right."""
    widths = [max(3, *(len(line[k]) for line in (head, *lines))) for k in range(len(head))]

    def text(line: Sequence[str]) -> str:
        cells = [f"{line[0]:<{widths[0]}}", *(f"{c:>{w}}" for c, w in zip(line[1:], widths[1:], strict=True))]
        return f"| {' | '.join(cells)} |"

    rule = [f":{'-' * (widths[0] - 1)}", *(f"{'-' * (width - 1)}:" for width in widths[1:])]
    return "\n".join([text(head), f"| {' | '.join(rule)} |", *map(text, lines)])
