"""Normalisation layers whose second-order gradients are right under `vmap`.

Under `vmap`, PyTorch computes the gradient of the weight of BatchNorm, InstanceNorm and
LayerNorm from a mean and a variance that it takes for constants (pytorch/functorch#534). The
gradient itself is right, but whoever differentiates it, as MAML does, gets a wrong number and
no error. The layers here multiply by the weight outside of the normalisation whenever a
learner has put something else, such as fast weights, in the place of the parameter.
"""

from torch import Tensor, nn
from torch.nn import functional as F


def make_exact(net: nn.Module) -> None:
    """Gives the affected layers of `net` the `forward` below, and changes nothing else of
    them. A `Learner` does so to every module that is assigned to it."""
    for module in net.modules():
        exact = _EXACT.get(type(module))
        if exact is not None:
            module.__class__ = exact


def _plain(weight: Tensor | None) -> bool:
    return weight is None or isinstance(weight, nn.Parameter)


def _per_channel(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Multiplies and adds along axis 1 of x (N, channels, ...)."""
    shape = (-1, *[1] * (x.ndim - 2))
    return x * weight.view(shape) + bias.view(shape)


class _BatchNorm(nn.modules.batchnorm._BatchNorm):
    def forward(self, input: Tensor) -> Tensor:
        given = self.track_running_stats and not self.training
        if _plain(self.weight) or given or self.momentum is None:
            return super().forward(input)
        self._check_input_dim(input)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        mean, var = self.running_mean, self.running_var
        x = F.batch_norm(input, mean, var, None, None, True, self.momentum, self.eps)
        return _per_channel(x, self.weight, self.bias)


class _BatchNorm1d(_BatchNorm, nn.BatchNorm1d):
    pass


class _BatchNorm2d(_BatchNorm, nn.BatchNorm2d):
    pass


class _BatchNorm3d(_BatchNorm, nn.BatchNorm3d):
    pass


class _InstanceNorm(nn.modules.instancenorm._InstanceNorm):
    def _apply_instance_norm(self, input: Tensor) -> Tensor:
        if _plain(self.weight):
            return super()._apply_instance_norm(input)
        own = self.training or not self.track_running_stats
        mean, var = self.running_mean, self.running_var
        momentum = 0.0 if self.momentum is None else self.momentum
        x = F.instance_norm(input, mean, var, None, None, own, momentum, self.eps)
        return _per_channel(x, self.weight, self.bias)


class _InstanceNorm1d(_InstanceNorm, nn.InstanceNorm1d):
    pass


class _InstanceNorm2d(_InstanceNorm, nn.InstanceNorm2d):
    pass


class _InstanceNorm3d(_InstanceNorm, nn.InstanceNorm3d):
    pass


class _LayerNorm(nn.LayerNorm):
    def forward(self, input: Tensor) -> Tensor:
        if _plain(self.weight):
            return super().forward(input)
        x = F.layer_norm(input, self.normalized_shape, None, None, self.eps) * self.weight
        return x if self.bias is None else x + self.bias


_EXACT = {
    nn.BatchNorm1d: _BatchNorm1d,
    nn.BatchNorm2d: _BatchNorm2d,
    nn.BatchNorm3d: _BatchNorm3d,
    nn.InstanceNorm1d: _InstanceNorm1d,
    nn.InstanceNorm2d: _InstanceNorm2d,
    nn.InstanceNorm3d: _InstanceNorm3d,
    nn.LayerNorm: _LayerNorm,
}
