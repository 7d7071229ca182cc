r"""A library of mappings: the states of past tasks are kept on disk, retrieved and combined.

A mapping is a learner's state of one task: the $\phi_i$ that `adapt` makes of its support set.
It has a file of its own, beside the task's embedding $e_i$, and is never changed, so nothing is
forgotten by construction. For a new support set with embedding $e$, the $k$ mappings with the
largest cosines $\hat e_i \cdot \hat e$ are retrieved (one product of a matrix and a vector),
and weighted by how well each fits the new examples:

$$a = \mathrm{softmax}_i(-L^s(\phi_i) / T), \qquad
  \phi = \sum_i a_i \phi_i \quad\text{or}\quad p(y \mid x) = \sum_i a_i \, p_i(y \mid x)$$

Adaptation starts from the mean state $\phi$, in which the initial parameters $\phi_0$ have a
share, as in `TaskMemory`; or the predictions are mixed.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from torch import Tensor

from quickstudy.core.task import Examples, Json, Task
from quickstudy.core.tree import leaves
from quickstudy.evaluation.protocol import default_metrics, evaluating
from quickstudy.execution.batching import over_tasks
from quickstudy.learner import Learner
from quickstudy.recall.retrieval import Embed, embedding_identity, mean_state
from quickstudy.recall.retriever import Retriever
from quickstudy.recall.store import LearnedMapping, MappingStore
from quickstudy.recall.task_memory import attention

TEMPERATURES = [10 ** (n / 2) for n in range(-6, 7)]  # in units of the criterion


class MappingLibrary:
    """The mappings in a folder, which is made when the first is added.

    A file is written as a whole or not at all: a process that is killed at any moment leaves
    every mapping that was added, and no half of one. Any number of processes may read a
    library, one at a time may add to it. A warning names each file that is damaged; all others
    stay usable.

    Args:
        learner: the base that all tasks share. Library and base belong together: states mean
            nothing to other parameters.
        embed: maps a support set to the embedding of its task, a vector (D,), by which tasks
            are compared. None: `task_embedding`.
        temperature: of the attention, in units of the criterion. None: the one that
            `fit_attention` found, otherwise 0.1.

    Attributes:
        damaged: for every file that cannot be read, the reason.

    Raises:
        CheckpointError: the mappings in the folder are of another base, or another embedding.

    Examples:
        >>> import quickstudy as qs, tempfile
        >>> from quickstudy.testing.learners import Blobs
        >>> batch = Blobs().sample(1, torch.Generator().manual_seed(0))
        >>> support = Examples(*(leaf[0] for leaf in batch.support))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     library = qs.MappingLibrary(folder, qs.MAML(qs.nets.MLP(8, 3)))
        ...     mapping = library.add("blobs", support, source="a doctest")
        ...     [(name, round(cosine, 3)) for name, cosine in library.resembling(support)]
        [('blobs', 1.0)]
    """

    def __init__(
        self,
        folder: str | Path,
        learner: Learner[Any],
        *,
        embed: Embed | None = None,
        temperature: float | None = None,
    ):
        self.folder, self.learner, self.embed = Path(folder), learner, embed
        self._store = MappingStore(self.folder, learner, embedding_identity(embed))
        self._retriever = Retriever(self._store, learner, embed)
        if temperature is None:
            temperature = self._store.temperature()
        if not temperature > 0:
            raise ValueError(f"temperature={temperature}: give a number above 0.")
        self.temperature = temperature

    def __len__(self) -> int:
        return len(self.names())

    def __contains__(self, name: object) -> bool:
        return name in self._store.entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __getitem__(self, name: str) -> LearnedMapping:
        return self.get(name)

    @property
    def damaged(self) -> dict[Path, str]:
        """For every file that cannot be read, the reason."""
        return {
            entry.path: entry.error
            for versions in self._store.entries.values()
            for entry in versions.values()
            if entry.error
        }

    def names(self) -> list[str]:
        """Return the names whose last version can be read, in alphabetical order."""
        return self._store.names()

    def versions(self, name: str) -> list[int]:
        """Return the versions of a mapping, the oldest first."""
        return self._store.versions(name)

    def get(self, name: str, version: int | None = None) -> LearnedMapping:
        """Return a mapping; its file is read and checked again.

        Args:
            version: None for the last.

        Raises:
            ValueError: there is no such mapping or version.
            CheckpointError: its file is damaged.
        """
        return self._store.load(name, version)

    def add(
        self, name: str, support: Examples, *, state: Any = None, **facts: Json
    ) -> LearnedMapping:
        """Adapt to a support set and keep the state. Older versions of the name stay.

        Args:
            state: a state that was adapted in another way, such as from `start`. None:
                `learner.adapt(support)`.
            facts: JSON about the task: `description="..."`, `classes=["cat", "dog"]`.

        Raises:
            ValueError: adaptation diverged, the embedding is of another length than those of
                the other mappings, or the name is empty or too long for a file.
            CheckpointError: a fact is no JSON, or the disk refuses; the library is unchanged.
        """
        if not 0 < len(quote(name, safe=" ")) <= 200:
            raise ValueError(
                f"{name!r} is no name for a mapping: give some text, of at most 200 letters "
                "(those that are not ASCII count more), and put the rest in `description`."
            )
        support = self._store.to_device(support)
        self._store.check_base()
        with evaluating(self.learner) as learner:
            state = learner.adapt(support) if state is None else state
            prediction = learner.predict(state, support.x)
            metrics = default_metrics(learner)
            fit = {key: metric(prediction, support).item() for key, metric in metrics.items()}
        if not all(leaf.isfinite().all() for leaf in leaves(state)):
            raise ValueError(
                f"The state of {name!r} is not finite: adaptation diverged. Scale the inputs "
                "as in meta-training, or lower the learner's inner learning rate."
            )
        examples = int((support.weight > 0).sum())
        embedding = self._retriever.embedding(support)
        self._retriever.forget()
        return self._store.add(name, state, embedding, examples=examples, fit=fit, facts=facts)

    def remove(self, name: str, version: int | None = None) -> None:
        """Delete a mapping from the disk.

        Args:
            version: None for all.

        Raises:
            ValueError: there is no such mapping or version.
            CheckpointError: the disk refuses.
        """
        versions = self.versions(name)
        if version is not None:
            self._store.require_version(name, version)
            versions = [version]
        self._retriever.forget()
        for number in versions:  # the last one last
            self._store.remove(name, number)

    def resembling(self, support: Examples, k: int = 5) -> list[tuple[str, float]]:
        """Return the past tasks most similar to a support set, the most similar first.

        Returns:
            Their names, and the cosines of the embeddings.
        """
        index = self._retriever.index()
        if not index.names:
            return []
        return index.nearest(self._retriever.direction(self._store.to_device(support)), k)

    def attention(
        self, support: Examples, k: int = 8, *, among: Iterable[str] | None = None
    ) -> list[tuple[str | None, float]]:
        """Return the shares of mappings in `start`, the largest first.

        Returns:
            Names and shares. The name None stands for the initial parameters, if the learner
            has any.
        """
        names, shares, _ = self._attend(self._store.to_device(support), k, among)
        return sorted(zip(names, shares.tolist(), strict=True), key=lambda part: -part[1])

    def start(
        self, support: Examples, k: int = 8, *, among: Iterable[str] | None = None
    ) -> Any:
        """Return a state to adapt from: `learner.adapt(support, library.start(support))`.

        It is the mean of the states of the `k` most similar past tasks, and of the initial
        parameters if the learner has any, weighted by how well each fits `support`.

        Args:
            among: names of the mappings that may be used. None: all whose states have the form
                of this task's.

        Raises:
            ValueError: there is no mapping that can be used, and no initial parameters; or
                states are not made of real numbers.
        """
        _, shares, states = self._attend(self._store.to_device(support), k, among)
        return mean_state(shares, states)

    def ensemble(
        self, support: Examples, x: Tensor, k: int = 8, *, among: Iterable[str] | None = None
    ) -> Tensor:
        """Predict inputs x (Q, *features) from `k` mappings, without adaptation.

        If the learner classifies, the logarithms of mean probabilities (Q, C) are returned,
        otherwise mean values; weights are those of `start`. Classes must mean the same in all
        mappings; otherwise choose mappings with `among`.

        Raises:
            ValueError: there is no mapping that can be used.
        """
        support, x = self._store.to_device((support, x))
        names, shares, states = self._attend(support, k, among, initial=False)
        with evaluating(self.learner) as learner:
            predict = over_tasks(lambda state: learner.predict(state, x), learner.execution)
            predictions = predict(states)  # (K, Q, C)
        if not isinstance(predictions, Tensor):
            raise ValueError(
                f"{type(learner).__name__} predicts a {type(predictions).__name__}, which "
                f"cannot be mixed: use each of {', '.join(map(str, names))} by itself."
            )
        if learner.classifies:
            log_shares = shares.log()[:, None, None]
            return (predictions.log_softmax(-1) + log_shares).logsumexp(0)
        return torch.tensordot(shares, predictions, 1)

    def fit_attention(self, tasks: Mapping[str, Task[Examples]], k: int = 8) -> float:
        """Choose the temperature with the lowest query loss, and keep it in the folder.

        Each task is adapted to from a `start` without the mapping of its own name, and the loss
        on its query set is measured. So a library can be fitted to its own tasks, each left
        out in turn.

        Args:
            tasks: by name.

        Returns:
            The temperature, now the library's own.

        Raises:
            ValueError: there are no tasks.
            CheckpointError: the disk refuses.
        """
        if not tasks:
            raise ValueError("There are no tasks to fit the attention on: give at least one.")
        total = torch.zeros(len(TEMPERATURES), dtype=torch.float64)
        for name, task in tasks.items():
            support, query = self._store.to_device(task)
            others = [other for other in self.names() if other != name]
            _, states, losses = self._retriever.candidates(support, k, others)
            shares = attention(losses, losses.new_tensor(TEMPERATURES)[:, None])  # (G, K)

            def query_loss(share: Tensor) -> Tensor:
                state = learner.adapt(support, mean_state(share, states))  # noqa: B023
                return learner.criterion(learner.predict(state, query.x), query)  # noqa: B023

            with evaluating(self.learner) as learner:
                total += over_tasks(query_loss, learner.execution)(shares).cpu().double()
        temperature = TEMPERATURES[int(total.nan_to_num(torch.inf).argmin())]
        self._store.save_temperature(temperature, len(tasks))
        self.temperature = temperature
        return temperature

    def _attend(
        self, support: Examples, k: int, among: Iterable[str] | None, *, initial: bool = True
    ) -> tuple[list[str | None], Tensor, Any]:
        """Return names, shares (K,) and stacked states."""
        names, states, losses = self._retriever.candidates(support, k, among, initial=initial)
        if not losses.isfinite().any():
            raise ValueError(
                "None of the mappings that this task resembles fits its support set (each has "
                "an infinite or undefined loss): name others `among` which to choose."
            )
        return names, attention(losses, self.temperature), states
