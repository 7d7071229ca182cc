"""R2-D2 on Omniglot (Bertinetto, Henriques, Torr & Vedaldi, 2019, section 4).

The authors' protocol where their code states it: 60-way episodes of classes in four rotations,
Conv4-64, no dropout, λ from 50, α from 10, Adam; the class lists and the rest as in
`omniglot_protonet`. Inductive: at test, images are normalised by running statistics. No number
of the paper is at hand that could be checked, so none is compared.

Differs: every training episode has one shot and five queries, where theirs have ten images of
each class, a random number of them shots; the learning rate starts at 2e-3, not 5e-3, and falls
by a cosine over `steps`, where theirs is halved every 2,000 episodes until validation stops it;
β has no effect, as a softmax follows. The default is what one CPU core does in about twelve
minutes, 4,000 episodes of their 120,000 at most. The forward pass is in bfloat16, except the
regression.
"""

import torch

import quickstudy as qs
from quickstudy.runs.recipes import Benchmark, Experiment

PAPER = {}


def recipe(
    *,
    ways: int = 60,
    shots: int = 1,
    queries: int = 5,
    steps: int = 4_000,
    meta_batch_size: int = 1,
    lr: float = 2e-3,
    penalty: float = 50.0,
    scale: float = 10.0,
    bfloat16: bool = True,
    seed: int = 0,
) -> Experiment:
    data = qs.datasets.omniglot(convention="vinyals")
    learner = qs.R2D2(qs.nets.Conv4(), penalty=penalty, scale=scale)
    learner.execution = "loop"  # one large episode a step: nothing to batch over
    optimizer = torch.optim.Adam(learner.parameters(), lr)

    def test(ways: int, shots: int) -> Benchmark:
        tasks = qs.FewShot(data.test, ways, shots, 15, rotations="classes")
        return Benchmark(tasks, n_tasks=1000, meta_batch_size=10)

    return Experiment(
        learner,
        qs.FewShot(data.train, ways, shots, queries, rotations="classes"),
        qs.FewShot(data.validation, 20, 1, 5, rotations="classes"),
        {f"{n}-way {k}-shot": test(n, k) for n in (5, 20) for k in (1, 5)},
        optimizer,
        steps,
        meta_batch_size,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, 1e-5),
        precision=torch.bfloat16 if bfloat16 else None,
        validate_every=max(1, steps // 15),
        n_validation_tasks=200,
    )
