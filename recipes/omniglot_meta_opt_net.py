"""MetaOptNet on Omniglot, a support vector machine as the base learner (Lee et al., 2019).

The paper has no result on Omniglot. Its settings of meta-training, where they carry over: 8
tasks of 5 ways a step, 5 shots (as on CIFAR-FS) for tests of any number of shots, 6 queries of
each class, C of 0.1. Data as in `omniglot_protonet`: the class lists 1028 / 172 / 423
with every class in four rotations, and Conv4-64 instead of a ResNet-12. Inductive: at test,
images are normalised by running statistics.

Differs: Adam with a rate that falls by a cosine, not SGD, and γ starts at 10, not 1, from where
Adam at this rate would take long to move it; labels are not smoothed, and nothing is augmented
or dropped. The default is what one CPU core does in about twelve minutes, 2,000 steps of the
paper's 60,000. The forward pass is in bfloat16, except the support vector machine.
"""

import torch

import quickstudy as qs
from quickstudy.runs.recipes import Benchmark, Experiment

PAPER = {}


def recipe(
    *,
    ways: int = 5,
    shots: int = 5,
    queries: int = 6,
    steps: int = 2_000,
    meta_batch_size: int = 8,
    lr: float = 2e-3,
    scale: float = 10.0,
    bfloat16: bool = True,
    seed: int = 0,
) -> Experiment:
    data = qs.datasets.omniglot(convention="vinyals")
    learner = qs.MetaOptNet(qs.nets.Conv4(), scale=scale)
    learner.execution = "loop"  # under vmap, convolutions would not be cast to bfloat16
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
