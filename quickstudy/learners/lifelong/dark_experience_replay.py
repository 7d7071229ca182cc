r"""Dark experience replay, DER and DER++ (Buzzega et al., 2020, arXiv:2004.07211).

Beside examples and labels, the memory keeps the logits z that the net gave to an example when
it came. The net is trained to keep these logits, a distillation from its own past:

$$\theta \leftarrow \theta - \eta \nabla_\theta \Big[ L(\theta; B)
  + \alpha \operatorname*{mean}_{(x, z) \in R} \lVert z - f_\theta(x) \rVert^2
  + \beta \, L(\theta; R') \Big]$$

R and R' are two samples of the memory, a reservoir. With β = 0 this is DER, else DER++.

Differs from the paper: the squared distance is divided by the number of classes, as in the
authors' code; the published α refer to that. Only the first of several epochs fills the memory.
"""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from quickstudy.core.criteria import Criterion, cross_entropy, weighted_mean
from quickstudy.core.parameters import ParameterSelection, Params
from quickstudy.core.task import Examples
from quickstudy.learners.lifelong.net_learner import ReplayLearner
from quickstudy.learners.lifelong.replay_buffer import (
    Buffer,
    empty_buffer,
    mask_if_empty,
    reservoir,
    salted_minibatches,
    sample,
    sgd_step,
)


class LabelledLogits(NamedTuple):
    """Examples, and the logits of the net when they came.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> support = qs.Examples(torch.eye(2), torch.eye(2), torch.ones(2))
        >>> LabelledLogits(support, logits=torch.zeros(2, 2)).weight
        tensor([1., 1.])
    """

    examples: Examples  # (N, ...)
    logits: Tensor  # (N, C)  z

    @property
    def weight(self) -> Tensor:
        """The weights of the examples (N,)."""
        return self.examples.weight


class DERState(NamedTuple):
    """Parameters, and a memory of the past.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> support = qs.Examples(torch.eye(2), torch.eye(2), torch.ones(2))
        >>> state = qs.DarkExperienceReplay(torch.nn.Linear(2, 2)).adapt(support)
        >>> state.buffer.seen, state.buffer.examples.logits.shape
        (tensor(2), torch.Size([200, 2]))
    """

    params: Params
    buffer: Buffer[LabelledLogits]


class DarkExperienceReplay(ReplayLearner[DERState]):
    """A net that learns a stream and keeps its logits on the past.

    With `alpha=0`, `beta=|R| / |B|` and a learning rate of |B| / (|B| + |R|) times that of
    `ExperienceReplay`, it takes the same steps as the latter once the memory is not empty.

    Args:
        net: any module, (N, *features) -> (N, C).
        lr: η.
        alpha: α, the weight of past logits, per class.
        beta: β, the weight of past labels; 0 for DER.
        batch_size: examples in B.
        replay_batch_size: examples in R, and in R'; None: as many as in B.
        memory_size: places of the memory.
        epochs: passes over each experience.
        adapt_parameters: which parameters are learned; see `select_parameters`.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> _ = torch.manual_seed(0)
        >>> examples = qs.Examples(torch.eye(4), torch.eye(4), torch.ones(4))
        >>> learner = qs.DarkExperienceReplay(torch.nn.Linear(4, 4), lr=0.5, epochs=20)
        >>> state = None
        >>> for experience in (slice(2), slice(2, 4)):
        ...     state = learner.adapt(examples.take(experience), state)
        >>> learner.predict(state, examples.x).argmax(-1)
        tensor([0, 1, 2, 3])
        >>> state.buffer.examples.logits.shape
        torch.Size([200, 4])
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        lr: float = 0.1,
        alpha: float = 1.0,
        beta: float = 0.5,
        batch_size: int = 10,
        replay_batch_size: int | None = None,
        memory_size: int = 200,
        epochs: int = 1,
        adapt_parameters: ParameterSelection = None,
        criterion: Criterion = cross_entropy,
    ):
        super().__init__(
            net,
            lr=lr,
            batch_size=batch_size,
            replay_batch_size=replay_batch_size,
            memory_size=memory_size,
            epochs=epochs,
            adapt_parameters=adapt_parameters,
            criterion=criterion,
        )
        self.alpha, self.beta = alpha, beta

    def adapt(self, support: Examples, state: DERState | None = None) -> DERState:
        """Return the parameters after an experience, and the memory with its examples."""
        params, buffer = state or DERState(
            self.initial_params(),
            empty_buffer(LabelledLogits(support, support.y), self.memory_size),
        )
        for new, salt in salted_minibatches(support, self.batch_size, self.epochs):
            past = sample(buffer, self.replay_batch_size, salt=-salt)
            old = sample(buffer, self.replay_batch_size, salt=salt).examples
            logits = self.logits(params, new.x)
            params = sgd_step(partial(self.objective, new, past, old), params, self.lr)
            if salt == 1:
                buffer = reservoir(buffer, LabelledLogits(new, logits))
        return DERState(params, buffer)

    def objective(
        self, new: Examples, past: LabelledLogits, old: Examples, params: Params
    ) -> Tensor:
        """Return the loss of a step on B, R and R'."""
        inputs = [new.x, past.examples.x, old.x]
        logits = self.logits(params, torch.cat(inputs))
        new_logits, past_logits, old_logits = logits.split([len(x) for x in inputs])
        loss = self.criterion(new_logits, new)  # first: it checks the number of classes
        distance = (past_logits - past.logits).square().mean(-1)
        return (
            loss
            + self.alpha * weighted_mean(distance, mask_if_empty(past.examples, new).weight)
            + self.beta * self.criterion(old_logits, mask_if_empty(old, new))
        )
