"""The parts of nets that are ours."""

import pytest
import torch

from quickstudy.nets.backbones import ReLU


def test_what_is_compiled_is_relu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    x = torch.tensor([-2.0, -0.5, 0.0, 0.5, 3.0], dtype=torch.double, requires_grad=True)
    for power in (1, 2):  # of what follows, so that there is a second derivative
        values, grads = [], []
        for relu in (ReLU(), torch.nn.ReLU()):
            y = relu(x).pow(power)
            (grad,) = torch.autograd.grad(y.sum(), x, create_graph=True)
            values += [y]
            grads += [grad]
            if power == 2:
                grads += torch.autograd.grad(grad.sum(), x)
        torch.testing.assert_close(values[0], values[1])
        half = len(grads) // 2
        torch.testing.assert_close(grads[:half], grads[half:])
