"""Streaming LDA against scikit-learn, and against other ways to cut a stream."""

import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor, nn

from quickstudy import Examples, PrototypicalNetwork, StreamingLDA
from quickstudy.nets.backbones import MLP

pytestmark = pytest.mark.usefixtures("double")


def stream(each: int = 10, classes: int = 4, width: int = 5) -> Examples:
    """Class after class, of one covariance, that is far from a multiple of the identity."""
    y = torch.eye(classes).repeat_interleave(each, 0)
    noise = torch.randn(len(y), width) @ torch.randn(width, width)
    return Examples(3 + y @ torch.randn(classes, width) + noise, y, torch.ones(len(y)))


def cut(examples: Examples, *sizes: int) -> list[Examples]:
    leaves = zip(*(leaf.split(list(sizes)) for leaf in examples), strict=True)
    return [Examples(*part) for part in leaves]


@pytest.mark.parametrize("shrinkage", [0.0, 0.3])
def test_it_is_scikit_learns(shrinkage: float):
    support, queries = stream(), torch.randn(20, 5)
    labels = support.y.argmax(-1)
    centred = torch.cat([part - part.mean(0) for part in support.x.split(10)])
    size = centred.square().mean().sqrt()  # there the target of shrinkage is the identity
    support, queries = support._replace(x=support.x / size), queries / size
    other = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage, priors=[0.25] * 4)
    other.fit(support.x.numpy(), labels.numpy())
    expected = torch.from_numpy(other.predict_log_proba(queries.numpy()))
    learner = StreamingLDA(nn.Identity(), shrinkage=shrinkage)
    found = learner.predict(learner.adapt(support), queries)
    torch.testing.assert_close(found.log_softmax(-1), expected)


@pytest.mark.parametrize("sizes", [[1] * 40, [13, 1, 0, 20, 6]])
def test_a_stream_may_be_cut_anywhere(sizes: list[int]):
    support = stream()
    support = support.take(torch.randperm(40))
    support = support._replace(weight=(torch.rand(40) < 0.8) * (0.5 + torch.rand(40)))
    learner, state = StreamingLDA(MLP(5, 6)), None
    for part in cut(support, *sizes):
        state = learner.adapt(part, state)
    torch.testing.assert_close(state, learner.adapt(support))


def test_far_from_zero_nothing_is_lost():
    support = stream()
    learner, state = StreamingLDA(nn.Identity()), None
    for part in cut(support._replace(x=support.x + 1e7), *[1] * 40):
        state = learner.adapt(part, state)
    assert state is not None
    expected = learner.adapt(support).scatter
    torch.testing.assert_close(state.scatter, expected, rtol=1e-6, atol=1e-6)


def test_fully_shrunk_the_nearest_mean_wins():
    support, queries, embed = stream(), torch.randn(20, 5), MLP(5, 6)

    def log_probs(learner: StreamingLDA | PrototypicalNetwork) -> Tensor:
        state = None
        for part in cut(support, *[4] * 10):
            state = learner.adapt(part, state)  # pyright: ignore[reportArgumentType]
        return learner.predict(state, queries)  # pyright: ignore[reportArgumentType]

    found, nearest = (
        log_probs(StreamingLDA(embed, shrinkage=1.0)),
        log_probs(PrototypicalNetwork(embed)),
    )
    torch.testing.assert_close(found.log_softmax(-1), (nearest / 2).log_softmax(-1))


def test_nearest_class_mean_is_a_prototypical_network_over_a_stream():
    support, queries, embed = stream(), torch.randn(20, 5), MLP(5, 6)
    learner, state = PrototypicalNetwork(embed), None
    for part in cut(support, 13, 1, 20, 6):
        state = learner.adapt(part, state)
    assert state is not None
    means = torch.stack([embed(part).mean(0) for part in support.x.split(10)])
    expected = -torch.cdist(embed(queries), means).square()
    torch.testing.assert_close(learner.predict(state, queries), expected)
    whole = learner.predict(learner.adapt(support), queries)
    torch.testing.assert_close(learner.predict(state, queries), whole)


def test_a_class_that_was_not_seen_is_not_predicted():
    learner, support = StreamingLDA(nn.Identity()), stream()
    first = cut(support, 20, 20)[0]
    logits = learner.predict(learner.adapt(first), support.x)
    assert (logits[:, 2:] == -torch.inf).all() and logits[:, :2].isfinite().all()
