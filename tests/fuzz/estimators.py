"""A zoo of arrays, labels and weights through every estimator.

python -m tests.fuzz.estimators --seed 0 --n 2000
"""

import copy
import pickle
import tempfile
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from sklearn.base import clone
from torch import nn

import quickstudy as qs
from quickstudy import Learner
from quickstudy.core.criteria import squared_error
from quickstudy.estimators.clustering import cluster
from quickstudy.learners.lifelong import ExperienceReplay, StreamingLDA
from quickstudy.learners.metric import MatchingNetwork, cosine_prototypical
from tests.fuzz.arrays import (
    BAD_INPUTS,
    BAD_LABELS,
    BAD_WEIGHTS,
    FLATTENED,
    ORDERED_LABELS,
    SAME_NUMBERS,
    clouds,
)
from tests.fuzz.trials import Trial, applies, is_refusal, main, must_refuse, require

Rng = np.random.Generator
Array = np.ndarray
SHAPES = (1,), (3,), (6,), (2, 3), (1, 4, 4), (1, 2, 2, 2)


SAME = object()  # the case's own data


class Facts(NamedTuple):
    """What a learner promises."""

    classes_alike: bool = True
    additive: bool = True
    scale_free: bool = False  # the scale of all weights does not matter
    order_free: bool = True


def _net(width: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(width, 8), nn.Tanh(), nn.Linear(8, outputs))


CLASSIFIERS: dict[str, tuple[Callable[[int], Learner[Any] | None], Facts]] = {
    "default": (lambda width: None, Facts(scale_free=True)),
    "prototypical": (
        lambda width: qs.PrototypicalNetwork(_net(width, 4)),
        Facts(scale_free=True),
    ),
    "cosine": (lambda width: cosine_prototypical(_net(width, 4)), Facts(scale_free=True)),
    "matching": (lambda width: MatchingNetwork(_net(width, 4)), Facts(scale_free=True)),
    "r2d2": (lambda width: qs.R2D2(_net(width, 4)), Facts()),
    "streaming_lda": (
        lambda width: StreamingLDA(_net(width, 4), shrinkage=0.1),
        Facts(scale_free=True),
    ),
    "maml": (
        lambda width: qs.MAML(_net(width, 4), lr=0.1, steps=2),
        Facts(classes_alike=False, additive=False, scale_free=True),
    ),
    "experience_replay": (
        lambda width: ExperienceReplay(_net(width, 4), batch_size=2, memory_size=4),
        Facts(classes_alike=False, additive=False, order_free=False),
    ),
}
REGRESSORS: dict[str, Callable[[int], Learner[Any] | None]] = {
    "default": lambda width: None,
    "maml": lambda width: qs.MAML(_net(width, 1), lr=0.01, steps=2, criterion=squared_error),
}


class Drawn(NamedTuple):
    """An estimator that is not fitted, its data, and what its learner promises."""

    make: Callable[[], Any]
    kind: str
    facts: Facts
    X: Array  # of whole numbers
    y: Array  # classes or values
    Q: Array
    answers: Array  # the classes or values of the queries

    def fitted(self, X: Any = SAME, y: Any = SAME, weight: Any = None) -> Any:
        """A new estimator, fitted."""
        X, y = self.X if X is SAME else X, self.y if y is SAME else y
        model = self.make()
        if self.kind == "verifier":
            return model.fit(X, y)
        return model.fit(X, y) if weight is None else model.fit(X, y, sample_weight=weight)

    def outputs(self, model: Any, Q: Any = None) -> Array:
        """The numbers of a fitted estimator for queries."""
        Q = self.Q if Q is None else Q
        match self.kind:
            case "regressor":
                return model.predict(Q)
            case "verifier":
                return model.decision_function(Q, Q[::-1])
            case _:
                return model.predict_proba(Q)


def draw(rng: Rng) -> Trial:
    """Draw a property, and an estimator and data to check it on."""
    name = str(rng.choice(list(PROPERTIES)))
    check, kinds = PROPERTIES[name]
    kind = str(rng.choice(kinds))
    classes = int(rng.integers(2, 4))
    shape = SHAPES[rng.integers(len(SHAPES))]
    X, y, Q, answers = clouds(rng, classes, shape)
    width = int(np.prod(shape))
    if kind == "regressor":
        learner_name = str(rng.choice(list(REGRESSORS)))
        make_learner, facts = (
            REGRESSORS[learner_name],
            Facts(additive=learner_name == "default"),
        )
        y, answers = (part.reshape(len(part), -1).sum(1) / 4 for part in (X, Q))
    elif kind == "verifier":
        learner_name = str(rng.choice(["default", "prototypical"]))
        make_learner, facts = CLASSIFIERS[learner_name]
    else:
        learner_name = str(rng.choice(list(CLASSIFIERS)))
        make_learner, facts = CLASSIFIERS[learner_name]
    torch.manual_seed(int(rng.integers(2**31)))
    learner = make_learner(width)
    learner = learner.double() if learner is not None and rng.random() < 0.7 else learner
    maker: dict[str, Callable[..., Any]] = {
        "classifier": qs.FewShotClassifier,
        "lifelong": qs.LifelongClassifier,
        "regressor": qs.FewShotRegressor,
        "verifier": qs.FewShotVerifier,
    }

    def make() -> Any:
        return maker[kind](learner, random_state=0)

    drawn = Drawn(make, kind, facts, X, y, Q, answers)
    about = f"{kind} of {learner_name}, {len(X)} examples of {shape}, {classes} classes"
    variant = int(rng.integers(2**31))
    chosen = _choice(name, variant)
    return Trial(
        name,
        f"{about}{': ' * bool(chosen)}{chosen}",
        lambda: check(drawn, np.random.default_rng(variant)),
    )


def _choice(name: str, variant: int) -> str:
    """The variant of the input that a property will choose, in words."""
    options = VARIANTS.get(name)
    return "" if options is None else str(np.random.default_rng(variant).choice(list(options)))


# Properties


def form_of_inputs_does_not_matter(case: Drawn, rng: Rng) -> None:
    name = str(rng.choice(list(SAME_NUMBERS)))
    form = SAME_NUMBERS[name]
    X, Q = case.X, case.Q
    applies(X.ndim == 2 or name not in FLATTENED)
    expected = case.outputs(case.fitted(X.astype(np.float64)), Q.astype(np.float64))
    model = case.fitted(form(X))
    close(
        case.outputs(model, form(Q) if case.kind != "verifier" else Q),
        expected,
        "other numbers",
    )


def bytes_are_scaled(case: Drawn, rng: Rng) -> None:
    model = case.fitted(case.X.astype(np.uint8))
    expected = case.outputs(case.fitted(case.X / 255), case.Q / 255)
    close(case.outputs(model, case.Q.astype(np.uint8)), expected, "bytes are not numbers / 255")


def bytes_and_numbers_are_not_mixed(case: Drawn, rng: Rng) -> None:
    first = str(rng.choice(["bytes first", "numbers first"]))
    to_bytes, to_ints = (lambda X, d=d: X.astype(d) for d in (np.uint8, np.int64))
    one, other = (to_bytes, to_ints) if first == "bytes first" else (to_ints, to_bytes)
    model = case.fitted(one(case.X))
    expected = case.outputs(model, one(case.Q))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = case.outputs(model, other(case.Q))
    if not caught:
        close(found, expected, "the same pixels in another dtype give other numbers")


def labels_are_kept(case: Drawn, rng: Rng) -> None:
    name = str(rng.choice(list(ORDERED_LABELS)))
    labels = ORDERED_LABELS[name]
    expected = case.fitted().predict_proba(case.Q)
    model = case.fitted(y=labels(case.y))
    close(model.predict_proba(case.Q), expected, "other probabilities")
    names = np.asarray(labels(np.unique(case.y))).reshape(-1)
    predicted = model.predict(case.Q)
    best = expected.argmax(1)
    require(
        predicted.tolist() == names[best].tolist(),
        f"predicted {predicted.tolist()}, not {names[best].tolist()}",
    )
    require(model.classes_.tolist() == names.tolist(), f"classes_ are {model.classes_}")
    if name not in ("dates", "objects of dates", "bytes"):
        _saved(case, model, np.array(names))


def _saved(case: Drawn, model: Any, names: Array) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model")
        model.save(path)
        loaded = type(model).load(path, case.make().learner)
    require(
        loaded.classes_.tolist() == names.tolist(), f"loaded classes_ are {loaded.classes_}"
    )
    close(loaded.predict_proba(case.Q), model.predict_proba(case.Q), "loaded, other numbers")


def labels_come_in_parts(case: Drawn, rng: Rng) -> None:
    """Two calls with labels of two dtypes: every class keeps its label, or a refusal."""
    names = [str(rng.choice(INTEGERS)) for _ in range(2)]
    base = [0, 2**53 - 2, 2**53 + 2, 2**63 - 10][rng.integers(4)]
    first, second = case.y == 0, case.y != 0
    model = case.make()
    parts = list[Any]()
    for part, name in zip((first, second), names, strict=True):
        exact = [int(label) + base for label in case.y[part]]
        converted = np.array(exact, dtype=np.int64 if base else int).astype(name)
        applies([int(label) for label in converted.tolist()] == exact)
        parts.extend(exact)
        model.partial_fit(case.X[part], converted)
    require(
        sorted(int(label) for label in model.classes_.tolist()) == sorted(set(parts)),
        f"labels {sorted(set(parts))} of {names} became {model.classes_.tolist()}",
    )


INTEGERS = ("int64", "uint64", "int32", "float64", "object")


def bad_labels_are_refused(case: Drawn, rng: Rng) -> None:
    name = str(rng.choice(list(BAD_LABELS)))
    model = case.fitted(y=BAD_LABELS[name](case.y))
    must_refuse(f"labels: {name}, as {getattr(model, 'classes_', 'values')}")


def bad_inputs_are_refused(case: Drawn, rng: Rng) -> None:
    name = str(rng.choice(list(BAD_INPUTS)))
    bad = BAD_INPUTS[name]
    when = str(rng.choice(["in fit", "in predict"]))
    if when == "in fit":
        case.fitted(bad(case.X))
        must_refuse(f"inputs: {name}, in fit")
    model = case.fitted()
    _unfit_is_refused(
        lambda: _predict_all(case, model, bad(case.Q)), f"inputs: {name}, in predict"
    )


def _predict_all(case: Drawn, model: Any, Q: Any) -> Any:
    return model.decision_function(Q, Q) if case.kind == "verifier" else model.predict(Q)


def _unfit_is_refused(call: Callable[[], Any], what: str) -> None:
    call()
    must_refuse(what)


def bad_weights_are_refused(case: Drawn, rng: Rng) -> None:
    name = str(rng.choice(list(BAD_WEIGHTS)))
    case.fitted(weight=BAD_WEIGHTS[name](len(case.X)))
    must_refuse(f"weights: {name}")


def weights_of_one_are_none(case: Drawn, rng: Rng) -> None:
    n = len(case.X)
    name = str(rng.choice(list(ONES)))
    model = case.fitted(weight=ONES[name](n))
    close(
        case.outputs(model),
        case.outputs(case.fitted()),
        f"weights of one ({name}) change numbers",
    )


ONES: dict[str, Callable[[int], Any]] = {
    "floats": np.ones,
    "integers": lambda n: np.ones(n, int),
    "booleans": lambda n: np.ones(n, bool),
    "float16": lambda n: np.ones(n, np.float16),
    "list": lambda n: [1] * n,
    "a number": lambda n: 1.0,
    "strided": lambda n: np.ones(2 * n)[::2],
    "tensor": torch.ones,
}


def weights_are_repetitions(case: Drawn, rng: Rng) -> None:
    applies(case.facts.order_free)
    times = rng.integers(1, 4, len(case.X))
    rows = np.repeat(np.arange(len(case.X)), times)
    repeated = case.fitted(case.X[rows], case.y[rows])
    weighted = case.fitted(weight=times.astype(float))
    close(case.outputs(weighted), case.outputs(repeated), "weights are no repetitions", 1e-4)


def weight_zero_is_left_out(case: Drawn, rng: Rng) -> None:
    keep = rng.random(len(case.X)) < 0.7
    for c in np.unique(case.y):
        keep[np.flatnonzero(case.y == c)[0]] = True
    model = case.fitted(weight=keep.astype(float))
    close(
        case.outputs(model),
        case.outputs(case.fitted(case.X[keep], case.y[keep])),
        "an example of weight 0 counts",
    )


def scale_of_weights_does_not_matter(case: Drawn, rng: Rng) -> None:
    applies(case.facts.scale_free)
    weight = rng.random(len(case.X)) + 0.1
    factor = 10.0 ** int(rng.integers(-30, 30))
    close(
        case.outputs(case.fitted(weight=weight * factor)),
        case.outputs(case.fitted(weight=weight)),
        f"weights of {factor:g} times the size give other numbers",
        1e-4,
    )


def order_does_not_matter(case: Drawn, rng: Rng) -> None:
    applies(case.facts.order_free)
    rows = rng.permutation(len(case.X))
    model = case.fitted(case.X[rows], case.y[rows])
    close(
        case.outputs(model), case.outputs(case.fitted()), "the order of examples matters", 1e-4
    )


def queries_are_apart(case: Drawn, rng: Rng) -> None:
    model = case.fitted()
    together = case.outputs(model)
    for i in range(len(case.Q)):
        alone = case.outputs(model, case.Q[i : i + 1])
        close(alone, together[i : i + 1], "a query alone gets other numbers", 1e-4)


def classes_are_only_names(case: Drawn, rng: Rng) -> None:
    applies(case.facts.classes_alike)
    names = rng.permutation(len(np.unique(case.y)))
    renamed = case.fitted(y=names[case.y]).predict_proba(case.Q)
    close(
        renamed[:, names], case.fitted().predict_proba(case.Q), "names of classes matter", 1e-4
    )


def parts_are_the_whole(case: Drawn, rng: Rng) -> None:
    applies(case.facts.additive)
    cut = int(rng.integers(1, len(case.X)))
    model = case.make()
    for part in (slice(cut), slice(cut, None)):
        model.partial_fit(case.X[part], case.y[part])
    expected = case.outputs(case.fitted())
    found = case.outputs(model)
    if case.kind == "lifelong":  # columns are in the order in which classes came
        found = found[:, np.argsort(model.classes_)]
    close(found, expected, "two parts are not the whole", 1e-4)


def files_and_copies_are_equal(case: Drawn, rng: Rng) -> None:
    model = case.fitted()
    expected = case.outputs(model)
    close(case.outputs(pickle.loads(pickle.dumps(model))), expected, "a pickle gives others")
    close(case.outputs(copy.deepcopy(model)), expected, "a copy gives other numbers")
    refitted: Any = clone(model)
    close(case.outputs(refitted.fit(case.X, case.y)), expected, "a clone gives other numbers")
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder, "model"))
        loaded = type(model).load(Path(folder, "model"), case.make().learner)
    close(case.outputs(loaded), expected, "the model in a file gives other numbers")


def nothing_is_changed(case: Drawn, rng: Rng) -> None:
    arrays = [case.X.astype(float), case.y.astype(float), case.Q.astype(float)]
    before = copy.deepcopy(arrays)
    model = case.fitted(arrays[0], arrays[1])
    case.outputs(model, arrays[2])
    for a, b in zip(arrays, before, strict=True):
        require(bool((a == b).all()), "the caller's array was changed")
    first = case.outputs(model, arrays[2])
    close(case.outputs(model, arrays[2]), first, "the same question has another answer")


def refusals_change_nothing(case: Drawn, rng: Rng) -> None:
    model = case.fitted()
    expected = case.outputs(model)
    kind = str(rng.choice(["inputs", "labels", "features", "classes"]))
    X, y = case.X, case.y
    match kind:
        case "inputs":
            X = BAD_INPUTS[str(rng.choice(["NaN", "text", "no rows", "infinity"]))](X)
        case "labels":
            y = BAD_LABELS[str(rng.choice(["fractions", "one too few", "None", "complex"]))](y)
        case "features":
            X = X.reshape(len(X), -1)
            X = np.concatenate([X, X[:, :1]], 1)
        case _:
            y = np.array(["text"] * len(y))
    try:
        model.partial_fit(X, y)
    except Exception as error:
        if not is_refusal(error):
            raise
    else:
        if case.kind == "regressor" and kind == "labels":
            return
        must_refuse(f"a second call with bad {kind}")
    close(case.outputs(model), expected, "a refused call changed the model")


def threads_predict_the_same(case: Drawn, rng: Rng) -> None:
    model = case.fitted()
    expected = case.outputs(model)
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(case.outputs, model) for _ in range(8)]
        for job in jobs:
            close(job.result(), expected, "a thread gets other numbers")


def scale_of_inputs_is_right_or_refused(case: Drawn, rng: Rng) -> None:
    """Numbers are finite at any scale of the inputs, or it is refused or warned of."""
    factor = 10.0 ** int(rng.integers(-300, 300))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = case.fitted(case.X * factor)
        outputs = case.outputs(model, case.Q * factor)
    require(bool(np.isfinite(outputs).all()) or bool(caught), f"not finite at {factor:g}")
    if case.kind in ("classifier", "lifelong"):
        require(bool(np.allclose(outputs.sum(1), 1)), f"probabilities at {factor:g} are no 1")


def default_is_the_nearest_mean(case: Drawn, rng: Rng) -> None:
    """The default classifier, at any distance from the origin and any scale."""
    make = qs.FewShotClassifier if case.kind == "classifier" else qs.LifelongClassifier
    far, factor = 10.0 ** int(rng.integers(0, 9)), 10.0 ** int(rng.integers(-60, 60))
    X, Q = (case.X + far) * factor, (case.Q + far) * factor
    flat, queries = (np.asarray(part).reshape(len(part), -1) for part in (case.X, case.Q))
    means = np.stack([flat[case.y == c].mean(0) for c in np.unique(case.y)])
    distance = ((queries[:, None] - means) ** 2).sum(-1)
    clear = np.diff(np.sort(distance, 1)[:, :2])[:, 0] > 0.5
    found = make().fit(X, case.y).predict(Q)
    require(
        bool((found == distance.argmin(1))[clear].all()),
        f"at {far:g} from the origin and a scale of {factor:g}: not the nearest mean",
    )


def default_is_ridge_regression(case: Drawn, rng: Rng) -> None:
    """The default regressor, at any distance from the origin."""
    far = 10.0 ** int(rng.integers(0, 9))
    X, Q = (part.reshape(len(part), -1).astype(float) for part in (case.X, case.Q))
    weight = rng.random(len(X)) + 0.1
    model = qs.FewShotRegressor().fit(X + far, case.y, sample_weight=weight)
    mean, mean_y = np.average(X, 0, weights=weight), np.average(case.y, weights=weight)
    weighted = (X - mean).T * weight
    W = np.linalg.solve(
        weighted @ (X - mean) + np.eye(X.shape[1]), weighted @ (case.y - mean_y)
    )
    close(
        model.predict(Q + far),
        (Q - mean) @ W + mean_y,
        f"at {far:g} from the origin: no ridge regression",
        1e-4,
    )


def same_class_is_symmetric(case: Drawn, rng: Rng) -> None:
    model = case.fitted()
    a, b = case.Q, case.Q[rng.permutation(len(case.Q))]
    close(
        model.decision_function(a, b),
        model.decision_function(b, a),
        "pairs have an order",
        1e-4,
    )
    require(bool(model.predict(a, a).all()), "an example is not of its own class")
    for rate in (model.false_accept_rate_, model.false_reject_rate_, model.equal_error_rate_):
        require(0 <= rate <= 1, f"a rate of {rate}")


def clusters_have_no_order(case: Drawn, rng: Rng) -> None:
    learner = qs.PrototypicalNetwork(nn.Flatten())
    number = int(rng.integers(1, len(case.X) + 3))
    rows = rng.permutation(len(case.X))
    X = case.X + 0.01 * rng.random(case.X.shape)  # no ties
    found = cluster(learner, X, number)
    again = cluster(learner, X[rows], number)
    require(number <= len(X), f"{number} clusters of {len(X)} examples")
    require(len(np.unique(found)) == number, f"{len(np.unique(found))} clusters, not {number}")
    pairs = (found[:, None] == found)[np.ix_(rows, rows)]
    require(bool((pairs == (again[:, None] == again)).all()), "the order of rows matters")
    name = str(rng.choice(list(SAME_NUMBERS)))
    if not (name in FLATTENED and X.ndim > 2):
        expected = cluster(learner, case.X.astype(np.float64), 2)
        in_form = cluster(learner, SAME_NUMBERS[name](case.X), 2)
        require(bool((in_form == expected).all()), f"other clusters of {name}")


def columns_keep_their_names(case: Drawn, rng: Rng) -> None:
    """A data frame whose columns are in another order, or named otherwise, is refused."""
    names = [f"feature {i}" for i in range(case.X[0].size)]
    X, Q = (
        pd.DataFrame(part.reshape(len(part), -1), columns=names) for part in (case.X, case.Q)
    )
    applies(case.X.ndim == 2 and len(names) > 1)
    model = case.fitted(X)
    expected = case.outputs(case.fitted())
    if case.kind != "verifier":
        close(case.outputs(model, Q), expected, "a data frame gives other numbers")
    other = Q[names[::-1]] if rng.random() < 0.5 else Q.rename(columns={names[0]: "another"})
    _predict_all(case, model, other)
    must_refuse("columns of other names")


def few_examples_are_enough_or_refused(case: Drawn, rng: Rng) -> None:
    """One example of each class, one class, equal examples, one row at a time."""
    name = str(rng.choice(["one of each", "one class", "all equal", "row by row"]))
    rows = np.array([np.flatnonzero(case.y == c)[0] for c in np.unique(case.y)])
    match name:
        case "one of each":
            outputs = case.outputs(case.fitted(case.X[rows], case.y[rows]))
        case "one class":
            same_class = case.y == 0
            model = case.fitted(case.X[same_class], case.y[same_class])
            if case.kind == "classifier":
                must_refuse("one class")
            outputs = case.outputs(model)
        case "all equal":
            outputs = case.outputs(case.fitted(np.ones_like(case.X), case.y))
        case _:
            model = case.make()
            for i in range(len(case.X)):
                model.partial_fit(case.X[i : i + 1], case.y[i : i + 1])
            outputs = case.outputs(model)
    require(bool(np.isfinite(outputs).all()), f"{name}: numbers are not finite")
    require(bool(np.allclose(outputs.sum(1), 1)), f"{name}: probabilities do not add up")


CLASSIFY, FIT = ["classifier", "lifelong"], ["classifier", "lifelong", "regressor"]
ALL = [*FIT, "verifier"]
PROPERTIES: dict[str, tuple[Callable[[Drawn, Rng], None], list[str]]] = {
    "form of inputs": (form_of_inputs_does_not_matter, ALL),
    "bytes": (bytes_are_scaled, ALL),
    "bytes, then numbers": (bytes_and_numbers_are_not_mixed, ALL),
    "labels": (labels_are_kept, CLASSIFY),
    "labels in parts": (labels_come_in_parts, CLASSIFY),
    "bad labels": (bad_labels_are_refused, CLASSIFY),
    "bad inputs": (bad_inputs_are_refused, ALL),
    "bad weights": (bad_weights_are_refused, FIT),
    "weights of one": (weights_of_one_are_none, FIT),
    "weights are repetitions": (weights_are_repetitions, FIT),
    "weight zero": (weight_zero_is_left_out, FIT),
    "scale of weights": (scale_of_weights_does_not_matter, CLASSIFY),
    "order": (order_does_not_matter, FIT),
    "a query alone is the query among others": (queries_are_apart, FIT),
    "names of classes": (classes_are_only_names, ["classifier"]),
    "parts are the whole": (parts_are_the_whole, FIT),
    "files and copies": (files_and_copies_are_equal, ALL),
    "nothing is changed": (nothing_is_changed, ALL),
    "refusals change nothing": (refusals_change_nothing, FIT),
    "names of columns": (columns_keep_their_names, ALL),
    "few examples": (few_examples_are_enough_or_refused, CLASSIFY),
    "threads": (threads_predict_the_same, ALL),
    "scale of inputs": (scale_of_inputs_is_right_or_refused, ALL),
    "nearest mean": (default_is_the_nearest_mean, CLASSIFY),
    "ridge regression": (default_is_ridge_regression, ["regressor"]),
    "pairs": (same_class_is_symmetric, ["verifier"]),
    "clusters": (clusters_have_no_order, ["classifier"]),
}
VARIANTS: dict[str, Any] = {  # what a property chooses first
    "form of inputs": SAME_NUMBERS,
    "labels": ORDERED_LABELS,
    "bad labels": BAD_LABELS,
    "bad inputs": BAD_INPUTS,
    "bad weights": BAD_WEIGHTS,
    "weights of one": ONES,
}


def close(found: Any, expected: Any, sentence: str, tolerance: float = 1e-5) -> None:
    """Require equal numbers."""
    found, expected = np.asarray(found), np.asarray(expected)
    require(found.shape == expected.shape, f"{sentence}: {found.shape}, not {expected.shape}")
    if not np.allclose(found, expected, rtol=tolerance, atol=tolerance):
        require(False, f"{sentence}, by up to {np.abs(found - expected).max():.2g}")


if __name__ == "__main__":
    main("estimators", draw)
