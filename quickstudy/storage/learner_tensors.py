"""A learner as named tensors, whether or not it is compiled or inside DDP."""

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from quickstudy.storage.files import CheckpointError, class_name


def unwrapped(learner: nn.Module) -> nn.Module:
    """Return the learner inside DDP and `torch.compile`.

    Examples:
        >>> import quickstudy as qs
        >>> learner = qs.MAML(qs.nets.MLP(1, 1))
        >>> unwrapped(learner) is learner
        True
    """
    if isinstance(learner, DistributedDataParallel | nn.DataParallel):
        return unwrapped(learner.module)
    compiled = learner._modules.get("_orig_mod")
    return learner if compiled is None else unwrapped(compiled)


def plain_name(key: str) -> str:
    """Return a name that is the same whether or not a part of the learner is compiled.

    Examples:
        >>> plain_name("net._orig_mod.weight")
        'net.weight'
    """
    return key.replace("_orig_mod.", "")


def learner_tensors(learner: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the parameters and buffers of a learner.

    Returns:
        The tensors by name; and for each name of a tied tensor, the name of its owner.

    Raises:
        CheckpointError: an entry is not a tensor, or is sharded.

    Examples:
        >>> import quickstudy as qs
        >>> tensors, tied = learner_tensors(qs.MAML(qs.nets.MLP(1, 1, hidden=())))
        >>> sorted(tensors), tied
        (['net.head.bias', 'net.head.weight'], {})
    """
    tensors: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    owners: dict[int, str] = {}
    for key, tensor in unwrapped(learner).state_dict(keep_vars=True).items():
        name = plain_name(key)
        if not isinstance(tensor, Tensor):
            raise CheckpointError(
                f"`{name}` in the learner's state_dict is a {class_name(tensor)}, not a "
                "tensor: make it a buffer."
            )
        if hasattr(tensor, "full_tensor"):
            raise CheckpointError(
                f"`{name}` is sharded over processes, by `fully_shard`: save with "
                "torch.distributed.checkpoint, or train under DDP."
            )
        owner = owners.setdefault(id(tensor), name)
        if owner == name:
            tensors[name] = tensor
        else:
            tied[name] = owner
    return tensors, tied
