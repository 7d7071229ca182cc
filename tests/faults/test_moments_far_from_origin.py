"""Moments of features with a large common offset, in single precision: no digit is lost.

What is right comes from scikit-learn and NumPy, in double precision, of the same numbers.
"""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.learners.lifelong.streaming_lda import StreamingLDAState, merge, moments

X, LABELS = map(np.asarray, load_iris(return_X_y=True))
ORDER = np.random.default_rng(0).permutation(len(X))
OFFSETS = [0, 300, 3000, 10_000]


def iris(offset: float) -> qs.Examples:
    """The flowers in a random order, float32."""
    x = torch.from_numpy((X + offset).astype(np.float32))[ORDER]
    return qs.Examples(x, torch.eye(3)[LABELS[ORDER]], torch.ones(len(x)))


def learned(learner: qs.StreamingLDA, examples: qs.Examples, size: int) -> StreamingLDAState:
    state = None
    for start in range(0, len(examples.x), size):
        state = learner.adapt(examples.take(slice(start, start + size)), state)
    assert state is not None
    return state


def log_probabilities(
    x: np.ndarray, y: np.ndarray, weight: np.ndarray, shrinkage: float
) -> np.ndarray:
    """Of every row, by the densities of normal distributions, in double precision."""
    means = np.stack([np.average(x[y == c], 0, weight[y == c]) for c in range(y.max() + 1)])
    deviations = x - means[y]
    covariance = np.einsum("n,ni,nj->ij", weight, deviations, deviations) / weight.sum()
    covariance = (1 - shrinkage) * covariance + shrinkage * np.eye(x.shape[1])
    inverse = np.linalg.inv(covariance)
    away = x[:, None] - means
    densities = -np.einsum("nci,ij,ncj->nc", away, inverse, away) / 2
    return densities - np.log(np.exp(densities).sum(1, keepdims=True))


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("size", [150, 10, 1])
def test_streaming_lda_is_that_of_scikit_learn(offset: float, size: int):
    examples = iris(offset)
    z, labels = examples.x.double().numpy(), LABELS[ORDER]
    lda = LinearDiscriminantAnalysis(solver="lsqr", priors=[1 / 3] * 3).fit(z, labels)
    learner = qs.StreamingLDA(nn.Identity(), shrinkage=0)
    predicted = learner.predict(learned(learner, examples, size), examples.x).argmax(-1).numpy()
    assert (predicted == lda.predict(z)).mean() > 0.99


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("shrinkage", [1e-4, 0.3, 1.0])
def test_probabilities_of_streaming_lda_are_those_of_normal_densities(
    offset: float, shrinkage: float
):
    examples = iris(offset)
    right = log_probabilities(
        examples.x.double().numpy(), LABELS[ORDER], np.ones(len(X)), shrinkage
    )
    learner = qs.StreamingLDA(nn.Identity(), shrinkage=shrinkage)
    logits = learner.predict(learned(learner, examples, 150), examples.x)
    # a stored mean is rounded to half a unit in its last place: 5e-4 at 10,000
    error = 2e-3 + 4e-5 * offset
    assert abs(logits.log_softmax(-1).numpy() - right).clip(max=1e9)[right > -20].max() < error


@pytest.mark.parametrize("offset", OFFSETS)
def test_the_scatter_of_a_stream_is_that_of_all_examples(offset: float):
    examples = iris(offset)
    z, labels = examples.x.double().numpy(), LABELS[ORDER]
    deviations = z - np.stack([z[labels == c].mean(0) for c in range(3)])[labels]
    right = torch.from_numpy(deviations.T @ deviations).float()
    for size in (150, 10, 1):
        scatter = learned(qs.StreamingLDA(nn.Identity()), examples, size).scatter
        torch.testing.assert_close(scatter, right, rtol=2e-3, atol=2e-2)


def test_the_state_keeps_its_dtype():
    examples = iris(3000)
    first, second = (moments(part.x, part) for part in (examples, examples))
    assert {leaf.dtype for leaf in merge(first, second)} == {torch.float32}
    logits = qs.StreamingLDA(nn.Identity()).predict(first, examples.x)
    assert logits.dtype == torch.float32


@pytest.mark.parametrize("transform", ["UN", "L2N", "CL2N"])
@pytest.mark.parametrize("offset", OFFSETS)
def test_simple_shot_predicts_the_nearest_mean(transform: str, offset: float):
    examples = iris(offset)

    def features(x: Tensor) -> np.ndarray:
        z = x.double().numpy()
        return z if transform == "UN" else z / np.linalg.norm(z, axis=1, keepdims=True)

    z, labels = features(examples.x), LABELS[ORDER]
    means = np.stack([z[labels == c].mean(0) for c in range(3)])
    right = ((z[:, None] - means) ** 2).sum(-1).argmin(1)
    learner = qs.SimpleShot(nn.Identity(), nn.Linear(4, 3), transform=transform).eval()  # pyright: ignore
    predicted = learner.predict(learner.adapt(examples), examples.x).argmax(-1).numpy()
    assert (predicted == right).mean() > 0.98
