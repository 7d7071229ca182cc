"""The file of an adapted model: read, and predicted from, without scikit-learn.

scikit-learn takes about as long to import as PyTorch, and predicting the class of one image
needs nothing of it. Estimators restore and predict by the same functions.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from quickstudy.core.task import Json
from quickstudy.learner import Learner
from quickstudy.storage.checkpoints import CheckpointError
from quickstudy.storage.state_file import identity, read, state_types, unpack

KEY = "quickstudy"  # of our entry in the metadata of a safetensors file


def read_model(path: str | Path) -> tuple[dict[str, Json], dict[str, Tensor]]:
    """Read the file of an adapted model and check it.

    Returns:
        The metadata and the tensors. The metadata have `facts`, which were given to `save`, and
        `learner`, the class and the sha256 of the base that `load` needs.

    Raises:
        CheckpointError: The file is missing, truncated or changed, or of another format.

    Examples:
        >>> import tempfile
        >>> import quickstudy as qs
        >>> path = Path(tempfile.mkdtemp(), "my.safetensors")
        >>> qs.FewShotClassifier().fit([[0.0], [1.0]], ["no", "yes"]).save(path, author="me")
        >>> read_model(path)[0]["facts"]
        {'author': 'me'}
    """
    return read(
        Path(path),
        KEY,
        kind="adapted model",
        writer="an estimator's `save`",
        again="Copy it again from where it came from, or adapt and save anew.",
    )


def restore(
    path: str | Path, learner: Learner[Any], estimator: str
) -> tuple[dict[str, Json], Any]:
    """Read an adapted model of a learner.

    Args:
        learner: The base that the model was adapted from.
        estimator: Class of the estimator that wrote the file.

    Returns:
        The metadata, and the state, on the device of the learner.

    Raises:
        CheckpointError: As `read_model`; or the learner or the estimator is another.

    Examples:
        >>> import tempfile
        >>> import quickstudy as qs
        >>> path = Path(tempfile.mkdtemp(), "my.safetensors")
        >>> model = qs.FewShotClassifier().fit([[0.0], [1.0]], ["no", "yes"])
        >>> model.save(path)
        >>> metadata, state = restore(path, model.learner_, "FewShotClassifier")
        >>> metadata["targets"]["labels"]
        ['no', 'yes']
    """
    about, tensors = read_model(path)
    if about["estimator"] != estimator:
        raise CheckpointError(
            f"{path} is of a {about['estimator']}, not a {estimator}: load it with "
            f"`{about['estimator']}.load`."
        )
    was, given = about["learner"], identity(learner)
    if was != given:
        raise CheckpointError(
            f"{path} was adapted from another base: a {was['class']} whose parameters have "
            f"the sha256 {was['sha256'][:12]}…, and this is a {given['class']} with "
            f"{given['sha256'][:12]}…. Load it with the learner that was adapted."
        )
    device = like(learner).device
    tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
    return about, unpack(about["state"], tensors, state_types(learner))


@contextmanager
def frozen(learner: Learner[Any], seed: int) -> Iterator[None]:
    """Set evaluation mode, build no graph, and draw random numbers from `seed` alone.

    Modes and random state are restored at the end.

    Examples:
        >>> import quickstudy as qs
        >>> learner = qs.PrototypicalNetwork(torch.nn.Dropout())
        >>> with frozen(learner, seed=0):
        ...     print(learner.training, torch.is_grad_enabled())
        False False
        >>> learner.training
        True
    """
    modes = [(module, module.training) for module in learner.modules()]
    cuda = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        learner.eval()
        with (
            torch.no_grad(),
            sdpa_kernel(SDPBackend.MATH),  # as `over_tasks` does
            torch.random.fork_rng(cuda),
        ):
            torch.manual_seed(seed)
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def outputs(learner: Learner[Any], state: Any, x: Tensor, seed: int) -> Tensor:
    """Return the predictions (N, C) for `x`, in double precision on the CPU.

    Raises:
        ValueError: A prediction is NaN.

    Examples:
        >>> import quickstudy as qs
        >>> learner = qs.PrototypicalNetwork(torch.nn.Identity())
        >>> x, y = torch.tensor([[0.0], [2.0]]), torch.eye(2)
        >>> state = learner.adapt(qs.Examples(x, y, torch.ones(2)))
        >>> outputs(learner, state, torch.tensor([[0.5]]), seed=0).argmax(-1)
        tensor([0])
    """
    with frozen(learner, seed):
        predictions = mean(learner.predict(state, x)).cpu().double()
    if predictions.isnan().any():
        raise ValueError(
            f"{type(learner).__name__} predicts NaN: its adaptation diverged. Scale X as in "
            "meta-training, or lower the learner's inner learning rate."
        )
    return predictions


def like(learner: Learner[Any]) -> Tensor:
    """Return a tensor with the dtype and the device that the learner computes in.

    Examples:
        >>> import quickstudy as qs
        >>> like(qs.PrototypicalNetwork(torch.nn.Linear(2, 1))).dtype
        torch.float32
    """
    floats = (p for p in learner.parameters() if p.is_floating_point())
    return next(floats, torch.zeros((), dtype=torch.float64))


def mean(prediction: Any) -> Tensor:
    """Return a prediction, or its mean if it is a distribution.

    Examples:
        >>> mean(torch.distributions.Normal(torch.tensor(1.0), 2.0))
        tensor(1.)
    """
    return prediction if isinstance(prediction, Tensor) else prediction.mean
