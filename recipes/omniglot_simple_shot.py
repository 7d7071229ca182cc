"""One classifier of Omniglot, for SimpleShot (Wang, Chao, Weinberger & van der Maaten, 2019),
Baseline (Chen, Liu, Kira, Wang & Huang, 2019) and TIM (Boudiaf et al., 2020).

No episodes in training: a Conv4-64 with max-pooling and a linear head learn to tell apart all
4112 training classes, 1028 characters of Vinyals' class lists in four rotations. Each row of
the result is another use of that embedding on the test characters, whose rotations are classes,
too. SimpleShot with CL2N chooses the checkpoint. Inductive, by running statistics, but for TIM:
it predicts queries together, and has as many of each class.

No paper has numbers for this. Differs from SimpleShot, which was trained on photographs for 90
epochs of SGD in batches of 256: the default here is what one CPU core does in twelve minutes,
8,000 steps of Adam on batches of 128 (12 epochs), with the rate falling by a cosine. TIM takes
100 steps of 1e-3, where its paper takes 1,000 of 1e-4.
"""

from typing import Any

import torch
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.runs.recipes import Benchmark, Experiment

PAPER = {}


class Shared(qs.Learner[Any]):
    """Learners with one embedding and one head, which the loss of the first trains; `by`
    names the one that adapts and predicts."""

    def __init__(self, **learners: qs.Learner[Any]):
        super().__init__()
        self.learners = nn.ModuleDict(learners)
        self.first = self.by = next(iter(learners))

    def adapt(self, support: qs.Examples, state: Any = None) -> Any:
        return self._of(self.by).adapt(support, state)

    def predict(self, state: Any, x: Tensor) -> Tensor:
        return self._of(self.by).predict(state, x)

    def loss(self, task: qs.Task[qs.Examples]) -> Tensor:
        return self._of(self.first).loss(task)

    def _of(self, name: str) -> qs.Learner[Any]:
        learner = self.learners[name]
        assert isinstance(learner, qs.Learner)
        return learner


def recipe(
    *,
    steps: int = 8_000,
    examples: int = 128,
    lr: float = 3e-3,
    bfloat16: bool = True,
    seed: int = 0,
) -> Experiment:
    """Return the experiment.

    Args:
        steps: training steps.
        examples: images per training step.
        lr: learning rate of Adam at the start.
        bfloat16: train with the forward pass in bfloat16.
        seed: seed of initial parameters and training tasks.
    """
    data = qs.datasets.omniglot(convention="vinyals")
    train = qs.tasks.Classification(data.train, examples, rotations="classes")
    embed = qs.nets.Conv4()
    head = nn.Linear(embed.width, train.classes)
    learner = Shared(
        CL2N=qs.SimpleShot(embed, head),
        L2N=qs.SimpleShot(embed, head, transform="L2N"),
        UN=qs.SimpleShot(embed, head, transform="UN"),
        Baseline=qs.Baseline(embed, head),
        TIM=qs.TIM(embed, head, lr=1e-3, steps=100),
    )
    learner.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    learner.execution = "loop"  # one large batch a step: nothing to batch over
    optimizer = torch.optim.Adam(learner.parameters(), lr)

    def test(shots: int, by: str) -> Benchmark:
        tasks = qs.FewShot(data.test, 5, shots, 15, rotations="classes")
        return Benchmark(tasks, {"by": by}, n_tasks=1000)

    names = {"UN": "SimpleShot UN", "L2N": "SimpleShot L2N", "CL2N": "SimpleShot CL2N"}
    return Experiment(
        learner,
        train,
        qs.FewShot(data.validation, 20, 1, 5, rotations="classes"),
        {
            f"5-way {shots}-shot, {names.get(by, by)}": test(shots, by)
            for shots in (1, 5)
            for by in ("UN", "L2N", "CL2N", "Baseline", "TIM")
        },
        optimizer,
        steps,
        meta_batch_size=1,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, 1e-5),
        precision=torch.bfloat16 if bfloat16 else None,
        validate_every=max(1, steps // 15),
        n_validation_tasks=200,
    )
