"""The running statistics of normalisation layers."""

from torch import Tensor, nn

from quickstudy.core.torch_private import RunningStatisticsNorm


def running_statistics(learner: nn.Module) -> dict[str, Tensor]:
    """Return the buffers, by name, that normalisation layers write in training mode.

    Examples:
        >>> import torch
        >>> list(running_statistics(torch.nn.BatchNorm1d(3)))
        ['running_mean', 'running_var', 'num_batches_tracked']
    """
    return {
        f"{path}.{name}" if path else name: buffer
        for path, module in learner.named_modules()
        if isinstance(module, RunningStatisticsNorm) and module.track_running_stats
        for name, buffer in module.named_buffers(recurse=False)
    }
