"""Learning without forgetting against a plain loop."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quickstudy import FineTuning, LearningWithoutForgetting
from quickstudy.core.parameters import select_parameters
from quickstudy.core.task import Examples
from quickstudy.datasets import digits
from quickstudy.datasets.labelled import split_examples
from quickstudy.evaluation import evaluate_stream
from quickstudy.nets.backbones import MLP
from quickstudy.tasks.scenarios import class_incremental


def classes(size: int, *labels: int) -> Examples:
    """Points of random labels among some of five."""
    drawn = torch.tensor(labels)[torch.randint(len(labels), (size,))]
    return Examples(torch.randn(size, 4), F.one_hot(drawn, 5).double(), torch.ones(size))


def copied(net: MLP) -> MLP:
    other = MLP(4, 5)
    other.load_state_dict(net.state_dict())
    return other


@pytest.mark.usefixtures("double")
def test_it_is_the_loop_of_the_paper():
    strength, t, net = 0.6, 3.0, MLP(4, 5)
    learner = LearningWithoutForgetting(
        net, strength=strength, temperature=t, lr=0.2, batch_size=4, epochs=2
    )
    pupil, state, known = copied(net), None, list[int]()
    for labels in ((0, 3), (1,), (3, 4)):
        examples = classes(10, *labels)
        state = learner.adapt(examples, state)
        teacher = copied(pupil)
        sgd = torch.optim.SGD(pupil.parameters(), 0.2)
        for _ in range(2):
            for x, y in zip(examples.x.split(4), examples.y.split(4), strict=True):
                loss = F.cross_entropy(pupil(x), y)
                if known:
                    old = teacher(x).detach()[:, known].exp() ** (1 / t)
                    new = pupil(x)[:, known].exp() ** (1 / t)
                    old, new = (z / z.sum(1, keepdim=True) for z in (old, new))
                    loss = loss - strength * (old * new.log()).sum(1).mean()
                sgd.zero_grad()
                loss.backward()
                sgd.step()
        known = sorted({*known, *examples.y.argmax(1).tolist()})
        assert state.classes.nonzero().flatten().tolist() == known
    assert state is not None
    for name, value in pupil.named_parameters():
        torch.testing.assert_close(state.params[name], value)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("experiences", [1, 3])
def test_without_strength_or_a_past_it_is_fine_tuning(experiences: int):
    net = MLP(4, 5)
    learner = LearningWithoutForgetting(
        net, strength=0.0 if experiences > 1 else 1.0, batch_size=4, epochs=2
    )
    plain = FineTuning(net, batch_size=4, epochs=2)
    state, tuned = None, None
    for label in range(experiences):
        examples = classes(10, label, label + 1)
        state, tuned = learner.adapt(examples, state), plain.adapt(examples, tuned)
        for name, value in tuned.items():
            assert torch.equal(value, state.params[name])


@pytest.mark.usefixtures("double")
def test_what_was_said_of_classes_never_seen_does_not_count():
    learner = LearningWithoutForgetting(MLP(4, 5))
    examples, known = classes(6, 0, 1), torch.tensor([1.0, 1, 0, 0, 0])
    params = select_parameters(learner.net)

    def cost(logits: Tensor) -> Tensor:
        return learner.objective(examples, logits, known, params)

    logits = torch.randn(6, 5)
    assert torch.equal(cost(logits), cost(logits + torch.tensor([0, 0, 5.0, -7, 2])))
    assert not torch.allclose(cost(logits), cost(logits + torch.tensor([0.5, 0, 0, 0, 0])))


@pytest.mark.usefixtures("double")
def test_padding_teaches_no_class():
    learner = LearningWithoutForgetting(MLP(4, 5))
    examples = classes(6, 0)
    examples.y[-1] = F.one_hot(torch.tensor(2), 5)
    weight = torch.tensor([1.0, 1, 1, 1, 1, 0])
    found = learner.adapt(examples._replace(weight=weight)).classes
    assert found.tolist() == [1, 0, 0, 0, 0]


def test_split_digits_are_forgotten_less_where_the_task_is_known():
    stream = class_incremental(*split_examples(digits(), 0.7), examples=60, seed=2)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), MLP(64, 10, hidden=(32,)))
    tuned, kept = (
        evaluate_stream(learner, [stream], task_incremental=True).report.mean("accuracy")
        for learner in (
            FineTuning(net, lr=0.1, epochs=10),
            LearningWithoutForgetting(net, lr=0.1, epochs=10),
        )
    )
    assert kept > tuned + 0.01
