"""Loops of TorchScript: unrolled where their turns are known, else loops of the graph."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import gatestep as gs

from .test_torchscript import check, check_stream, saved, written

pytestmark = pytest.mark.filterwarnings("ignore")


class Appends(nn.Module):
    """A cell over time, its outputs stacked."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(3, 5)
        self.fc = nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = torch.zeros(x.size(1), 5)
        ys: list[torch.Tensor] = []
        for t in range(x.size(0)):
            h = self.cell(x[t], h)
            ys.append(self.fc(h))
        return torch.stack(ys), h


class Unbinds(nn.Module):
    """Two cells, states in lists."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.ModuleList([nn.LSTMCell(3, 5), nn.LSTMCell(5, 5)])

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        h = torch.zeros(2, x.size(0), 5)
        hs, cs = list(h.unbind(0)), list(torch.zeros_like(h).unbind(0))
        out = []
        for xt in x.unbind(1):
            for i, cell in enumerate(self.cells):
                hs[i], cs[i] = cell(xt, (hs[i], cs[i]))
                xt = hs[i]
            out.append(xt)
        return torch.stack(out, 1), (torch.stack(hs), torch.stack(cs))


class Tuples(nn.Module):
    """States in a list of tuples; frames are joined instead of stacked."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.LSTMCell(3, 5), nn.LSTMCell(5, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b = x.size(0)
        states = [(torch.zeros(b, 5), torch.zeros(b, 5)), (torch.zeros(b, 4), torch.zeros(b, 4))]
        ys: list[torch.Tensor] = []
        for t in range(x.size(1)):
            states[0] = self.one(x[:, t, :], states[0])
            states[1] = self.two(states[0][0], states[1])
            ys.append(states[1][0].unsqueeze(1))
        return torch.cat(ys, 1)


class ByHand(nn.Module):
    """A GRU written out."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.u = nn.Linear(3, 15), nn.Linear(5, 15, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.zeros(x.shape[1], 5)
        ys: list[torch.Tensor] = []
        for t in range(x.shape[0]):
            ar, az, an = self.w(x[t]).chunk(3, 1)
            br, bz, bn = self.u(h).chunk(3, 1)
            r, z = torch.sigmoid(ar + br), torch.sigmoid(az + bz)
            n = torch.tanh(an + r * bn)
            h = (1 - z) * n + z * h
            ys.append(h)
        return torch.stack(ys, 0)


class While(nn.Module):
    """An average that forgets."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        i = 0
        s = torch.zeros(x.size(1), x.size(2))
        while i < x.size(0):
            s = s * 0.9 + x[i]
            i += 1
        return s


class Writes(nn.Module):
    """Outputs are written into a tensor, frame by frame."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(3, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = torch.zeros(x.size(0), x.size(1), 5)
        h = torch.zeros(x.size(0), 5)
        for t in range(x.size(1)):
            h = self.cell(x[:, t], h)
            out[:, t] = h
        return out


class Two(nn.Module):
    """A loop whose bound is known, within one whose bound is not."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        s = torch.zeros_like(x[0])
        for t in range(x.size(0)):
            for k in range(3):
                s = s + x[t] * k
        return s


@pytest.mark.parametrize("how", ["script", "freeze"])
@pytest.mark.parametrize("make", [Appends, Unbinds, Tuples, ByHand, While, Writes, Two])
def test_loops_over_time(make, how) -> None:
    torch.manual_seed(2)
    calls = [(torch.randn(4, 6, 3),), (torch.randn(7, 2, 3),), (torch.randn(1, 1, 3),)]
    check(written(make(), how, calls[0]), *calls)


@pytest.mark.parametrize(("make", "batch_first"), [(Appends, False), (Unbinds, True), (Tuples, True), (ByHand, False)])
def test_loops_stream(make, batch_first) -> None:
    torch.manual_seed(2)
    x = torch.randn(4, 6, 3)
    check_stream(check(written(make(), "script", (x,)), (x,)), x.numpy(), batch_first=batch_first)


@pytest.mark.parametrize("make", [Appends, Unbinds])
def test_a_traced_loop_is_rolled_up_again(make) -> None:
    """The trace has four frames; its program asks for nothing else of the axis, so that is what it is."""
    x = torch.randn(4, 4, 3)
    model = check(written(make(), "trace", (x,)), (x,), (torch.randn(4, 4, 3),))
    check_stream(model, torch.randn(7, 7, 3).numpy(), batch_first=make is Unbinds)


def test_what_a_loop_cannot_carry_is_refused_by_name() -> None:
    class Grows(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x[0]
            for _ in range(x.size(0)):
                y = torch.stack([y, y])
            return y

    class Reads(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            ys: list[torch.Tensor] = []
            for t in range(x.size(0)):
                ys.append(x[t] if len(ys) == 0 else ys[-1] + x[t])
            return torch.stack(ys)

    for module in (Grows(), Reads()):
        with pytest.raises(gs.UnsupportedModelError, match=r"code of 'forward'.*loop|list"):
            gs.load(saved(torch.jit.script(module)))
