"""What gatestep means to reach beside other engines, and what a run says of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from ..kernels.precision import BITS
from .cells import NETS, SIZES, Case, Net
from .figures import micro
from .limits import Kernel
from .measuring import Measured
from .peers import OURS
from .results import Report

__all__ = ["AIMS", "KERNELS", "Aim", "Answer", "answers", "cases", "no_less_exact"]

#: What a ratio is against: the fastest peer; one thread of it; ours in float32, and on one thread.
PEER, ONE_THREAD, FLOAT32, ALONE = "the fastest peer", "the fastest peer, 1 thread", "float32", "1 thread"
#: Tiers that are held to the peers' whole numbers of 8 bits.
WHOLE = tuple(BITS)


@dataclass(frozen=True)
class Aim:
    """A ratio to reach.

    Attributes
    ----------
    about : str
        What several aims have in common.
    net : Net
    mode : str
    least : float
        Time of what it is against ÷ ours; 1 stands for any more than that.
    precisions : tuple of str
        Ours, of which the fastest counts that is no less exact than what it is against.
    threads : int
    against : str
    """

    about: str
    net: Net
    mode: str
    least: float
    precisions: tuple[str, ...] = ("float32",)
    threads: int = 1
    against: str = PEER

    @property
    def cases(self) -> Iterator[list[Case]]:
        """What has to be measured for it; the cases of a list together."""
        yield [Case.of(self.net, self.mode, precision, self.threads) for precision in self.precisions]
        if self.against == ONE_THREAD:
            yield [Case.of(self.net, self.mode)]


@dataclass(frozen=True)
class Answer:
    """What came out.

    Attributes
    ----------
    about, what : str
    ours, other : str
        Figures, the other one with whose it is.
    figure, aim, limit : str
        What was reached, what was to be, and what no kernel could exceed in the same rounds (or nothing).
    reached : bool
    """

    about: str
    what: str
    ours: str
    other: str
    figure: str
    aim: str
    limit: str
    reached: bool


def _aims() -> Iterator[Aim]:
    cells = ("lstm", "gru")
    frame = "One frame, float32, against the fastest peer"
    for cell in cells:
        for size, least in zip(SIZES, (20, 10, 2.8, 1.5, 1.15, 1, 1), strict=True):
            yield Aim(frame, Net(cell, *size), "step", least)
    yield Aim(frame, NETS["dtln"], "step", 1.3)
    small = "One frame, smaller weights, against the fastest peer with less than float32, no less exact"
    for cell in cells:
        for size, least in zip(SIZES, (20, 10, 5, 2, 1.3, 1, 1), strict=True):
            yield Aim(small, Net(cell, *size), "step", least, WHOLE)
    yield Aim("One frame, 16 bits, against our float32", Net("lstm", 128, 256), "step", 1.6, ("w16",), against=FLOAT32)
    recording = "A recording, against the fastest peer"
    for cell, ratios in zip(cells, ((1.4, 1.12, 1.05), (1.8, 1.15, 1.05)), strict=True):
        for size, least in zip(((40, 64), (128, 256), (512, 512)), ratios, strict=True):
            yield Aim(recording, Net(cell, *size), "sequence", least)
            yield Aim(recording, Net(cell, *size), "sequence", 1.1, WHOLE)
    yield Aim(recording, NETS["bilstm"], "sequence", 2, threads=2, against=ONE_THREAD)
    rows = "Many rows, against the fastest peer"
    calls = (("lstm", (128, 256), "batch"), ("lstm", (64, 128), "lockstep"), ("gru", (128, 256), "lockstep"))
    for cell, size, mode in calls:
        for precisions in (("float32",), WHOLE):
            yield Aim(rows, Net(cell, *size), mode, 1.1, precisions)
    for net, mode, least in ((Net("lstm", 128, 256), "step", 1.7), (Net("lstm", 128, 256), "batch", 1.9)):
        yield Aim("Two threads, against one", net, mode, least, threads=2, against=ALONE)
    for net, mode in ((Net("lstm", 128, 256), "step"), (Net("lstm", 128, 256), "batch"), (NETS["bilstm"], "sequence")):
        yield Aim("Two threads, against two of the fastest peer", net, mode, 1, threads=2)


AIMS = tuple(_aims())
#: A kernel may take so many times the time of reading its weights, from 64→128 on; a row of three or more has to reach
#: that part of the limit, as growth by rows shows; a fresh process may take so many ms longer than NumPy's import.
KERNELS = tuple(Net(cell, *size) for cell in ("lstm", "gru") for size in SIZES if size[1] >= 128)
KERNEL, PEAK, ROWS, START = 1.06, 0.9, 3, 15.0


def cases(measured: Iterable[list[Case]]) -> Iterator[list[Case]]:
    """What has to be measured for the aims, beyond what is."""
    known = {case for together in measured for case in together}
    for aim in AIMS:
        for together in aim.cases:
            if not known.issuperset(together):
                known.update(together)
                yield together


def no_less_exact(tiers: Iterable[Measured], peer: str) -> Measured:
    """The fastest of our tiers whose error is no larger than the peer's; the most exact one if there is none."""
    held = list(tiers)
    exact = [case for case in held if case.engines[OURS].error <= case.engines[peer].error]
    if exact:
        return min(exact, key=lambda case: case.engines[OURS].ns.median)
    return min(held, key=lambda case: case.engines[OURS].error)


def answers(report: Report) -> list[Answer]:
    """What a run says of the aims that it has measured."""
    known = {_key(case): case for case in report.cases}
    made = [answer for aim in AIMS if (answer := _answer(aim, known)) is not None]
    made += [_kernel(kernel) for kernel in report.kernels if kernel.net in map(str, KERNELS)]
    made += [
        Answer(
            "Several rows, of the limit",
            f"{growth.net.replace('?', str(point.value))}",
            _micro(point.ns.median),
            f"limit {_micro(point.limit_ns)}",
            f"{point.reached:.0%}",
            f"≥ {PEAK:.0%}",
            "100%",
            point.reached >= PEAK,
        )
        for growth in report.growth
        if growth.axis == "rows"
        for point in growth.points
        if point.value >= ROWS
    ]
    return made + list(_starts(report))


def _key(case: Measured | Case) -> tuple[str, str, str, int]:
    return str(case.net), case.mode, case.precision, case.threads


def _answer(aim: Aim, known: dict[tuple[str, str, str, int], Measured]) -> Answer | None:
    tiers = [known[key] for case in next(iter(aim.cases)) if (key := _key(case)) in known]
    if len(tiers) < len(aim.precisions):
        return None
    own, scale, other = tiers[0], 1.0, f"{OURS} {aim.against}"
    if aim.against == ONE_THREAD:
        single = known.get(_key(replace(Case.of(aim.net, aim.mode))))
        if single is None or single.fastest is None:
            return None
        # How many times as long as ours on one thread, and that as ours on two.
        scale, other = own.ratios[f"{OURS} 1 thread"].median, single.fastest
        taken, ratio = single.engines[other].ns.median, single.ratios[other].median * scale
    elif aim.against == PEER:
        if own.fastest is None:
            return None
        other = own.fastest
        own = no_less_exact(tiers, other)
        taken, ratio = own.engines[other].ns.median, own.ratios[other].median
    else:
        taken, ratio = own.engines[other].ns.median, own.ratios[other].median
    unusual = [*([own.precision] if len(aim.precisions) > 1 or own.precision != "float32" else [])]
    unusual += [f"{aim.threads} threads"] if aim.threads > 1 else []
    return Answer(
        aim.about,
        ", ".join([f"{own.net} {own.mode}", *unusual]),
        _micro(own.engines[OURS].ns.median),
        f"{other} {_micro(taken)}",
        f"{ratio:.2f}×",
        f"> {aim.least:g}×" if aim.least == 1 else f"≥ {aim.least:g}×",
        "" if own.reached is None else f"{ratio / own.reached.median:.2f}×",
        ratio > 1 if aim.least == 1 else ratio >= aim.least,
    )


def _kernel(kernel: Kernel) -> Answer:
    over = kernel.kernel_over_read
    return Answer(
        "The kernel of a step, against reading its weights",
        kernel.net,
        _micro(kernel.kernel_ns),
        f"reading {_micro(kernel.read_ns)}",
        f"{over:.2f}",
        f"≤ {KERNEL:g}",
        "1.00",
        over <= KERNEL,
    )


def _starts(report: Report) -> Iterator[Answer]:
    if report.cold is None:
        return
    about, first = "A fresh process, to its first output", report.cold.first_frame
    for file, other, more in ((".gatestep", "numpy", START), (".onnx", "onnxruntime", 0.0)):
        if other in first:
            ours, theirs = first[f"{OURS} ({file})"], first[other]
            over = ours.over_numpy_ms - theirs.over_numpy_ms
            yield Answer(
                about,
                f"LSTM 40→64 ({file})",
                f"{ours.median_ms:.0f} ms",
                f"{other} {theirs.median_ms:.0f} ms",
                f"{over:+.1f} ms",
                f"≤ {more:+.0f} ms",
                "",
                over <= more,
            )


def _micro(ns: float) -> str:
    return f"{micro(ns)} µs"
