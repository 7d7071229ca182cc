r"""A library of mappings: what was learned of each task is kept on disk, found again, combined.

A mapping is what a learner knows of one task: the state $\phi_i$ that `adapt` makes of its
support set. It lies in a file of its own, beside the task's embedding $e_i$, and is never
changed: nothing is forgotten by construction. Of a new support set with embedding $e$, the $k$
mappings with the largest cosines $\hat e_i \cdot \hat e$ are retrieved (one product of a matrix
of all of them and a vector), and weighed by how well each fits the new examples:

$$a = \mathrm{softmax}_i(-L^s(\phi_i) / T), \qquad
  \phi = \sum_i a_i \phi_i \quad\text{or}\quad p(y \mid x) = \sum_i a_i \, p_i(y \mid x)$$

Adaptation starts from the mean state $\phi$, in which the learned start $\phi_0$ has its share,
as in `TaskMemory`; or the predictions are mixed.
"""

import difflib
import json
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quickstudy.core.functional import cross_entropy, leaves, tree_map
from quickstudy.core.task import Examples, Json, Task
from quickstudy.evaluation import pairwise
from quickstudy.evaluation.protocol import default_metrics, evaluating
from quickstudy.execution.batching import over_tasks
from quickstudy.learner import Learner
from quickstudy.recall.task_memory import attention, flat, misfits
from quickstudy.storage import renamed
from quickstudy.storage.files import CheckpointError, replace_file, to_json, write_error
from quickstudy.storage.state_file import (
    learner_id,
    learner_ids,
    read,
    state_types,
    tensors_sha256,
    write,
)
from quickstudy.storage.tree_json import pack_state, tensor_kind, unpack_state

Embed = Callable[[Examples], Tensor]

_KEY = "quickstudy.mapping"  # of our entry in the metadata of a safetensors file
_FILE = re.compile(r"(?P<name>.+)@(?P<version>[1-9]\d*)\.safetensors")
_ATTENTION = "attention.json"
_TEMPERATURE = 0.1
_TEMPERATURES = [10 ** (n / 2) for n in range(-6, 7)]  # in units of the criterion
_AGAIN = "Copy it again from where it came from, or remove the mapping and add it anew."


@dataclass(frozen=True)
class LearnedMapping:
    """What was learned of one task."""

    name: str
    version: int  # from 1; a name that is added again gets the next
    state: Any  # of the learner
    embedding: Tensor  # (D,)  of the task
    fit: Mapping[str, float]  # the learner's metrics on the mapping's own support set
    facts: Mapping[str, Json]  # given to `add`: a description, class names, ...
    examples: int  # of the support set
    date: str
    sha256: str  # of the tensors
    path: Path


class _Entry(NamedTuple):
    path: Path
    layout: str = ""  # how the state is nested, with all shapes
    embedding: Tensor | None = None  # (D,)
    trouble: str = ""  # why it cannot be used


class _Index(NamedTuple):
    names: list[str]
    rows: dict[str, int]  # where each name is
    directions: Tensor  # (M, D)  of the tasks' embeddings
    layouts: dict[str, int]
    layout: Tensor  # (M,)


class MappingLibrary:
    """The mappings in a folder, which is made when the first is added.

    A file is written whole or not at all: a process that is killed at any moment leaves every
    mapping that was added, and no half of one. Any number of processes may read a library, one
    at a time may add to it. A warning tells of a file that is damaged; the others are as useful
    as they were.

    Args:
        learner: the base that all tasks share. Library and base belong together: states mean
            nothing to other parameters.
        embed: makes of a support set the embedding of its task, a vector (D,), by which tasks
            are compared. None: `task_embedding`.
        temperature: of the attention, in units of the criterion. None: that which
            `fit_attention` found, otherwise 0.1.

    Attributes:
        damaged: for every file that cannot be read, why.

    Raises:
        CheckpointError: the mappings in the folder are of another base, or another embedding.
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
        self._types = state_types(learner)
        self._bases, self._embedding = learner_ids(learner), _embedding_identity(embed)
        self._entries: dict[str, dict[int, _Entry]] = {}
        self._known: _Index | None = None
        for path in sorted(self.folder.glob("*.safetensors")):
            found = _FILE.fullmatch(path.name)
            if found:
                versions = self._entries.setdefault(unquote(found["name"]), {})
                versions[int(found["version"])] = self._open(path)
        if temperature is None:
            temperature = self._kept_temperature()
        if not temperature > 0:
            raise ValueError(f"temperature={temperature}: give a number above 0.")
        self.temperature = temperature

    def __len__(self) -> int:
        return len(self.names())

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __getitem__(self, name: str) -> LearnedMapping:
        return self.get(name)

    @property
    def damaged(self) -> dict[Path, str]:
        """For every file that cannot be read, why."""
        every = (entry for versions in self._entries.values() for entry in versions.values())
        return {entry.path: entry.trouble for entry in every if entry.trouble}

    def names(self) -> list[str]:
        """Of all mappings whose last version can be read, in alphabetical order."""
        return sorted(name for name in self._entries if not self._last(name).trouble)

    def versions(self, name: str) -> list[int]:
        """Of one mapping, the oldest first."""
        self._require(name)
        return sorted(self._entries[name])

    def get(self, name: str, version: int | None = None) -> LearnedMapping:
        """A mapping, its file read and checked anew.

        Args:
            version: None for the last.

        Raises:
            ValueError: there is no such mapping or version.
            CheckpointError: its file is damaged.
        """
        known = self.versions(name)
        version = known[-1] if version is None else version
        if version not in known:
            raise ValueError(
                f"{name!r} has no version {version}: ask for one of "
                f"{', '.join(map(str, known))}."
            )
        return self._mapping(path := self._entries[name][version].path, *_read(path))

    def add(
        self, name: str, support: Examples, *, state: Any = None, **facts: Json
    ) -> LearnedMapping:
        """Keeps what the learner makes of a support set. What was kept before stays as it is:
        a name that is taken gets a new version.

        Args:
            state: what is to be kept, where it was adapted in another way than from the learned
                start, such as from `start`. None: `learner.adapt(support)`.
            facts: whatever is worth knowing of the task, as JSON: `description="..."`,
                `classes=["cat", "dog"]`.

        Raises:
            ValueError: adaptation diverged, the embedding is of another length than those of
                the other mappings, or the name is empty or too long for a file.
            CheckpointError: a fact is no JSON, or the disk refuses; the library is as it was.
        """
        if not 0 < len(quote(name, safe=" ")) <= 200:
            raise ValueError(
                f"{name!r} is no name for a mapping: give some text, of at most 200 letters "
                "(those that are not ASCII count more), and tell the rest in `description`."
            )
        support = self._here(support)
        if learner_id(self.learner) != self._bases[0]:
            raise CheckpointError(
                "The learner's parameters have changed since this library was opened, so that "
                "the mappings in it mean nothing to it: load the parameters as they were, or "
                "begin a library in another folder."
            )
        with evaluating(self.learner):
            state = self.learner.adapt(support) if state is None else state
            said = self.learner.predict(state, support.x)
            metrics = default_metrics(self.learner)
            fit = {label: metric(said, support).item() for label, metric in metrics.items()}
        if not all(leaf.isfinite().all() for leaf in leaves(state)):
            raise ValueError(
                f"What was learned of {name!r} is not finite: adaptation diverged. Scale the "
                "inputs as in meta-training, or lower the learner's inner learning rate."
            )
        tensors = {"embedding": self._embed(support).cpu()}
        about: dict[str, Json] = {
            "name": name,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "learner": self._bases[0],
            "embedding": self._embedding,
            "state": pack_state(state, "state", tensors, self._types),
            "examples": int((support.weight > 0).sum()),
            "fit": fit,
            "facts": {key: to_json(key, value) for key, value in facts.items()},
        }
        version = max(self._entries.get(name, {}), default=0) + 1
        while (path := self.folder / _name(name, version)).exists():
            version += 1  # of another process, or on a disk to which "A" and "a" are the same
        self._sweep()
        about = write(path, _KEY, {**about, "version": version}, tensors)
        entry = _Entry(path, self._layout(state), tensors["embedding"])
        self._entries.setdefault(name, {})[version] = entry
        self._known = None
        return self._mapping(path, about, tensors)

    def remove(self, name: str, version: int | None = None) -> None:
        """Deletes a mapping from the disk.

        Args:
            version: None for all.

        Raises:
            ValueError: there is no such mapping or version.
            CheckpointError: the disk refuses.
        """
        known = self.versions(name)
        if version is not None and version not in known:
            raise ValueError(
                f"{name!r} has no version {version}: remove one of "
                f"{', '.join(map(str, known))}."
            )
        for number in known if version is None else [version]:  # the last one last
            path = self._entries[name][number].path
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise CheckpointError(
                    f"Cannot delete {path} ({error.strerror}): make its folder writable."
                ) from error
            self._known = None
            del self._entries[name][number]
        if not self._entries[name]:
            del self._entries[name]

    def resembling(self, support: Examples, k: int = 5) -> list[tuple[str, float]]:
        """The past tasks that a support set is most like, the most similar first: their names,
        and the cosines of the embeddings."""
        index = self._index()
        if not index.names:
            return []
        cosines = index.directions @ self._direction(self._here(support))
        best, places = cosines.topk(min(k, len(cosines)))
        found = zip(places.tolist(), best.clamp(-1, 1).tolist(), strict=True)
        return [(index.names[place], cosine) for place, cosine in found]

    def attention(
        self, support: Examples, k: int = 8, *, among: Iterable[str] | None = None
    ) -> list[tuple[str | None, float]]:
        """What has which share of `start`: names, the largest share first. None is the learned
        start, of learners that have one."""
        names, shares, _ = self._attend(self._here(support), k, among)
        parts = zip(names, shares.tolist(), strict=True)
        return sorted(parts, key=lambda part: part[1], reverse=True)

    def start(
        self, support: Examples, k: int = 8, *, among: Iterable[str] | None = None
    ) -> Any:
        """What is known of a task before it is learned: the mean of the states of the `k` past
        tasks that it resembles most, weighed by how well each fits; and of the learned start,
        where the learner has one. To be given to `adapt(support, state)`.

        Args:
            among: names of the mappings that may be used; None: all whose states have the form
                of this task's.

        Raises:
            ValueError: there is no mapping that can be used, and no learned start; or states
                are not made of real numbers.
        """
        _, shares, states = self._attend(self._here(support), k, among)
        return _mean(shares, states)

    def ensemble(
        self, support: Examples, x: Tensor, k: int = 8, *, among: Iterable[str] | None = None
    ) -> Tensor:
        """What the `k` mappings that fit a support set say of inputs x (Q, *features), without
        adaptation: their predictions (Q, C), weighed as in `start`.

        Of a learner that minimises the cross-entropy, probabilities are mixed, and their
        logarithms returned; otherwise the mean of the values. Class names mean the same in all
        mappings, or else name those `among` which they do.

        Raises:
            ValueError: there is no mapping that can be used.
        """
        names, shares, states = self._attend(self._here(support), k, among, learned=False)
        x = x.to(self._device())
        with evaluating(self.learner):
            said = over_tasks(
                lambda state: self.learner.predict(state, x), self.learner.execution
            )(states)  # (K, Q, C)
        if not isinstance(said, Tensor):
            raise ValueError(
                f"{type(self.learner).__name__} predicts a {type(said).__name__}, which cannot "
                f"be mixed: ask each of {', '.join(map(str, names))} by itself."
            )
        if self.learner.criterion is cross_entropy:
            return (said.log_softmax(-1) + shares.log()[:, None, None]).logsumexp(0)
        return torch.tensordot(shares, said, 1)

    def fit_attention(self, tasks: Mapping[str, Task[Examples]], k: int = 8) -> float:
        """Finds the temperature with which tasks are learned best, and keeps it in the folder.

        Every task is learned from its support set, from a `start` in which the mapping of the
        same name, if there is one, has no part, and judged on its query set. So a library
        learns from its own tasks, each left out in turn.

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
        learner, total = self.learner, torch.zeros(len(_TEMPERATURES), dtype=torch.float64)
        for name, task in tasks.items():
            support, query = self._here(task.support), self._here(task.query)
            rest = [other for other in self.names() if other != name]
            _, states, found = self._candidates(support, k, rest)
            shares = attention(found, found.new_tensor(_TEMPERATURES)[:, None])  # (G, K)

            def judged(share: Tensor) -> Tensor:
                state = learner.adapt(support, _mean(share, states))  # noqa: B023
                return learner.criterion(learner.predict(state, query.x), query)  # noqa: B023

            with evaluating(learner):
                total += over_tasks(judged, learner.execution)(shares).cpu().double()
        best = int(total.nan_to_num(torch.inf).argmin())
        text = json.dumps({"temperature": _TEMPERATURES[best], "tasks": len(tasks)})
        try:
            replace_file(self.folder / _ATTENTION, f"{text}\n".encode())
        except OSError as error:
            otherwise = "free some space, or make the folder writable"
            raise write_error(self.folder / _ATTENTION, error, otherwise) from error
        self.temperature = _TEMPERATURES[best]
        return self.temperature

    def _attend(
        self, support: Examples, k: int, among: Iterable[str] | None, *, learned: bool = True
    ) -> tuple[list[str | None], Tensor, Any]:
        """Names, shares (K,) and states, stacked."""
        names, states, found = self._candidates(support, k, among, learned=learned)
        if not found.isfinite().any():
            raise ValueError(
                "None of the mappings that this task resembles fits its support set (each has "
                "an infinite or undefined loss): name others `among` which to choose."
            )
        return names, attention(found, self.temperature), states

    @torch.no_grad()
    def _candidates(
        self, support: Examples, k: int, among: Iterable[str] | None, *, learned: bool = True
    ) -> tuple[list[str | None], Any, Tensor]:
        """What may be combined: names, states, stacked, and their misfits (K,)."""
        if k < 1:
            raise ValueError(f"k={k}: retrieve at least one mapping.")
        names, states = list[str | None](), list[Any]()
        with evaluating(self.learner):
            start = _learned_start(self.learner)
            layout, index = self._layout(start), self._index()
            if layout not in index.layouts and index.names:  # a start unlike the states
                start, layout = None, self._layout(self.learner.adapt(support))
            if learned and start is not None:
                names.append(None)
                states.append(start)
            for name, mapping in self._retrieved(support, k, layout, among):
                names.append(name)
                states.append(mapping.state)
            if not names:
                raise ValueError(
                    f"None of the {len(self)} mappings in {self.folder} can be combined for "
                    "this task (states of other shapes, such as those of another number of "
                    "classes, cannot): add one of a task that is like it."
                )
            stacked = tree_map(lambda *leaf: torch.stack(leaf), *states)
            return (
                names,
                stacked,
                misfits(self.learner, stacked, support, self.learner.execution),
            )

    def _retrieved(
        self, support: Examples, k: int, layout: str, among: Iterable[str] | None
    ) -> list[tuple[str, LearnedMapping]]:
        """The nearest mappings of one layout, the nearest first."""
        among = None if among is None else list(among)
        for name in among or ():
            self._require(name)
        direction = self._direction(support) if self._index().names else None
        while direction is not None:  # once again for every file that turns out to be damaged
            index = self._index()
            fits = index.layout == index.layouts.get(layout, -1)  # (M,)
            if among is not None:
                chosen = torch.zeros_like(fits)
                chosen[[index.rows[name] for name in among if name in index.rows]] = True
                fits = fits & chosen
            cosines = (index.directions @ direction).masked_fill(~fits, -torch.inf)
            places = cosines.topk(min(k, int(fits.sum()))).indices.tolist()
            near = [index.names[place] for place in places]
            try:
                return [(name, self.get(name)) for name in near]
            except CheckpointError:
                for name in near:
                    version = max(self._entries[name])
                    path = self._entries[name][version].path
                    self._entries[name][version] = self._open(path)
                self._known = None
        return []

    def _index(self) -> _Index:
        """The embeddings of the last versions as one matrix, made anew when they change."""
        if self._known is None:
            names = self.names()
            entries = [self._last(name) for name in names]
            layouts = {entry.layout: -1 for entry in entries}
            layouts = {layout: number for number, layout in enumerate(layouts)}
            rows = [entry.embedding for entry in entries if entry.embedding is not None]
            where = self._device()
            directions = torch.stack(rows) if rows else torch.zeros(0, 0)
            self._known = _Index(
                names,
                {name: row for row, name in enumerate(names)},
                F.normalize(directions, dim=-1).to(where),
                layouts,
                torch.tensor([layouts[entry.layout] for entry in entries], device=where),
            )
        return self._known

    def _embed(self, support: Examples) -> Tensor:
        """The embedding (D,) of a task, checked."""
        with evaluating(self.learner):
            if self.embed is None:
                found = task_embedding(self.learner, support)
            else:
                found = self.embed(support).flatten()
        known = self._index().directions
        if not found.isfinite().all() or (len(known) and known.shape[1] != len(found)):
            wanted = f"{known.shape[1]} finite numbers" if len(known) else "finite numbers"
            raise ValueError(
                f"The embedding of this task has {len(found)} numbers, perhaps not all finite: "
                f"give an `embed` that makes {wanted} of every support set."
            )
        return found

    def _direction(self, support: Examples) -> Tensor:
        return F.normalize(self._embed(support).to(self._device()), dim=0)

    def _layout(self, state: Any) -> str:
        tensors: dict[str, Tensor] = {}
        nest = pack_state(state, "state", tensors, self._types) if state is not None else None
        return _layout(nest, tensors)

    def _open(self, path: Path) -> _Entry:
        """What a file holds, or why it cannot be used.

        Raises:
            CheckpointError: it is of another base or embedding.
        """
        try:
            about, tensors = _read(path)
            state = unpack_state(about["state"], tensors, self._types)
        except CheckpointError as error:
            warnings.warn(f"Left out: {error}", stacklevel=3)
            return _Entry(path, trouble=str(error))
        was, given = about["learner"], self._bases[0]
        if was not in self._bases:
            raise CheckpointError(
                f"{path} was adapted from another base: a {was['class']} whose parameters have "
                f"the sha256 {was['sha256'][:12]}…, and this is a {given['class']} with "
                f"{given['sha256'][:12]}…. Open the library with the learner that its mappings "
                "were adapted from, or begin one in another folder."
            )
        if self._embedding not in (
            about["embedding"],
            renamed.EMBEDDINGS.get(about["embedding"]),
        ):
            raise CheckpointError(
                f"{path} was embedded by {about['embedding']}, and this library is opened with "
                f"{self._embedding}: give the `embed` that it was begun with."
            )
        return _Entry(path, self._layout(state), tensors["embedding"])

    def _mapping(
        self, path: Path, about: Mapping[str, Json], tensors: Mapping[str, Tensor]
    ) -> LearnedMapping:
        where = self._device()
        tensors = {key: tensor.to(where) for key, tensor in tensors.items()}
        return LearnedMapping(
            about["name"],
            about["version"],
            unpack_state(about["state"], tensors, self._types),
            tensors["embedding"],
            about["fit"],
            about["facts"],
            about["examples"],
            about["date"],
            about["tensors"],
            path,
        )

    def _last(self, name: str) -> _Entry:
        versions = self._entries[name]
        return versions[max(versions)]

    def _require(self, name: str) -> None:
        if name not in self._entries:
            near = difflib.get_close_matches(name, self._entries, 1)
            hint = f"Did you mean {near[0]!r}?" if near else "`names()` lists those there are."
            raise ValueError(f"There is no mapping {name!r} in {self.folder}. {hint}")

    def _device(self) -> torch.device:
        return next((p.device for p in self.learner.parameters()), torch.device("cpu"))

    def _here(self, examples: Examples) -> Examples:
        where = self._device()
        return tree_map(lambda leaf: leaf.to(where), examples)

    def _sweep(self) -> None:
        """Deletes what additions that were cut short left."""
        with suppress(OSError):
            for path in self.folder.glob("*@*.safetensors*.tmp"):
                path.unlink()

    def _kept_temperature(self) -> float:
        path = self.folder / _ATTENTION
        try:
            return float(json.loads(path.read_bytes())["temperature"])
        except FileNotFoundError:
            return _TEMPERATURE
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"Cannot read the temperature in {path} ({error}): delete the file, and call "
                "`fit_attention` again, or give a temperature."
            ) from error


def task_embedding(learner: Learner[Any], support: Examples) -> Tensor:
    """What a task is compared by (D,): of a learner with a module `embed`, the mean embedding
    of the examples; of one with a start that is like its states, where adaptation moves it.

    Raises:
        ValueError: the learner has neither.
    """
    if isinstance(getattr(learner, "embed", None), nn.Module):
        share = support.weight / support.weight.sum().clamp_min(1e-12)
        return share @ pairwise.embed(learner, support.x)
    start = _learned_start(learner)
    if start is not None:
        before, after = flat(start), flat(learner.adapt(support))
        if before.shape == after.shape:
            return after - before
    raise ValueError(
        f"{type(learner).__name__} has neither a module `embed` nor a start() that is like "
        "its states, by which its tasks could be compared: give the library a function `embed` "
        "of a support set to a vector."
    )


def _learned_start(learner: Any) -> Any:
    try:
        return learner.start()
    except (AttributeError, TypeError):  # ProtoMAML's is made from a support set
        return None


def _mean(shares: Tensor, states: Any) -> Any:
    """The mean of stacked states, weighed by shares (K,)."""

    def mean(leaf: Tensor) -> Tensor:
        if not leaf.is_floating_point():
            raise ValueError(
                f"The states have tensors of {leaf.dtype}, which have no mean: use `ensemble`, "
                "which averages predictions instead."
            )
        return torch.tensordot(shares.to(leaf.dtype), leaf, 1)

    return tree_map(mean, states)


def _layout(nest: Json, tensors: Mapping[str, Tensor]) -> str:
    kinds = {key: tensor_kind(tensor) for key, tensor in tensors.items()}
    return json.dumps([nest, kinds], sort_keys=True)


def _read(path: Path) -> tuple[dict[str, Json], dict[str, Tensor]]:
    about, tensors = read(path, _KEY, kind="mapping", writer="a MappingLibrary", again=_AGAIN)
    if path.name != _name(about["name"], about["version"]):
        raise CheckpointError(
            f"{path} has another name than {_name(about['name'], about['version'])}, which the "
            "library gave it: rename it back."
        )
    return about, tensors


def _name(name: str, version: int) -> str:
    """Of a file; any text is a name of a mapping."""
    return f"{quote(name, safe=' ')}@{version}.safetensors"


def _embedding_identity(embed: Embed | None) -> Json:
    if isinstance(embed, nn.Module):
        return f"{type(embed).__name__} {tensors_sha256(dict(embed.state_dict()))[:12]}"
    named = task_embedding if embed is None else embed
    return getattr(named, "__qualname__", type(named).__name__)
