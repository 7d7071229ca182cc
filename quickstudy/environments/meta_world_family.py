"""Meta-World's benchmarks of a robot arm (Yu et al., 2019, arXiv:1910.10897), version 3."""

from functools import partial
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from quickstudy.environments.gymnasium_family import GymnasiumFamily


def meta_world(
    name: str,
    *,
    split: Literal["train", "test"] = "train",
    horizon: int = 500,
    seed: int = 0,
    workers: int | None = None,
) -> GymnasiumFamily:
    """Return the tasks of a benchmark as a family.

    A task is a number (), an index into the benchmark's list, which has 50 goals for each
    skill. Goals are not observed. `Episodes.info` has "success", so `success_rate` is a metric
    of `evaluate_rollouts`.

    A step takes about a millisecond. Every episode that runs at the same time takes 20 MB and a
    third of a second, until the workers stop.

    Args:
        name: "ML10", "ML25", "ML45", or a skill, such as "reach-v3", for its benchmark ML1.
        split: goals of training or of testing, without overlap; from ML10 on, the skills
            differ too.
        horizon: H, at most 500.
        seed: seed of the goals.
        workers: see `GymnasiumFamily`.

    Raises:
        ImportError: Meta-World is not installed.
        ValueError: it has no such benchmark.

    Examples:
        >>> import quickstudy as qs
        >>> family = qs.environments.meta_world("reach-v3")  # doctest: +SKIP
        >>> family.discrete, family.horizon  # doctest: +SKIP
        (False, 500)
    """
    try:
        import metaworld  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("Install Meta-World: pip install 'quickstudy[rl]'.") from error
    if name in metaworld.ML1.ENV_NAMES:
        benchmark: Any = metaworld.ML1(name, seed=seed)
    elif name in ("ML10", "ML25", "ML45"):
        benchmark = getattr(metaworld, name)(seed=seed)
    else:
        raise ValueError(
            f"Meta-World has no {name!r}: say ML10, ML25, ML45 or one of "
            f"{', '.join(metaworld.ML1.ENV_NAMES)}."
        )
    classes = getattr(benchmark, f"{split}_classes")
    listed = getattr(benchmark, f"{split}_tasks")

    def tasks(size: int, generator: Generator) -> Tensor:
        return torch.randint(len(listed), (size,), generator=generator, device=generator.device)

    return GymnasiumFamily(
        partial(_Arm, classes, listed),
        tasks,
        horizon=horizon,
        set_task=_Arm.set_task,
        info=["success"],
        workers=workers,
    )


class _Arm:
    """Meta-World's environment of a task; it is replaced when the skill changes."""

    def __init__(self, classes: Any, tasks: Any):
        self.classes, self.tasks = classes, tasks
        self.env: Any = None
        self.set_task(0)

    def set_task(self, number: int) -> None:
        task = self.tasks[number]
        kind = self.classes[task.env_name]
        if type(self.env) is not kind:
            self.close()
            self.env = kind()
        self.env.set_task(task)
        self.observation_space = self.env.observation_space
        self.action_space = self.env.action_space

    def reset(self, *, seed: int) -> Any:
        return self.env.reset(seed=seed)

    def step(self, action: Any) -> Any:
        return self.env.step(action)

    def close(self) -> None:
        if self.env is not None:
            self.env.close()
