r"""Elastic weight consolidation (Kirkpatrick et al., 2017, arXiv:1612.00796), and the online
variant of Progress & Compress (Schwarz et al., 2018, arXiv:1805.06370).

A quadratic penalty holds the weights near those after each earlier experience k, each weight in
proportion to its Fisher information there:

$$\mathcal{L}(\theta) = L(\theta; B)
  + \frac{\lambda}{2} \sum_k \sum_i F_{k,i} (\theta_i - \theta^*_{k,i})^2, \qquad
  F_k = \mathbb{E}_{x \sim k, \, y \sim p_{\theta^*_k}(y \mid x)}
  \big(\nabla_\theta \log p_{\theta^*_k}(y \mid x)\big)^2$$

The penalties sum to one quadratic, so the state has three numbers for every weight however long
the stream. The expectation over labels y is exact: F is the diagonal of J'HJ, with J the
Jacobian of the outputs and H the criterion's Hessian in them.

Differs from the papers: nothing, except that a factor γ of the penalty of Schwarz et al. is
left to `ewc_lambda`, and that their Fisher information is not normalised.
"""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import grad, jacrev, vmap

from quickstudy.core.criteria import Criterion, cross_entropy
from quickstudy.core.linear import nonzero
from quickstudy.core.parameters import ParameterSelection, Params
from quickstudy.core.task import Examples
from quickstudy.core.tree import tree_map
from quickstudy.learners.lifelong.net_learner import NetLearner
from quickstudy.learners.lifelong.replay_buffer import any_weight, minibatches, sgd_step


class EWCState(NamedTuple):
    """Parameters, and the quadratic penalty on them, up to a constant.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> support = qs.Examples(torch.eye(2), torch.eye(2), torch.ones(2))
        >>> state = qs.EWC(torch.nn.Linear(2, 2)).adapt(support)
        >>> state.precision["weight"].shape, state.pull["weight"].shape
        (torch.Size([2, 2]), torch.Size([2, 2]))
    """

    params: Params
    precision: Params  # Σ F, its curvature
    pull: Params  # Σ F θ*, the precision times the mean


class EWC(NetLearner[EWCState]):
    """Descent with a quadratic penalty on changes of weights that mattered before.

    The criterion is the negative logarithm of a likelihood whose natural parameters are the
    outputs, as for cross-entropy and the squared error.

    Args:
        net: any module, (N, *features) -> (N, C), that treats examples one by one.
        lr: α of the descent. It diverges above 2 / (λ ΣF).
        ewc_lambda: λ; 1 weighs an experience of the past as much as the present one.
        batch_size: examples in B.
        epochs: passes over each experience.
        decay: None: one penalty for each experience, at the weights after it. Otherwise γ of
            online EWC: one penalty at the latest weights, whose precision is multiplied by γ
            with each experience (see `online_ewc`).
        empirical: compute F from the labels of the data, not from those of the model: C times
            cheaper, and zero if the model fits the data.
        fisher_batch: examples whose F is computed at once, each with C Jacobians in memory.
        adapt_parameters: which parameters are learned; see `select_parameters`.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> _ = torch.manual_seed(0)
        >>> examples = qs.Examples(torch.eye(4), torch.eye(4), torch.ones(4))
        >>> net = torch.nn.Linear(4, 4)
        >>> first, second = examples.take(slice(2)), examples.take(slice(2, 4))
        >>> def change(learner):
        ...     learner.epochs = 10
        ...     before = learner.adapt(first)
        ...     after = learner.adapt(second, before)
        ...     return (after.params["bias"] - before.params["bias"]).norm()
        >>> change(qs.EWC(net, ewc_lambda=9.0)) < change(qs.EWC(net, ewc_lambda=0.0))
        tensor(True)
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        lr: float = 0.1,
        ewc_lambda: float = 10.0,
        batch_size: int = 10,
        epochs: int = 1,
        decay: float | None = None,
        empirical: bool = False,
        fisher_batch: int = 10,
        adapt_parameters: ParameterSelection = None,
        criterion: Criterion = cross_entropy,
    ):
        super().__init__(
            net,
            lr=lr,
            batch_size=batch_size,
            epochs=epochs,
            adapt_parameters=adapt_parameters,
            criterion=criterion,
        )
        self.ewc_lambda, self.decay = ewc_lambda, decay
        self.empirical, self.fisher_batch = empirical, fisher_batch

    def adapt(self, support: Examples, state: EWCState | None = None) -> EWCState:
        """Return the parameters after an experience, and the penalty for the next."""
        if state is None:
            zero = tree_map(torch.zeros_like, self.initial_params())
            state = EWCState(self.initial_params(), zero, zero)
        params, precision, pull = state
        for batch in list(minibatches(support, self.batch_size)) * self.epochs:
            params = sgd_step(partial(self.objective, batch, state), params, self.lr)
        fisher = self.fisher(support, params)
        factor = 1 if self.decay is None else 1 - (1 - self.decay) * any_weight(support)
        precision = {k: factor * p + fisher[k] for k, p in precision.items()}
        if self.decay is None:
            pull = {k: p + fisher[k] * params[k] for k, p in pull.items()}
        else:
            pull = {k: p * params[k] for k, p in precision.items()}
        return EWCState(params, precision, pull)

    def objective(self, examples: Examples, anchors: EWCState, params: Params) -> Tensor:
        """Return the loss and the penalty, up to a constant; 0 if all examples are padding."""
        penalties = [
            (0.5 * anchors.precision[name] * p.square() - anchors.pull[name] * p).sum()
            for name, p in params.items()
        ]
        penalty = any_weight(examples) * torch.stack(penalties).sum()
        return self.batch_loss(examples, params) + self.ewc_lambda * penalty

    def fisher(self, examples: Examples, params: Params) -> Params:
        """Return F: the diagonal of the Fisher information, averaged over examples."""

        def fisher_of_one(x: Tensor, y: Tensor) -> Params:
            example = Examples(x[None], y[None], y.new_ones(1))

            def outputs(params: Params) -> tuple[Tensor, Tensor]:
                z = self.logits(params, example.x)
                return z[0], z[0]

            def loss(z: Tensor) -> Tensor:
                return self.criterion(z[None], example)

            if self.empirical:
                grads = grad(lambda params: loss(outputs(params)[0]))(params)
                return {name: g.square() for name, g in grads.items()}
            jacobian, z = jacrev(outputs, has_aux=True)(params)  # of each (C, *shape)
            if self.criterion is cross_entropy:  # H = sum(y) (diag(p) - p p')
                p = z.softmax(-1)
                mean = {name: torch.tensordot(p, j, 1) for name, j in jacobian.items()}
                square = {name: torch.tensordot(p, j * j, 1) for name, j in jacobian.items()}
                return {name: y.sum() * (square[name] - mean[name] ** 2) for name in mean}
            h = jacrev(grad(loss))(z)  # (C, C)
            return {name: (j * torch.tensordot(h, j, 1)).sum(0) for name, j in jacobian.items()}

        mean = tree_map(torch.zeros_like, params)
        share = examples.weight / nonzero(examples.weight.sum())
        for batch in minibatches(examples._replace(weight=share), self.fisher_batch):
            each = vmap(fisher_of_one, randomness="different")(batch.x, batch.y)
            mean = {
                name: value + torch.tensordot(batch.weight, each[name], 1)
                for name, value in mean.items()
            }
        return mean


def online_ewc(net: nn.Module, *, decay: float = 0.95, **settings: Any) -> EWC:
    """EWC with one penalty at its latest weights, by F* ← γF* + F (Schwarz et al., 2018): it
    can forget the distant past, and so continues to learn. Settings are those of `EWC`.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> qs.online_ewc(torch.nn.Linear(4, 4), lr=0.03).decay
        0.95
    """
    return EWC(net, decay=decay, **settings)
