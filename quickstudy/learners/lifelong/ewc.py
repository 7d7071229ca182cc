r"""Elastic weight consolidation (Kirkpatrick et al., 2017, arXiv:1612.00796), and that of
Progress & Compress, online (Schwarz et al., 2018, arXiv:1805.06370).

What earlier experiences k fixed is held where it was, by springs as stiff as they were sure:

$$\mathcal{L}(\theta) = L(\theta; B)
  + \frac{\lambda}{2} \sum_k \sum_i F_{k,i} (\theta_i - \theta^*_{k,i})^2, \qquad
  F_k = \mathbb{E}_{x \sim k, \, y \sim p_{\theta^*_k}(y \mid x)}
  \big(\nabla_\theta \log p_{\theta^*_k}(y \mid x)\big)^2$$

All the springs sum to one quadratic, so that the state has three numbers for every weight
however long the stream. The expectation over labels y is exact: F is the diagonal of J'HJ, J
the Jacobian of the outputs and H the criterion's Hessian in them.

Differs from the papers: nothing, but of Schwarz et al. a factor γ of the penalty is left to
`strength`, and their Fisher information is not normalised.
"""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, vmap

from quickstudy.core.criteria import Criterion, cross_entropy
from quickstudy.core.parameters import ParameterSelection, Params, select_parameters
from quickstudy.core.task import Examples
from quickstudy.learner import Learner
from quickstudy.learners.lifelong.replay_buffer import minibatches, sgd


class Anchored(NamedTuple):
    """Weights, and the quadratic that holds them."""

    params: Params
    precision: Params  # Σ F
    pull: Params  # Σ F θ*


class EWC(Learner[Anchored]):
    """Descent that spares the weights which mattered before.

    The criterion is the negative logarithm of a likelihood whose natural parameters are the
    outputs, as cross-entropy and the squared error are.

    Args:
        net: any module, (N, *features) -> (N, C), that treats examples one by one.
        lr: α of the descent. Above 2 / (λ ΣF) the springs swing ever wider.
        strength: λ; 1 weighs an experience of the past as much as the present one.
        batch: examples in B.
        epochs: how often each experience is gone through.
        decay: None: springs to the weights after each experience. γ: only to the latest, and
            older ones count γ times less with each that comes (see `online_ewc`).
        empirical: F of the labels as given, not of those that the model would draw: C times
            cheaper, and none where the model has nothing left to learn.
        fisher_batch: examples of which F is computed at once, each with C Jacobians in memory.
        adapts: which parameters are learned; see `select_parameters`.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        lr: float = 0.1,
        strength: float = 10.0,
        batch: int = 10,
        epochs: int = 1,
        decay: float | None = None,
        empirical: bool = False,
        fisher_batch: int = 10,
        adapt_parameters: ParameterSelection = None,
        criterion: Criterion = cross_entropy,
    ):
        super().__init__(criterion)
        self.net, self.lr, self.strength = net, lr, strength
        self.batch, self.epochs, self.decay = batch, epochs, decay
        self.empirical, self.fisher_batch, self.adapt_parameters = (
            empirical,
            fisher_batch,
            adapt_parameters,
        )

    def adapt(self, support: Examples, state: Anchored | None = None) -> Anchored:
        """The weights after an experience, and what holds them in the next."""
        if state is None:
            start = select_parameters(self.net, self.adapt_parameters)
            free = {name: torch.zeros_like(p) for name, p in start.items()}
            state = Anchored(start, free, free)
        params, precision, pull = state
        for _ in range(self.epochs):
            for new in minibatches(support, self.batch):
                params = sgd(partial(self.cost, new, state), params, self.lr)
        fisher = self.fisher(support, params)
        if self.decay is None:
            precision = {k: p + fisher[k] for k, p in precision.items()}
            pull = {k: p + fisher[k] * params[k] for k, p in pull.items()}
        else:
            kept = 1 - (1 - self.decay) * _any(support)
            precision = {k: kept * p + fisher[k] for k, p in precision.items()}
            pull = {k: p * params[k] for k, p in precision.items()}
        return Anchored(params, precision, pull)

    def predict(self, state: Anchored, x: Tensor) -> Tensor:
        """Logits (Q, C) of all classes."""
        return functional_call(self.net, state.params, (x,))

    def cost(self, examples: Examples, held: Anchored, params: Params) -> Tensor:
        """The loss and the penalty, but for a constant; nothing where there is no example."""
        loss = self.criterion(functional_call(self.net, params, (examples.x,)), examples)
        springs = [
            (0.5 * held.precision[name] * p.square() - held.pull[name] * p).sum()
            for name, p in params.items()
        ]
        return loss + self.strength * _any(examples) * torch.stack(springs).sum()

    def fisher(self, examples: Examples, params: Params) -> Params:
        """F: the diagonal of the Fisher information of an example, on average."""

        def of_one(x: Tensor, y: Tensor) -> Params:
            one = Examples(x[None], y[None], y.new_ones(1))

            def outputs(params: Params) -> tuple[Tensor, Tensor]:
                z = functional_call(self.net, params, (one.x,))
                return z[0], z[0]

            def loss(z: Tensor) -> Tensor:
                return self.criterion(z[None], one)

            if self.empirical:
                slopes = grad(lambda params: loss(outputs(params)[0]))(params)
                return {name: slope.square() for name, slope in slopes.items()}
            jacobian, z = jacrev(outputs, has_aux=True)(params)  # of each (C, *shape)
            h = jacrev(grad(loss))(z)  # (C, C)
            return {name: (j * torch.tensordot(h, j, 1)).sum(0) for name, j in jacobian.items()}

        total = {name: torch.zeros_like(p) for name, p in params.items()}
        for part in minibatches(examples, self.fisher_batch):
            found = vmap(of_one, randomness="different")(part.x, part.y)
            total = {
                name: value + torch.tensordot(part.weight, found[name], 1)
                for name, value in total.items()
            }
        size = examples.weight.sum().clamp_min(1e-12)
        return {name: value / size for name, value in total.items()}


def online_ewc(
    net: nn.Module,
    *,
    lr: float = 0.1,
    strength: float = 10.0,
    decay: float = 0.95,
    batch: int = 10,
    epochs: int = 1,
    criterion: Criterion = cross_entropy,
) -> EWC:
    """EWC held at its latest weights alone, by F* ← γF* + F (Schwarz et al., 2018): it can
    forget what is long past, and so goes on learning. Arguments as of `EWC`."""
    return EWC(
        net,
        lr=lr,
        strength=strength,
        decay=decay,
        batch=batch,
        epochs=epochs,
        criterion=criterion,
    )


def _any(examples: Examples) -> Tensor:
    """1, or 0 where all is padding."""
    return (examples.weight > 0).any().to(examples.weight)
