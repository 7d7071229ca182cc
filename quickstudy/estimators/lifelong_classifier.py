"""A classifier for streams without end: within a memory budget, and safe from crashes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from sklearn.utils.validation import _num_samples
from torch import Tensor

from quickstudy.capabilities import HasMemorySize
from quickstudy.core.task import Json
from quickstudy.core.tree import leaves
from quickstudy.estimators.adapted_model import computed
from quickstudy.estimators.classifier import ClassColumns
from quickstudy.estimators.labels import join_labels
from quickstudy.estimators.widths import (
    adapt_classes,
    columns_of,
    grow,
    one_hot_examples,
    write_columns,
)
from quickstudy.learner import Learner
from quickstudy.storage.files import class_name

MEGABYTE = 1_000_000


class LifelongClassifier(ClassColumns):
    """Learn a stream of examples, with new classes at any time.

    A class keeps its column: `classes_` and the columns of `predict_proba` are in the order in
    which classes came (sorted within one call). A call of `partial_fit` that fails, for
    whatever reason, changes nothing.

    Args:
        learner: see `FewShotClassifier`. None: the nearest class mean. `StreamingLDA(embed)` is
            often better; learners with a memory and a net, such as `ExperienceReplay`, take as
            many classes as the net has outputs.
        path: a file that keeps the whole state after every call. It is written as a whole or
            not at all, and a new estimator with this path continues from it. `fit` starts it
            afresh.
        budget: the largest size of the state, in MB (1,000,000 bytes). A learner with the
            capability `HasMemorySize` gets the largest memory that fits, at most its own.
            Classes that do not fit are refused. None: no limit.
        input_shape: as of `FewShotClassifier`.
        random_state: as of `FewShotClassifier`.

    Attributes:
        classes_: the labels, in the order of the columns.
        n_samples_seen_: rows of `X` so far: where a stream continues after a crash.
        state_: the adapted state, a nest of tensors, with zeros for some classes to come.
        learner_: the learner in use.

    Examples:
        >>> import quickstudy as qs
        >>> from sklearn.datasets import load_digits
        >>> X, y = load_digits(return_X_y=True)
        >>> model = qs.LifelongClassifier()
        >>> for digit in range(10):  # one class after another
        ...     rows = y[:1000] == digit
        ...     model = model.partial_fit(X[:1000][rows], y[:1000][rows])
        >>> round(model.score(X[1000:], y[1000:]), 2)
        0.89
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
    _column_of: dict[Any, int]  # of the labels in `classes_`
    _rollback: list[Callable[[], None]]  # during a call: what to do if it fails

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Forget everything, in the file too, and start with these examples.

        Raises:
            ValueError: as `partial_fit`.
        """
        with self._transaction():
            return self._learn(X, y, None, sample_weight, afresh=True)

    def partial_fit(
        self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None
    ) -> Self:
        """Learn from more examples, of any classes.

        Args:
            classes: labels to give a column now, before there are examples. They are never
                needed.

        Raises:
            ValueError: the classes or the state do not fit the budget, or the learner's net; or
                adaptation diverged; or `X`, `y` or `sample_weight` is malformed.
            CheckpointError: the file is damaged, of another learner, or cannot be written.
        """
        with self._transaction():
            self._resume()
            return self._learn(X, y, classes, sample_weight, afresh=False)

    def _logits(self, X: Any) -> Tensor:
        self._resume()
        return super()._logits(X)

    def _resume(self) -> None:
        """Restore the file's state, if there is one and this estimator has none."""
        if not hasattr(self, "state_") and self.path is not None and Path(self.path).exists():
            self._restore(self.path)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        before, self._rollback = dict(vars(self)), list[Callable[[], None]]()
        try:
            yield
            del self._rollback
        except BaseException:
            for undo in self._rollback:
                undo()
            vars(self).clear()
            vars(self).update(before)
            raise

    def _learn(self, X: Any, y: Any, classes: Any, sample_weight: Any, *, afresh: bool) -> Self:
        first = self._begin(afresh=afresh)
        x, labels, weight = self._validated_labels(X, y, sample_weight, reset=first)
        if first:
            self.classes_, self._column_of, self.n_samples_seen_ = labels[:0], {}, 0
        present = np.unique(join_labels(self.classes_[:1], labels, classes))
        if present.dtype != self.classes_.dtype:
            self.classes_ = join_labels(self.classes_, present)[: len(self.classes_)]
            self._column_of = _columns_of(self.classes_)
        new = present[[label not in self._column_of for label in present.tolist()]]
        if len(new):
            self._add_columns(new)
        index = np.array(
            [self._column_of[label] for label in labels.astype(present.dtype).tolist()]
        )
        self.state_, self._width = self._adapted(x, index, weight)
        if self.budget is not None and _bytes(self.state_) > self.budget * MEGABYTE:
            raise ValueError(
                f"The state takes {_bytes(self.state_) / MEGABYTE:.3g} MB, and the budget is "
                f"{self.budget:g} MB: raise `budget`, or give a learner whose net or embedding "
                "is smaller. Nothing was changed."
            )
        self._columns = np.arange(len(self.classes_))
        self.n_samples_seen_ += _num_samples(X)
        if self.path is not None:
            self.save(self.path)
        return self

    def _add_columns(self, new: np.ndarray) -> None:
        """Give labels the next columns. The table is written in place, as it may be long."""
        table, count = self._column_of, len(self.classes_)

        def forget() -> None:
            for label in new.tolist():
                table.pop(label, None)

        self._rollback.append(forget)
        table.update(zip(new.tolist(), range(count, count + len(new)), strict=True))
        self.classes_ = np.concatenate([self.classes_, new])

    def _adapted(self, x: Tensor, index: np.ndarray, weight: Tensor) -> tuple[Any, int]:
        """Return the state after examples, and its number of columns."""
        count = len(self.classes_)
        if not hasattr(self, "state_"):
            self._choose_memory_size(x[:1], index[:1], weight[:1], count)
            state, width = self._adapt_from_scratch(x, index, weight, count)
        else:
            state, width = self.state_, self._width
            if count > width:
                state, width = self._with_room(state, width, count)
            if self.learner_.independent_classes:
                return self._adapted_classes(state, x, index, weight), width
            state, _ = self._adapt(one_hot_examples(x, index, weight, width), state)
        self._check_finite(state)
        return state, width

    def _adapted_classes(self, state: Any, x: Tensor, index: np.ndarray, weight: Tensor) -> Any:
        """Adapt the part of `state` that belongs to the classes of these examples.

        It is written in place: a copy of all classes would cost more than learning, once they
        are many.
        """
        axes = self.learner_.class_axes
        assert axes is not None
        columns = torch.from_numpy(np.unique(index)).to(x.device)
        before = columns_of(state, columns, axes)
        self._rollback.append(partial(write_columns, state, columns, before, axes))
        with self._copy_of_learner() as learner:
            adapt = partial(adapt_classes, learner, x, index, weight, self._width, state)
            state = computed(learner, adapt, x)
        self._check_finite(columns_of(state, columns, axes))
        return state

    def _with_room(self, state: Any, width: int, count: int) -> tuple[Any, int]:
        """Grow a state to `count` columns, and to half as many again if the budget allows.

        So the cost of growing is small for each class.
        """
        wide = max(count, width + width // 2)
        grown = grow(self.learner_, state, width, wide)
        if self.budget is not None and _bytes(grown) > self.budget * MEGABYTE:
            each = (_bytes(grown) - _bytes(state)) / (wide - width)
            wide = width + int((self.budget * MEGABYTE - _bytes(state)) // each)
            if wide < count:
                raise ValueError(
                    f"There would be {count} classes of {each:,.0f} bytes, and the budget of "
                    f"{self.budget:g} MB has room for {wide}: raise `budget`, or give a "
                    "learner whose embedding is smaller. Nothing was changed."
                )
            grown = grow(self.learner_, state, width, wide)
        return grown, wide

    def _choose_memory_size(
        self, x: Tensor, index: np.ndarray, weight: Tensor, count: int
    ) -> None:
        """Give a learner with a memory the largest one that the budget has room for."""
        original = self.learner_
        if self.budget is None or not isinstance(original, HasMemorySize):
            return
        sizes = list[int]()
        for memory_size in (1, 2):
            self.learner_ = _with_memory_size(original, memory_size)
            sizes.append(_bytes(self._adapt_from_scratch(x, index, weight, count)[0]))
        each, room = sizes[1] - sizes[0], original.memory_size
        if each:
            room = int((self.budget * MEGABYTE - sizes[0]) // each) + 1
        if room < 1:
            raise ValueError(
                f"A state of {class_name(original)} with a memory of one example takes "
                f"{sizes[0] / MEGABYTE:.3g} MB, and the budget is {self.budget:g} MB: raise "
                "`budget`, or give a smaller net."
            )
        self.learner_ = (
            original if room >= original.memory_size else _with_memory_size(original, room)
        )

    def _check_finite(self, state: Any) -> None:
        if not all(leaf.isfinite().all() for leaf in leaves(state)):
            raise ValueError(
                f"The state of {class_name(self.learner_)} is not finite: its adaptation "
                "diverged. Scale X, or lower the learning rate. Nothing was changed."
            )

    def _metadata(self) -> dict[str, Json]:
        return super()._metadata() | {"budget": self.budget, "seen": self.n_samples_seen_}

    def _restore_metadata(self, metadata: dict[str, Json]) -> None:
        super()._restore_metadata(metadata)
        self._column_of = _columns_of(self.classes_)
        self.n_samples_seen_ = metadata["seen"]
        self.budget = metadata["budget"] if self.budget is None else self.budget


def _columns_of(classes: np.ndarray) -> dict[Any, int]:
    return {label: column for column, label in enumerate(classes.tolist())}


def _bytes(state: Any) -> int:
    return sum(leaf.nbytes for leaf in leaves(state))


def _with_memory_size(learner: Any, memory_size: int) -> Any:
    """Return the learner, with the same parameters and another memory size."""
    other = copy(learner)
    other.memory_size = memory_size
    return other
