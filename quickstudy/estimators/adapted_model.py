"""The file of an adapted model: read, and predicted from, without scikit-learn.

scikit-learn takes about as long to import as PyTorch, and predicting the class of one image
needs nothing of it. Estimators restore and predict by the same functions.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from quickstudy.core.replicas import evaluation_copy, written_back
from quickstudy.core.similarity import exact_comparisons
from quickstudy.core.task import Json
from quickstudy.core.threads import MATH_ATTENTION, seeded
from quickstudy.core.torch_private import ConvBase
from quickstudy.core.workers import on_cores
from quickstudy.evaluation.protocol import AnyLearner, evaluating
from quickstudy.learner import Learner
from quickstudy.storage.files import CheckpointError, class_name
from quickstudy.storage.state_file import learner_id, learner_ids, read, state_types
from quickstudy.storage.tree_json import unpack_state

MANY_PIXELS = 1 << 20
T = TypeVar("T")

KEY = "quickstudy"  # of our entry in the metadata of a safetensors file


def read_model(path: str | Path) -> tuple[dict[str, Json], dict[str, Tensor]]:
    """Read and check the file of an adapted model.

    Returns:
        The metadata and the tensors. The metadata has `facts` (those given to `save`) and
        `learner` (the class and the sha256 of the base that `load` needs).

    Raises:
        CheckpointError: the file is missing, truncated or changed, or of another format.

    Examples:
        >>> import numpy as np, quickstudy as qs, tempfile
        >>> model = qs.FewShotClassifier().fit(np.eye(2), [0, 1])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save(f"{folder}/model.safetensors", author="Ada")
        ...     metadata, tensors = read_model(f"{folder}/model.safetensors")
        >>> metadata["facts"], sorted(tensors)
        ({'author': 'Ada'}, ['sizes', 'sums'])
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
    metadata, tensors = read_model(path)
    if metadata["estimator"] != estimator:
        raise CheckpointError(
            f"{path} is of a {metadata['estimator']}, not a {estimator}: load it with "
            f"`{metadata['estimator']}.load`."
        )
    saved, current = metadata["learner"], learner_id(learner)
    if saved not in learner_ids(learner):
        raise CheckpointError(
            f"{path} was adapted from another base: a {saved['class']} whose parameters "
            f"have the sha256 {saved['sha256'][:12]}…, and this is a {current['class']} "
            f"with {current['sha256'][:12]}…. Load it with the learner that was adapted."
        )
    device = reference_tensor(learner).device
    tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
    return metadata, unpack_state(metadata["state"], tensors, state_types(learner))


@contextmanager
def deterministic(learner: AnyLearner, seed: int | None) -> Iterator[AnyLearner]:
    """Yield a copy of the learner in evaluation mode, with random numbers of `seed` alone.

    No graph is built meanwhile.

    Args:
        seed: None for a learner that draws no random numbers: torch's random state is not
            touched, so any number of threads may predict at once.

    Examples:
        >>> import quickstudy as qs
        >>> learner = qs.PrototypicalNetwork(torch.nn.Dropout())
        >>> with deterministic(learner, seed=0) as copy:
        ...     print(copy.training, learner.training, torch.is_grad_enabled())
        False True False
    """
    with torch.no_grad(), exact_comparisons(), MATH_ATTENTION:  # as in `over_tasks`
        if seed is None:
            with written_back(learner, evaluation_copy(learner)) as copy:
                yield copy
        else:
            with evaluating(learner) as copy, seeded(seed):
                yield copy


def predictions(learner: Learner[Any], state: Any, x: Tensor, seed: int | None) -> Tensor:
    """Return the predictions of `x`, (N, C), in double precision on the CPU.

    `seed` is as in `deterministic`.

    Raises:
        ValueError: A prediction is NaN or infinite, -infinity for some of the columns aside; or
            memory does not suffice.

    Examples:
        >>> import quickstudy as qs
        >>> learner = qs.PrototypicalNetwork(torch.nn.Identity())
        >>> x, y = torch.tensor([[0.0], [2.0]]), torch.eye(2)
        >>> state = learner.adapt(qs.Examples(x, y, torch.ones(2)))
        >>> predictions(learner, state, torch.tensor([[0.5]]), seed=0).argmax(-1)
        tensor([0])
    """
    try:
        with deterministic(learner, seed) as copy:
            outputs = point_prediction(computed(copy, partial(copy.predict, state, x), x))
    except (RuntimeError, MemoryError) as error:
        if "memory" not in f"{error} {class_name(error)}".lower():
            raise
        raise ValueError(
            f"The predictions of {len(x):,} examples at once do not fit into memory: predict "
            "fewer at a time, such as X[:500]."
        ) from error
    if not outputs.amax(-1).isfinite().all():
        raise ValueError(
            f"{class_name(learner)} predicts no finite number: its adaptation diverged, or X "
            "is too large. Scale X as in meta-training, or lower the inner learning rate."
        )
    return outputs.cpu().double()


def computed(learner: Learner[Any], fn: Callable[[], T], x: Tensor) -> T:
    """Return `fn()`, computed on one core, or by convolutions of many pixels on all of them.

    Examples:
        >>> import quickstudy as qs
        >>> computed(qs.MAML(qs.nets.MLP(4, 3)), torch.get_num_threads, torch.zeros(1))
        1
    """
    large = x.numel() >= MANY_PIXELS and any(isinstance(m, ConvBase) for m in learner.modules())
    return fn() if large or x.device.type != "cpu" else on_cores(fn)


def random_state(learner: Learner[Any]) -> Tensor:
    """Return the state of torch's random numbers, those of the learner's device included.

    Examples:
        >>> import quickstudy as qs
        >>> random_state(qs.MAML(qs.nets.MLP(4, 3))).equal(torch.get_rng_state())
        True
    """
    device, state = reference_tensor(learner).device, torch.get_rng_state()
    return (
        torch.cat([state, torch.cuda.get_rng_state(device)]) if device.type == "cuda" else state
    )


def reference_tensor(learner: Learner[Any]) -> Tensor:
    """Return a tensor with the dtype and the device that the learner computes in.

    Examples:
        >>> import quickstudy as qs
        >>> reference_tensor(qs.MAML(qs.nets.MLP(4, 3)).double()).dtype
        torch.float64
    """
    return next(
        (p for p in learner.parameters() if p.is_floating_point()),
        torch.zeros((), dtype=torch.float64),
    )


def point_prediction(prediction: Any) -> Tensor:
    """Return the prediction, or the mean of a predicted distribution.

    Examples:
        >>> point_prediction(torch.distributions.Normal(torch.zeros(2), 1.0)).tolist()
        [0.0, 0.0]
    """
    return prediction if isinstance(prediction, Tensor) else prediction.mean
