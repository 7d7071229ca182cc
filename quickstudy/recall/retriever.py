"""Retrieval from a store of mappings: the past tasks nearest to a new one, with their fit."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from quickstudy.core.task import Examples
from quickstudy.core.tree import tree_map
from quickstudy.evaluation.protocol import evaluating
from quickstudy.learner import Learner
from quickstudy.recall.retrieval import (
    Embed,
    Index,
    build_index,
    initial_params,
    task_embedding,
)
from quickstudy.recall.store import LearnedMapping, MappingStore
from quickstudy.recall.task_memory import support_losses
from quickstudy.storage.files import CheckpointError


class Retriever:
    """The mappings of a store by the similarity of their tasks to a new one.

    Args:
        embed: maps a support set to the embedding of its task (D,). None: `task_embedding`.

    Examples:
        >>> import quickstudy as qs, tempfile
        >>> from pathlib import Path
        >>> learner = qs.MAML(qs.nets.MLP(4, 3))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = MappingStore(Path(folder), learner, "task_embedding")
        ...     Retriever(store, learner).index().names
        []
    """

    def __init__(self, store: MappingStore, learner: Learner[Any], embed: Embed | None = None):
        self.store, self.learner = store, learner
        self.embed = embed
        self._cached_index: Index | None = None

    def index(self) -> Index:
        """Return the index of the last versions, built again when `forget` was called."""
        index = self._cached_index  # once, as another thread may call `forget`
        if index is None:
            names = self.store.names()
            entries = [self.store.last(name) for name in names]
            index = self._cached_index = build_index(names, entries, self.store.device())
        return index

    def forget(self) -> None:
        """Build the index again when it is next needed: the store has changed."""
        self._cached_index = None

    def embedding(self, support: Examples) -> Tensor:
        """Return the embedding (D,) of a task.

        Raises:
            ValueError: it is not finite, or of another length than those of the others.
        """
        with evaluating(self.learner) as learner:
            embed = partial(task_embedding, learner) if self.embed is None else self.embed
            embedding = embed(support).flatten()
        size = self.store.embedding_size()
        if size not in (None, len(embedding)) or not embedding.isfinite().all():
            numbers = "finite numbers" if size is None else f"{size} finite numbers"
            raise ValueError(
                f"The embedding of this task has {len(embedding)} numbers, perhaps not all "
                f"finite: give an `embed` that makes {numbers} of every support set."
            )
        return embedding

    def direction(self, support: Examples) -> Tensor:
        """Return the embedding of a task, of length 1, on the learner's device."""
        return F.normalize(self.embedding(support).to(self.store.device()), dim=0)

    @torch.no_grad()
    def candidates(
        self, support: Examples, k: int, among: Iterable[str] | None, *, initial: bool = True
    ) -> tuple[list[str | None], Any, Tensor]:
        """Return names, stacked states and support losses (K,) of what can be combined.

        Args:
            among: names of the mappings that may be used; None: all.
            initial: count the learner's initial parameters, if any, under the name None.

        Raises:
            ValueError: nothing can be combined.
        """
        if k < 1:
            raise ValueError(f"k={k}: retrieve at least one mapping.")
        names, states = list[str | None](), list[Any]()
        with evaluating(self.learner) as learner:
            start = initial_params(learner)
            layout, index = self.store.layout(start), self.index()
            if layout not in index.layouts and index.names:  # a start unlike the states
                start, layout = None, self.store.layout(learner.adapt(support))
            if initial and start is not None:
                names.append(None)
                states.append(start)
            for name, mapping in self._retrieved(support, k, layout, among):
                names.append(name)
                states.append(mapping.state)
            if not names:
                raise ValueError(
                    f"None of the {len(self.store.names())} mappings in {self.store.folder} "
                    "can be combined for this task (states of other shapes, such as those of "
                    "another number of classes, cannot): add one of a task that is like it."
                )
            stacked = tree_map(lambda *leaf: torch.stack(leaf), *states)
            losses = support_losses(learner, stacked, support, learner.execution)
            return names, stacked, losses

    def _retrieved(
        self, support: Examples, k: int, layout: str, among: Iterable[str] | None
    ) -> list[tuple[str, LearnedMapping]]:
        """Return the nearest mappings of one layout, the nearest first."""
        among = None if among is None else list(among)
        for name in among or ():
            self.store.require(name)
        direction = self.direction(support) if self.index().names else None
        while direction is not None:  # once again for every file that turns out to be damaged
            index = self.index()
            mask = index.layout == index.layouts.get(layout, -1)  # (M,)
            if among is not None:
                allowed = torch.zeros_like(mask)
                allowed[[index.rows[name] for name in among if name in index.rows]] = True
                mask = mask & allowed
            near = [name for name, _ in index.nearest(direction, k, mask)]
            try:
                return [(name, self.store.load(name)) for name in near]
            except CheckpointError:
                for name in near:
                    self.store.reopen(name)
                self.forget()
        return []
