"""A metric that fails is named, and the learner is not blamed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.testing.learners import Blobs

BLOBS = Blobs(ways=3, shots=2, queries=4)


def control_flow(logits: Tensor, examples: qs.Examples) -> Tensor:
    return logits.sum() if logits.sum() > 0 else -logits.sum()


def to_numpy(logits: Tensor, examples: qs.Examples) -> Tensor:
    return torch.tensor(logits.numpy().mean())


def item(logits: Tensor, examples: qs.Examples) -> Tensor:
    return torch.tensor(logits.max().item())


def dynamic(logits: Tensor, examples: qs.Examples) -> Tensor:
    return logits[logits > 0].mean()


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x


def own_function(logits: Tensor, examples: qs.Examples) -> Tensor:
    return Doubled.apply(logits).sum()


def rows(logits: Tensor, examples: qs.Examples) -> Tensor:
    return logits.sum(-1)


METRICS = [control_flow, to_numpy, item, dynamic, own_function, rows]


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.__name__)
@pytest.mark.parametrize(
    "net", [nn.Linear(8, 3), nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 3))]
)
def test_evaluations_name_the_metric(metric: Callable[..., Tensor], net: nn.Module):
    learner = qs.MAML(net)
    with pytest.raises(ValueError, match=r"^The metric 'mine' ") as raised:
        qs.evaluate(learner, BLOBS, n_tasks=4, metrics={"mine": metric})
    assert "MAML" not in str(raised.value) and "Linear" not in str(raised.value)


def test_streams_name_the_metric():
    batch = BLOBS.sample(2, torch.Generator().manual_seed(0))
    stream = [qs.Task(*(part.take(n) for part in batch)) for n in (0, 1)]
    learner = qs.FineTuning(nn.Linear(8, 3))
    with pytest.raises(ValueError, match=r"^The metric 'mine' has shape"):
        qs.evaluation.evaluate_stream(learner, [stream], metrics={"mine": rows})
    with pytest.raises(ValueError, match=r"^The metric 'rows' has shape"):
        list(qs.evaluation.run_stream(learner, stream, metric=rows))


def test_an_error_of_the_metric_itself_stays_what_it_is():
    def broken(logits: Tensor, examples: qs.Examples) -> Tensor:
        return {}["logits"]

    with pytest.raises(KeyError) as raised:
        qs.evaluate(qs.MAML(nn.Linear(8, 3)), BLOBS, n_tasks=2, metrics={"mine": broken})
    assert raised.value.__notes__ == ["The metric 'mine' failed."]


def test_a_learner_of_another_width_is_still_blamed():
    with pytest.raises(ValueError, match="The learner predicts"):
        qs.evaluate(qs.MAML(nn.Linear(8, 2)), BLOBS, n_tasks=2, metrics={"a": qs.core.accuracy})


def test_a_learner_that_fails_is_still_named():
    class Peeks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, :3] if x.sum() > 0 else x[:, 3:6]

    with pytest.raises(ValueError, match=r"^Peeks at embed looks at a tensor's values"):
        qs.evaluate(qs.PrototypicalNetwork(Peeks()), BLOBS, n_tasks=2)
