"""A classifier that learns for as long as it lives, in a budget of memory, and survives.

>>> from sklearn.datasets import load_digits
>>> X, y = load_digits(return_X_y=True)
>>> model = LifelongClassifier()
>>> for digit in range(10):  # one class after another
...     model = model.partial_fit(X[:1000][y[:1000] == digit], y[:1000][y[:1000] == digit])
>>> round(model.score(X[1000:], y[1000:]), 2)
0.89
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from sklearn.utils.multiclass import check_classification_targets, unique_labels
from sklearn.utils.validation import _num_samples
from torch import Tensor
from torch.nn import functional as F

from quickstudy.core.functional import leaves
from quickstudy.core.task import Json
from quickstudy.estimators.adapted_model import frozen
from quickstudy.estimators.few_shot import _Classifier
from quickstudy.learner import Learner
from quickstudy.learners.lifelong.streaming_lda import StreamingLDA
from quickstudy.learners.metric.prototypical import PrototypicalNetwork
from quickstudy.storage.checkpoints import _class

MEGABYTE = 1_000_000

# Learners whose states have a row for each class that only its own examples change: there the
# rows of the classes at hand are all that a call touches, however many others there are.
_ROWS: dict[type, tuple[str, ...]] = {
    PrototypicalNetwork: ("sums", "sizes"),
    StreamingLDA: ("means", "sizes"),
}


class LifelongClassifier(_Classifier):
    """Learns whatever comes, new classes at any time, and forgets no more than its learner.

    A class keeps its place for ever: `classes_` and the columns of `predict_proba` are in the
    order in which classes came (sorted, where they came in one call). A call of `partial_fit`
    that fails, for whatever reason, changes nothing.

    Args:
        learner: see `FewShotClassifier`. None: the nearest class mean. `StreamingLDA(embed)` is
            often better; learners with a memory and a net, such as `ExperienceReplay`, take as
            many classes as the net has outputs.
        path: a file where all that is known is kept after every call, as a whole or not at all;
            a model that is new goes on from what is in it. `fit` begins it anew.
        budget: the most that the state may take, in MB (1,000,000 bytes). A learner with
            `slots` gets as many of them as fit, at most its own number; classes that do not
            fit are refused. None: no limit.
        input_shape: as of `FewShotClassifier`.
        random_state: as of `FewShotClassifier`.

    Attributes:
        classes_: the labels, in the order of the columns.
        n_samples_seen_: rows of `X` so far: where a stream is to go on after a crash.
        state_: what was learned, a nest of tensors, with zeros for some classes to come.
        learner_: the learner in use.
    """

    def __init__(
        self,
        learner: Learner[Any] | None = None,
        *,
        path: str | Path | None = None,
        budget: float | None = None,
        input_shape: tuple[int, ...] | None = None,
        random_state: int | np.random.RandomState | None = None,
    ):
        super().__init__(learner, input_shape=input_shape, random_state=random_state)
        self.path, self.budget = path, budget

    n_samples_seen_: int
    _places: dict[Any, int]  # of the labels in `classes_`
    _undo: list[Callable[[], None]]  # while a call lasts: what to do if it fails

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Forgets everything, in the file too, and begins with these examples.

        Raises:
            ValueError: as `partial_fit`.
        """
        with self._all_or_nothing():
            self._begin()
            return self._more(X, y, None, sample_weight)

    def partial_fit(
        self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None
    ) -> Self:
        """Learns from more examples, of any classes.

        Args:
            classes: labels to give a place now, before there are examples. They are never
                needed.

        Raises:
            ValueError: the classes or the state do not fit the budget, or the learner's net; or
                adaptation diverged; or `X`, `y` or `sample_weight` is not as it should be.
            CheckpointError: the file is damaged, of another learner, or cannot be written.
        """
        with self._all_or_nothing():
            self._resume()
            if not hasattr(self, "state_"):
                self._begin()
            return self._more(X, y, classes, sample_weight)

    def predict(self, X: Any) -> np.ndarray:
        """The most probable label of each example (N,)."""
        best = self._logits(X).argmax(-1).numpy()
        return self.classes_[best]

    def _logits(self, X: Any) -> Tensor:
        self._resume()
        return super()._logits(X)

    def _resume(self) -> None:
        """Goes on from the file, if there is one and nothing is known yet."""
        if not hasattr(self, "state_") and self.path is not None and Path(self.path).exists():
            self._restore(self.path)

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        before, self._undo = dict(vars(self)), list[Callable[[], None]]()
        try:
            yield
            del self._undo
        except BaseException:
            for undo in self._undo:
                undo()
            vars(self).clear()
            vars(self).update(before)
            raise

    def _more(self, X: Any, y: Any, classes: Any, sample_weight: Any) -> Self:
        first = not hasattr(self, "state_")
        x, labels, weight = self._support(X, y, sample_weight, reset=first)
        check_classification_targets(labels)
        if first:
            self._places, self.n_samples_seen_ = {}, 0
        known = labels[:0] if first else self.classes_
        groups = [known[:1], labels, labels[:0] if classes is None else np.asarray(classes)]
        groups = [group for group in groups if len(group)]
        unique_labels(*groups)  # raises where text is mixed with numbers
        here = np.unique(np.concatenate(groups))
        new = here[[label not in self._places for label in here.tolist()]]
        if len(new):
            self.classes_ = np.concatenate([known, new]) if len(known) else new
            place = {label: len(known) + i for i, label in enumerate(new.tolist())}
            self._places = {**self._places, **place}
        index = np.array([self._places[label] for label in labels.tolist()])
        self.state_, self._width = self._learned(x, index, weight)
        self._check_size(self.state_)
        self._columns = np.arange(len(self.classes_))
        self.n_samples_seen_ += _num_samples(X)
        if self.path is not None:
            self.save(self.path)
        return self

    def _learned(self, x: Tensor, index: np.ndarray, weight: Tensor) -> tuple[Any, int]:
        """The state after examples, and its number of columns."""
        count = len(self.classes_)
        if not hasattr(self, "state_"):
            self._choose_slots(x[:1], index[:1], weight[:1], count)
            state, width = self._start(x, index, weight, count)
            self._check_finite(state)
            return state, width
        state, width = self.state_, self._width
        if count > width:
            state, width = self._with_room(x, state, width, count)
        if names := _ROWS.get(type(self.learner_)):
            rows, place = np.unique(index, return_inverse=True)
            at = torch.from_numpy(rows).to(x.device)
            some = state._replace(**{name: getattr(state, name)[at] for name in names})
            with frozen(self.learner_, self.seed_):
                examples = self._examples(x, place, weight, len(rows))
                new = self.learner_.adapt(examples, some)
            self._check_finite(new)
            # in place: a copy of all rows would cost more than learning, once they are many
            self._undo.append(partial(_put, state, names, at, some))
            _put(state, names, at, new)
            return new._replace(**{name: getattr(state, name) for name in names}), width
        state, _ = self._adapt(self._examples(x, index, weight, width), state)
        self._check_finite(state)
        return state, width

    def _with_room(self, x: Tensor, state: Any, width: int, count: int) -> tuple[Any, int]:
        """A state of `count` columns, and half as many again as there were where the budget
        lets it: so that what growing costs is little for each class."""
        wide = max(count, width + width // 2)
        grown = self._widened(x, state, width, wide)
        if self.budget is not None and _bytes(grown) > self.budget * MEGABYTE:
            each = (_bytes(grown) - _bytes(state)) / (wide - width)
            wide = width + int((self.budget * MEGABYTE - _bytes(state)) // each)
            if wide < count:
                raise ValueError(
                    f"There would be {count} classes of {each:,.0f} bytes, and the budget of "
                    f"{self.budget:g} MB has room for {wide}: raise `budget`, or give a "
                    "learner whose embedding is smaller. Nothing was changed."
                )
            grown = self._widened(x, state, width, wide)
        return grown, wide

    def _widened(self, x: Tensor, state: Any, width: int, count: int) -> Any:
        """`state`, of `width` columns, with `count`."""
        names = _ROWS.get(type(self.learner_))
        if names is None:
            return self._grow(x, state, width, count)

        def longer(leaf: Tensor) -> Tensor:
            return F.pad(leaf, [0, 0] * (leaf.ndim - 1) + [0, count - width])

        return state._replace(**{name: longer(getattr(state, name)) for name in names})

    def _choose_slots(self, x: Tensor, index: np.ndarray, weight: Tensor, count: int) -> None:
        """Gives a learner with a memory as many slots as the budget has room for."""
        own: Any = self.learner_
        if self.budget is None or not hasattr(own, "slots"):
            return
        sizes = list[int]()
        for slots in (1, 2):
            self.learner_ = _with_slots(own, slots)
            sizes.append(_bytes(self._start(x, index, weight, count)[0]))
        each = sizes[1] - sizes[0]
        room = int((self.budget * MEGABYTE - sizes[0]) // each) + 1 if each else own.slots
        if room < 1:
            raise ValueError(
                f"A state of {_class(own)} with a single slot takes "
                f"{sizes[0] / MEGABYTE:.3g} MB, and the budget is {self.budget:g} MB: raise "
                "`budget`, or give a smaller net."
            )
        self.learner_ = own if room >= own.slots else _with_slots(own, room)

    def _check_finite(self, state: Any) -> None:
        if not all(leaf.isfinite().all() for leaf in leaves(state)):
            raise ValueError(
                f"{_class(self.learner_)} has learned what is not finite: its adaptation "
                "diverged. Scale X, or lower the learning rate. Nothing was changed."
            )

    def _check_size(self, state: Any) -> None:
        if self.budget is not None and _bytes(state) > self.budget * MEGABYTE:
            raise ValueError(
                f"The state takes {_bytes(state) / MEGABYTE:.3g} MB, and the budget is "
                f"{self.budget:g} MB: raise `budget`, or give a learner whose net or embedding "
                "is smaller. Nothing was changed."
            )

    def _about(self) -> dict[str, Json]:
        return super()._about() | {"budget": self.budget, "seen": self.n_samples_seen_}

    def _recall(self, about: dict[str, Json]) -> None:
        super()._recall(about)
        self._places = {label: place for place, label in enumerate(self.classes_.tolist())}
        self.n_samples_seen_ = about["seen"]
        self.budget = about["budget"] if self.budget is None else self.budget


def _bytes(state: Any) -> int:
    return sum(leaf.nbytes for leaf in leaves(state))


def _put(state: Any, names: Iterable[str], at: Tensor, some: Any) -> None:
    """Writes the rows of `some` into those of `state`."""
    for name in names:
        getattr(state, name)[at] = getattr(some, name)


def _with_slots(learner: Learner[Any], slots: int) -> Learner[Any]:
    """The learner, its parameters included, with another number of slots."""
    other: Any = copy(learner)
    other.slots = slots
    return other
