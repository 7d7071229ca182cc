"""Malformed tasks are refused in words: their loss would be 0, or an error of PyTorch."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import quickstudy as qs
from quickstudy import Examples, Task
from quickstudy.core.criteria import accuracy, cross_entropy, weighted_mean

LEARNERS: dict[str, Callable[[], qs.Learner[Any]]] = {
    "MAML": lambda: qs.MAML(nn.Linear(8, 3)),
    "prototypes": lambda: qs.PrototypicalNetwork(nn.Linear(8, 5)),
    "R2D2": lambda: qs.R2D2(nn.Linear(8, 5)),
    "GDumb": lambda: qs.GDumb(nn.Linear(8, 3), memory_size=6, epochs=1),
}


def examples() -> Examples:
    x = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))
    return Examples(
        x, F.one_hot(torch.arange(6) % 3, 3).float().repeat(2, 1, 1), torch.ones(2, 6)
    )


def with_nan_label(part: Examples) -> Examples:
    y = part.y.clone()
    y[0, 0] = torch.nan
    return part._replace(y=y)


MALFORMED: dict[str, tuple[Callable[[Examples], Examples], str]] = {
    "a label is NaN": (with_nan_label, "A label is NaN"),
    "class numbers": (
        lambda part: part._replace(y=part.y.argmax(-1, keepdim=True).float()),
        "no rows of classes",
    ),
    "negative labels": (lambda part: part._replace(y=-part.y), "no rows of classes"),
    "several classes": (lambda part: part._replace(y=2 * part.y), "no rows of classes"),
    "negative weights": (lambda part: part._replace(weight=-part.weight), "negative or NaN"),
    "NaN weights": (
        lambda part: part._replace(weight=part.weight * torch.nan),
        "negative or NaN",
    ),
    "weights with an axis": (
        lambda part: part._replace(weight=part.weight[..., None]),
        "a weight to each example",
    ),
    "no weights": (
        lambda part: part._replace(weight=None),
        "`weight` of the tasks is a NoneType",
    ),  # pyright: ignore
    "arrays": (lambda part: part._replace(x=part.x.numpy()), "`x` of the tasks is a ndarray"),  # pyright: ignore
    "sparse": (lambda part: part._replace(x=part.x.to_sparse()), "`x` of the tasks is sparse"),
    "fewer inputs": (lambda part: part._replace(x=part.x[:, :4]), "one for each target"),
    "fewer targets": (lambda part: part._replace(y=part.y[:, :4]), "a weight to each example"),
}


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("fault", MALFORMED)
def test_training_refuses(name: str, fault: str) -> None:
    change, sentence = MALFORMED[fault]
    learner = LEARNERS[name]()
    for tasks in (Task(change(examples()), examples()), Task(examples(), change(examples()))):
        with pytest.raises(ValueError, match=re.escape(sentence)):
            learner(tasks)


def test_evaluation_refuses() -> None:
    class Numbers(qs.TaskDistribution):
        def sample(self, n_tasks: int, generator: torch.Generator) -> Any:
            part = MALFORMED["class numbers"][0](examples())
            return Task(part, part)

    with pytest.raises(ValueError, match="no rows of classes"):
        qs.evaluate(LEARNERS["prototypes"](), Numbers(), n_tasks=2)


def test_padding_may_hold_anything() -> None:
    whole = examples()
    padded = Examples(*(torch.cat([leaf, leaf[:, :1]], 1) for leaf in whole))
    padded.y[:, -1], padded.weight[:, -1] = torch.nan, 0
    learner = LEARNERS["MAML"]()
    torch.testing.assert_close(learner(Task(whole, padded)), learner(Task(whole, whole)))


def test_soft_labels_and_unlabelled_examples_are_no_fault() -> None:
    soft = examples()._replace(y=torch.full((2, 6, 3), 1 / 3))
    unlabelled = examples()._replace(y=torch.zeros(2, 6, 3))
    learner = LEARNERS["MAML"]()
    for part in (soft, unlabelled):
        assert learner(Task(part, examples())).isfinite().all()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_criteria_do_not_leave_out_what_is_no_number(value: float) -> None:
    logits, y = torch.randn(4, 3), torch.eye(3)[[0, 1, 2, 0]]
    y[1, 1] = value
    labels = Examples(torch.zeros(4, 1), y, torch.ones(4))
    assert not cross_entropy(logits, labels).isfinite()
    if np.isnan(value):
        assert accuracy(logits, labels).isnan()
    weight = torch.tensor([1.0, value])
    assert not weighted_mean(torch.tensor([1.0, 2.0]), weight).isfinite()


def reference_lda(x: Tensor, y: Tensor, queries: Tensor, shrinkage: float) -> np.ndarray:
    """LDA by NumPy in double precision; logits of a query up to a number."""
    features, labels = x.double().numpy(), y.argmax(-1).numpy()
    means = np.stack([features[labels == c].mean(0) for c in range(y.shape[1])])
    deviations = features - means[labels]
    scatter = deviations.T @ deviations / len(features)
    covariance = (1 - shrinkage) * scatter + shrinkage * np.eye(scatter.shape[0])
    weights = np.linalg.solve(covariance, means.T).T
    return queries.double().numpy() @ weights.T - (weights * means).sum(1) / 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_streaming_lda_in_half_precision(dtype: torch.dtype) -> None:
    x, queries = torch.randn(2, 9, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    y = torch.eye(3)[torch.arange(9) % 3]
    learner = qs.StreamingLDA(nn.Identity())
    state = None
    for rows in (slice(0, 4), slice(4, 9)):
        part = Examples(x[rows], y[rows].to(dtype), torch.ones(len(x[rows]), dtype=dtype))
        state = learner.adapt(part, state)
    assert state is not None
    logits = learner.predict(state, queries)
    assert logits.dtype == dtype
    right = reference_lda(x, y, queries, learner.shrinkage)
    right -= right.max(1, keepdims=True)
    measured = logits.double().numpy()
    measured -= measured.max(1, keepdims=True)
    np.testing.assert_allclose(measured, right, atol=0.02 * np.abs(right).max())
