"""Results as plots, in SVG: latency against size, roofline, tails, growth."""

from __future__ import annotations

import importlib
import io
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .measuring import Measured
from .peers import OURS
from .results import Report

__all__ = ["PLOTS", "figures", "save"]

#: One strong colour for ours; others keep apart, and back.
COLOURS = {
    OURS: "#d9480f",
    "litert": "#1971c2",
    "onnxruntime": "#495057",
    "openvino": "#2b8a3e",
    "torch": "#862e9c",
    "torch-compiled": "#c77dd6",
    "numpy": "#adb5bd",
}
LIMIT, FAINT, INK = "#868e96", "#e9ecef", "#343a40"
#: Working sets whose bandwidth is drawn: about those of the caches, and of memory.
ROOFS = (1 << 14, 1 << 19, 1 << 24, 1 << 26)
MODES = {"step": "#d9480f", "lockstep": "#f08c00", "sequence": "#1971c2", "batch": "#2b8a3e"}
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "gatestep",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": "#adb5bd",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlesize": 10.5,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": FAINT,
    "legend.frameon": False,
}


def _plain(axis: Any) -> None:
    """Ticks of a logarithmic axis as plain numbers."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value < 1e4 else f"{value:,.0f}"))
    axis.set_minor_formatter(NullFormatter())


def _names(panel: Any, ends: list[tuple[float, str, str, bool]], x: float) -> None:
    """Names at the right ends of lines, moved apart where they would meet; on a logarithmic scale."""
    low, high = (math.log(limit) for limit in panel.get_ylim())
    gap, ends = (high - low) * 0.058, sorted(ends)
    places: list[float] = []
    for y, *_ in ends:
        places.append(max(math.log(y), places[-1] + gap if places else low))
    if places:
        # They were only moved up: half of the way back.
        back = sum(place - math.log(end[0]) for place, end in zip(places, ends, strict=True)) / len(places)
        places = [place - back for place in places]
    for place, (_, name, colour, strong) in zip(places, ends, strict=True):
        weight = "bold" if strong else "normal"
        panel.annotate(
            name,
            (x, math.exp(place)),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            fontsize=9,
            fontweight=weight,
            annotation_clip=False,
        )


def latency(report: Report, pyplot: Any) -> Any:
    """Time of a step against size, per kind of net."""
    cases = [c for c in report.cases if (c.mode, c.precision, c.threads) == ("step", "float32", 1) and c.size]
    cases = [c for c in cases if c.net.split()[1] == c.size]
    nets = list(dict.fromkeys(case.net.split()[0] for case in cases))
    if not nets:
        return None
    figure, panels = pyplot.subplots(1, len(nets), figsize=(4.3 * len(nets), 3.9), sharey=True, squeeze=False)
    for panel, net in zip(panels[0], nets, strict=True):
        own = [case for case in cases if case.net.split()[0] == net]
        sizes = list(range(len(own)))
        panel.set(yscale="log", title=f"{net}: one step, µs", xticks=sizes)
        panel.set_xticklabels([case.size.replace("→", "\n→") for case in own], fontsize=8)
        panel.grid(axis="y")
        limit = [case.limit.median / 1e3 if case.limit else math.nan for case in own]
        panel.plot(sizes, limit, "--", color=LIMIT, linewidth=1)
        ends = [(limit[-1], "limit", LIMIT, False)]
        for name in reversed([n for n in COLOURS if any(n in case.engines for case in own)]):
            values = [case.engines[name].ns.median / 1e3 if name in case.engines else math.nan for case in own]
            ours = name == OURS
            panel.plot(
                sizes,
                values,
                "o-",
                color=COLOURS[name],
                linewidth=2.4 if ours else 1.3,
                markersize=5 if ours else 3,
                zorder=3 if ours else 2,
            )
            ends.append((values[-1], name, COLOURS[name], ours))
        _plain(panel.yaxis)
        figure.canvas.draw()
        _names(panel, [end for end in ends if math.isfinite(end[0])], sizes[-1])
    figure.tight_layout(w_pad=5.5, rect=(0, 0, 0.94 if len(nets) > 1 else 0.86, 1))
    return figure


def roofline(report: Report, pyplot: Any) -> Any:
    """How many products and sums a second, by how many there are for each byte of weights."""
    cases = [c for c in report.cases if c.precision == "float32" and c.threads == 1 and c.products]
    if report.ceiling is None or not cases:
        return None
    figure, (panel, sets) = pyplot.subplots(1, 2, figsize=(10.6, 3.9), width_ratios=(1.9, 1))
    peak, bandwidth = report.ceiling.flops / 1e9, report.ceiling.bandwidth
    for wanted in ROOFS:
        size = min(bandwidth, key=lambda known: abs(math.log(known / wanted)))
        speed = bandwidth[size] / 1e9
        panel.plot([0.1, peak / speed], [0.1 * speed, peak], color=LIMIT, linewidth=1)
        text = f"{size >> 10} KiB" if size < 1 << 20 else f"{size >> 20} MiB"
        panel.annotate(text, (0.1, 0.1 * speed), xytext=(2, 5), textcoords="offset points", fontsize=8, color=LIMIT)
    panel.plot([0.1, 1e3], [peak, peak], color=LIMIT, linewidth=1)
    panel.annotate(
        f"peak, {peak:.0f} GFLOP/s", (1e3, peak), xytext=(0, 4), textcoords="offset points", ha="right", fontsize=8
    )
    for mode, colour in MODES.items():
        own = [case for case in cases if case.mode == mode]
        if own:
            panel.plot(
                [_intensity(case) for case in own],
                [_flops(case) / case.engines[OURS].ns.median for case in own],
                "o",
                color=colour,
                markersize=5,
                alpha=0.85,
                label=mode,
            )
    panel.set(xscale="log", yscale="log", xlabel="operations per byte of weights that has to be read")
    panel.set_title("GFLOP/s of each case, under what this machine reads and multiplies")
    panel.legend(loc="lower right", fontsize=9, handletextpad=0.1)
    panel.grid()
    known = sorted(bandwidth)
    sets.plot([size / 1024 for size in known], [bandwidth[size] / 1e9 for size in known], "o-", color=INK, markersize=3)
    sets.set(xscale="log", ylim=(0, None), title="Reading, GB/s", xlabel="working set, KiB")
    sets.grid(axis="y")
    for axis in (panel.xaxis, panel.yaxis, sets.xaxis):
        _plain(axis)
    figure.tight_layout(w_pad=3)
    return figure


def _flops(case: Measured) -> float:
    return 2 * case.products * case.frames * case.rows


def _intensity(case: Measured) -> float:
    return _flops(case) / case.weight_bytes


def tails(report: Report, pyplot: Any) -> Any:
    """How long the slowest steps take: one in ten, one in a hundred, and so on."""
    if not report.tails:
        return None
    figure, panels = pyplot.subplots(
        1, len(report.tails), figsize=(5.6 * len(report.tails), 3.9), sharey=True, squeeze=False
    )
    for panel, (net, held) in zip(panels[0], report.tails.items(), strict=True):
        ends = []
        for tail in held:
            last = 100 * (1 - 1 / tail.steps)
            points = [(float(q), ns / 1e3) for q, ns in tail.percentiles.items() if 50 <= float(q) < last]
            points.append((last, tail.percentiles["100"] / 1e3))
            rarity = [1 / (1 - q / 100) for q, _ in points]
            ours = tail.name == OURS
            colour = COLOURS[tail.name]
            panel.plot(
                rarity, [us for _, us in points], color=colour, linewidth=2.4 if ours else 1.3, zorder=3 if ours else 2
            )
            ends.append((points[-1][1], tail.name, colour, ours))
        panel.set(xscale="log", yscale="log", title=f"{net}: µs per step")
        panel.set_xlabel("the slowest one in …")
        panel.grid()
        _plain(panel.xaxis)
        _plain(panel.yaxis)
        figure.canvas.draw()
        _names(panel, ends, held[0].steps)
    figure.tight_layout(w_pad=5.5, rect=(0, 0, 0.88, 1))
    return figure


def growth(report: Report, pyplot: Any) -> Any:
    """How a step grows along each axis."""
    if not report.growth:
        return None
    count = len(report.growth)
    figure, panels = pyplot.subplots(1, count, figsize=(3.1 * count, 3.1), squeeze=False)
    for panel, held in zip(panels[0], report.growth, strict=True):
        values = [point.value for point in held.points]
        panel.plot(values, [point.limit_ns / 1e3 for point in held.points], "--", color=LIMIT, linewidth=1)
        panel.plot(values, [point.ns.median / 1e3 for point in held.points], "o-", color=COLOURS[OURS], markersize=3.5)
        panel.set(xscale="log", yscale="log", title=held.net, xlabel=held.axis)
        low, high = panel.get_ylim()
        panel.set_ylim(min(low, high / 10), high * 1.2)
        panel.title.set_fontsize(9)
        panel.grid(axis="y")
        _plain(panel.xaxis)
        _plain(panel.yaxis)
    panels[0][0].set_ylabel("µs per step (dashed: limit)")
    figure.tight_layout()
    return figure


#: By name: what draws it.
PLOTS: dict[str, Callable[[Report, Any], Any]] = {
    "latency": latency,
    "roofline": roofline,
    "tails": tails,
    "growth": growth,
}


def figures(report: Report) -> dict[str, str]:
    """SVG by name, of the plots that there are figures for, to be put into a page.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    """
    made = {}
    with _pyplot() as pyplot:
        for name, draw in PLOTS.items():
            drawn = draw(report, pyplot)
            if drawn is not None:
                stream = io.StringIO()
                drawn.savefig(stream, format="svg", metadata={"Date": None}, transparent=True)
                made[name] = _inline(stream.getvalue(), name)
    return made


def _inline(text: str, name: str) -> str:
    """An SVG file as a part of a page, no wider than the page or itself; names in it are unique among figures."""
    text = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", text[text.index("<svg") :])
    head, close, rest = text.partition(">")
    return re.sub(r' height="[^"]*"', "", re.sub(r' width="([^"]*)"', r' style="max-width: \1"', head)) + close + rest


def save(report: Report, path: Path) -> None:
    """Latency against size, to a file: .svg, .png and what else matplotlib has.

    Raises
    ------
    ValueError
        There is nothing to draw.
    """
    with _pyplot() as pyplot:
        drawn = latency(report, pyplot)
        if drawn is None:
            raise ValueError("a plot needs steps in float32 among the cases")
        drawn.savefig(path, dpi=144, facecolor="white", metadata={"Date": None} if path.suffix == ".svg" else None)


@contextmanager
def _pyplot() -> Iterator[Any]:
    """matplotlib's, with our style."""
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    with matplotlib.rc_context(STYLE):
        try:
            yield pyplot
        finally:
            pyplot.close("all")
