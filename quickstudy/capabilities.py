"""Capabilities of learners besides `adapt` and `predict`, each declared by a base class.

A class declares a capability by inheriting from it: `class Mine(qs.Learner[State], Embeds)`.
An attribute of the same name declares nothing, so that a policy with a layer called `embed` is
not mistaken for a metric learner.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from quickstudy.core.similarity import Similarity
from quickstudy.core.task import Checkpoint, Examples, Task

__all__ = [
    "Checkpointed",
    "ComparesEmbeddings",
    "ComparesInputs",
    "DescendsInSteps",
    "Embeds",
    "HasAttentionWeights",
    "HasInitialParams",
    "HasMemorySize",
    "LendsParameters",
    "PredictsSimilarities",
    "TakesDenseTargets",
]


class Embeds(ABC):
    """Embeds inputs: have a module `embed`, and get embeddings, clusters, verification by
    squared distance, `embed_once`, `EmbedTogether`, and the default embedding of tasks in
    `MappingLibrary`.

    Examples:
        >>> import torch, quickstudy as qs
        >>> learner = qs.PrototypicalNetwork(torch.nn.Linear(4, 2))
        >>> isinstance(learner, qs.capabilities.Embeds)
        True
    """

    embed: nn.Module  # (N, *features) -> (N, D), or maps of features that are flattened


class ComparesEmbeddings(Embeds):
    """Compares embeddings: have a `similarity` as well, and verification uses it in the place
    of the squared distance.

    Examples:
        >>> import torch, quickstudy as qs
        >>> learner = qs.MatchingNetwork(torch.nn.Identity())
        >>> a = torch.eye(2)
        >>> qs.evaluation.pairwise.similarities(learner, a, a).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """

    similarity: Similarity  # (A, D), (B, D) -> (A, B)


class ComparesInputs(ABC):
    """Compares inputs: have a method `pair_logits`, and get verification without embeddings.

    Examples:
        >>> import torch, quickstudy as qs
        >>> from quickstudy.learners.metric.siamese import contrastive_siamese
        >>> learner = contrastive_siamese(torch.nn.Identity())
        >>> learner.pair_logits(torch.zeros(2, 3), torch.ones(2, 3)).tolist()
        [-3.0, -3.0]
    """

    @abstractmethod
    def pair_logits(self, a: Tensor, b: Tensor) -> Tensor:
        """Score the inputs a and b, (N, *features) each, row by row: (N,), larger for inputs
        that are more alike."""


class PredictsSimilarities:
    """Predicts similarities: have logits that can be compared across queries, and
    `FewShotClassifier(unknown=...)` and `evaluate_open_set` accept the learner.

    A logit must be the similarity of a query and a class by themselves. Logits of a linear
    layer, and probabilities, depend on the other classes.

    Examples:
        >>> import torch, quickstudy as qs
        >>> learner = qs.PrototypicalNetwork(torch.nn.Identity())
        >>> isinstance(learner, qs.capabilities.PredictsSimilarities)
        True
    """


class TakesDenseTargets:
    """Learns targets (N, ..., C) that have further axes than (N, C): a class of every pixel or
    step, or signals. The learner leaves targets to its criterion, which averages over the axes
    in the middle. Other learners refuse such tasks.

    Examples:
        >>> import torch, quickstudy as qs
        >>> x, y = torch.zeros(1, 2, 5, 4), torch.eye(3)[torch.zeros(1, 2, 5, dtype=torch.long)]
        >>> tags = qs.Examples(x, y, torch.ones(1, 2))  # a class of each of five steps
        >>> qs.MAML(torch.nn.Linear(4, 3))(qs.Task(tags, tags)).shape
        torch.Size([1])
    """


class HasInitialParams(ABC):
    """Starts from learned parameters: have a method `initial_params`, and `TaskMemory` and
    `MappingLibrary.start` can mix it with the states of past tasks.

    Examples:
        >>> import quickstudy as qs
        >>> sorted(qs.MAML(qs.nets.MLP(4, 3, hidden=())).initial_params())
        ['head.bias', 'head.weight']
    """

    @abstractmethod
    def initial_params(self) -> Any:
        """Return the state before adaptation, of the same form as the adapted states."""


class LendsParameters(ABC):
    """Calls a net with other parameters than its own: have a method `lent_parameters`, and when
    the learner is first used, it is checked that the net's outputs depend on them.

    Examples:
        >>> import quickstudy as qs
        >>> net, params = qs.anil(qs.nets.MLP(4, 3)).lent_parameters()
        >>> sorted(params)
        ['head.bias', 'head.weight']
    """

    @abstractmethod
    def lent_parameters(self) -> tuple[nn.Module, Mapping[str, Tensor]]:
        """Return the net, and its own parameters that others take the place of, by name."""


class DescendsInSteps(ABC):
    """Adapts by inner gradient descent: have an attribute `steps`, and `adaptation_trace` shows
    what every step changes.

    `adapt` must read `steps` at each call, accept 0 and return states of the same layers.

    Examples:
        >>> import quickstudy as qs
        >>> qs.MAML(qs.nets.MLP(4, 3), steps=5).steps
        5
    """

    steps: int


class HasMemorySize(ABC):
    """Keeps examples in a memory: have an attribute `memory_size`, and `LifelongClassifier`
    lowers it until the state fits its budget.

    Examples:
        >>> import quickstudy as qs
        >>> isinstance(qs.GDumb(qs.nets.MLP(4, 3)), qs.capabilities.HasMemorySize)
        True
    """

    memory_size: int  # places; `adapt` must read it when it makes the first state


class HasAttentionWeights(ABC):
    """Reads and writes a memory by attention: have a method `attention_weights`, and the report
    of a run draws it.

    Examples:
        >>> import quickstudy as qs
        >>> issubclass(qs.MANN, qs.capabilities.HasAttentionWeights)
        True
    """

    @abstractmethod
    def attention_weights(self, task: Task[Examples]) -> Mapping[str, Tensor]:
        """Return by head how much of each memory place it touched (S + Q, M), at the steps of
        the support set and then of the query set. Empty if the learner has no heads."""


class Checkpointed(ABC):
    """Can recompute its inner steps: have an attribute `checkpoint`, and `plan` trades memory
    for time with it.

    Examples:
        >>> import quickstudy as qs
        >>> qs.MAML(qs.nets.MLP(4, 3), checkpoint="steps").checkpoint
        'steps'
    """

    checkpoint: Checkpoint | None
