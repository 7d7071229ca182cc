"""Machines with a memory against `nn.LSTM`: forwards and backwards through a sequence of 50.

16 sequences of vectors of 9, the controller and the LSTM 100 wide, a memory of 128 slots of 20
(that of MANN with 4 heads), one thread. `nn.LSTM` is one operation, written for the purpose;
`LSTMCell` is the same net step by step, as the machine's controller is. "all at once" has the
sequences as an axis of the tensors, "vmap" as tasks, as learners do. Compiled is the step,
`machine.step = torch.compile(machine.step)`: that takes as long for every length of a sequence,
and none of it is compiled anew for another.

Times are of the process, which other work on the machine disturbs least: the least of the
repeats. A step is one of the 50, of all sequences together.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap

from benchmarks.common import write
from quickstudy.learners.memory.mann import LRUA
from quickstudy.nets.cells import NTM, FeedForward, LSTMCell, RecurrentCell

STEPS, SEQUENCES, INPUTS, HIDDEN = 50, 16, 9, 100


def at_once(machine: RecurrentCell[Any]) -> Callable[[Tensor], Tensor]:
    return lambda x: machine(x)[0]


def mapped(machine: RecurrentCell[Any]) -> Callable[[Tensor], Tensor]:
    return vmap(at_once(machine), in_dims=1, out_dims=1)


def compiled(machine: RecurrentCell[Any]) -> Callable[[Tensor], Tensor]:
    machine.step = torch.compile(machine.step, fullgraph=True)
    return at_once(machine)


def fused() -> Callable[[Tensor], Tensor]:
    lstm = nn.LSTM(INPUTS, HIDDEN)
    return lambda x: lstm(x)[0]


def ntm(**settings: Any) -> NTM:
    return NTM(INPUTS, HIDDEN, hidden=HIDDEN, **settings)


def lrua() -> LRUA:
    return LRUA(INPUTS, HIDDEN, hidden=HIDDEN, width=20)


WAYS: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
    "nn.LSTM": fused,
    "LSTMCell, all at once": lambda: at_once(LSTMCell(INPUTS, HIDDEN)),
    "LSTMCell, compiled": lambda: compiled(LSTMCell(INPUTS, HIDDEN)),
    "NTM, all at once": lambda: at_once(ntm()),
    "NTM, vmap": lambda: mapped(ntm()),
    "NTM, compiled": lambda: compiled(ntm()),
    "NTM feed-forward, all at once": lambda: at_once(ntm(controller=FeedForward)),
    "NTM feed-forward, compiled": lambda: compiled(ntm(controller=FeedForward)),
    "MANN, all at once": lambda: at_once(lrua()),
    "MANN, vmap": lambda: mapped(lrua()),
    "MANN, compiled": lambda: compiled(lrua()),
}


def measure(way: str, repeats: int) -> dict[str, Any]:
    """A row: the time of a sequence there and back, and what the first one took more."""
    torch.manual_seed(0)
    torch._dynamo.reset()
    run = WAYS[way]()
    x = torch.rand(STEPS, SEQUENCES, INPUTS)

    def seconds() -> float:
        begun = time.process_time()
        run(x).sum().backward()
        return time.process_time() - begun

    first, again = seconds(), min(seconds() for _ in range(repeats))
    row = {"way": way, "ms": round(1e3 * again, 2), "steps/s": round(STEPS / again)}
    return row | {"first ms": round(1e3 * first)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measure(way, arguments.repeats) for way in WAYS]
    rows = [row | {"x nn.LSTM": float(f"{row['ms'] / rows[0]['ms']:.3g}")} for row in rows]
    title = f"{SEQUENCES} sequences of {STEPS} steps there and back, one thread"
    write("recurrent", title, rows, arguments.out)


if __name__ == "__main__":
    main()
