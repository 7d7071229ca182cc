r"""ProtoMAML (Triantafillou et al., 2020, "Meta-Dataset", arXiv:1903.03096, section 3).

MAML with a linear head. In every task the head is initialised to be a prototypical network:

$$W_c = 2 \mu_c, \quad b_c = -\lVert \mu_c \rVert^2, \qquad
  \mu_c = \tfrac{1}{|S_c|} \sum_{i \in S_c} f_\theta(x_i)$$

Gradient descent on the support set then adapts embedding and head together. The meta-gradient
flows through the steps and through the head's initialisation into the embedding. Every task has
its own head, so tasks may differ in their number of classes.

Differs from the paper: its experiments are of the first order (`first_order=True`).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from quickstudy.capabilities import Checkpointed, DescendsInSteps, Embeds, LendsParameters
from quickstudy.core.parameters import Params, is_trainable
from quickstudy.core.prototypes import class_means, keep_known
from quickstudy.core.stateless import functional_call
from quickstudy.core.task import Checkpoint, Examples
from quickstudy.inner_loop.descent import descend
from quickstudy.learner import Learner


class ProtoMAMLState(NamedTuple):
    """An embedding with a linear head, adapted to a task.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> support = qs.Examples(torch.eye(2), torch.eye(2), torch.ones(2))
        >>> state = qs.ProtoMAML(torch.nn.Linear(2, 2), steps=1).adapt(support)
        >>> list(state.params), state.sizes
        (['embed.weight', 'embed.bias', 'W', 'b'], tensor([1., 1.]))
    """

    params: Params  # of the embedding, and the head: W (C, D), b (C,)
    sizes: Tensor  # (C,)  number of examples of each class


class ProtoMAML(
    Learner[ProtoMAMLState], Checkpointed, DescendsInSteps, Embeds, LendsParameters
):
    """Learns the embedding `embed`: (N, *features) -> (N, D).

    Args:
        embed: the embedding.
        lr: learning rate of the inner loop; 0.0054 was best in the paper's search.
        steps: number of inner steps; 6 in that search.
        first_order: treat the inner gradient as a constant (fo-Proto-MAML). The meta-gradient
            still flows through the initialisation of the head.
        checkpoint: how much of the inner steps is stored for the meta-gradient; see `MAML`.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> x, y = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]]), torch.eye(2)[[0, 0, 1, 1]]
        >>> support = qs.Examples(x, y, torch.ones(4))
        >>> _ = torch.manual_seed(0)
        >>> learner = qs.ProtoMAML(qs.nets.MLP(1, 8))
        >>> state = learner.adapt(support)
        >>> learner.predict(state, torch.tensor([[-3.0], [3.0]])).argmax(-1)
        tensor([0, 1])
    """

    class_axes = {"params.W": 0, "params.b": 0, "sizes": 0}

    def __init__(
        self,
        embed: nn.Module,
        *,
        lr: float = 0.005,
        steps: int = 6,
        first_order: bool = False,
        checkpoint: Checkpoint | None = None,
    ):
        super().__init__()
        self.embed, self.lr, self.steps = embed, lr, steps
        self.first_order, self.checkpoint = first_order, checkpoint

    def adapt(self, support: Examples, state: ProtoMAMLState | None = None) -> ProtoMAMLState:
        """Take `steps` of gradient descent on the support set, from the prototypes or `state`.

        Classes that are new to `state` start from their prototypes.
        """
        start = self.prototypical_start(support, state)

        def support_loss(fast: Params) -> Tensor:
            prediction = self.predict(start._replace(params=fast), support.x)
            return self.criterion(prediction, support)

        fast = descend(
            support_loss,
            start.params,
            lr=self.lr,
            steps=self.steps,
            first_order=self.first_order,
            checkpoint=self.checkpoint,
        )
        return start._replace(params=fast)

    def predict(self, state: ProtoMAMLState, x: Tensor) -> Tensor:
        """Return logits (Q, C); -inf for a class without examples."""
        embedded = self._embed(state.params, x)  # (Q, D)
        logits = embedded @ state.params["W"].T + state.params["b"]
        return logits.masked_fill(state.sizes == 0, -torch.inf)

    def prototypical_start(
        self, support: Examples, state: ProtoMAMLState | None = None
    ) -> ProtoMAMLState:
        """Return the state before the first inner step."""
        body: Params = {name: p for name, p in self.named_parameters() if is_trainable(p)}
        if state is not None:
            body = {name: state.params[name] for name in body}
        mean = class_means(self._embed(body, support.x), support)  # (C, D)
        head: Params = {"W": 2 * mean, "b": -mean.square().sum(-1)}
        sizes = support.weight @ support.y
        if state is not None:
            head = keep_known(head, state.params, state.sizes)
            sizes = sizes + state.sizes
        return ProtoMAMLState(body | head, sizes)

    def lent_parameters(self) -> tuple[nn.Module, Params]:
        """Return the embedding and its parameters that are not frozen."""
        return self.embed, {
            name: p for name, p in self.embed.named_parameters() if is_trainable(p)
        }

    def _embed(self, params: Params, x: Tensor) -> Tensor:
        body = {
            name.removeprefix("embed."): p
            for name, p in params.items()
            if name.startswith("embed.")
        }
        return functional_call(self.embed, body, (x,))
