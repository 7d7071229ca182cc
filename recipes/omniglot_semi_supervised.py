"""Semi-supervised prototypical networks on Omniglot (Ren et al., 2018).

As in the paper, a support set has five examples without a label of each of its classes, and, if
there are `distractors`, as many of each of these further classes. The rest is as in
`omniglot_metric`: the class lists 1028 / 172 / 423 with every class in four rotations,
Conv4-64 with max-pooling, ten queries of a class at test, images normalised by running
statistics (inductive in the queries). The last row is the same net without such examples.

No number of the paper is at hand that could be checked, so none is compared. Differs: there a
tenth of the images of a class ever have a label; one net is trained on 20-way episodes; the
learning rate falls by a cosine; the forward pass is in bfloat16. The default is what one CPU
core does in about twelve minutes.
"""

import torch

import quickstudy as qs
from quickstudy.runs.recipes import Benchmark, Experiment

RESULT = "omniglot_semi_supervised_{distractors}"
PAPER = {}


def recipe(
    *,
    ways: int = 20,
    shots: int = 1,
    queries: int = 5,
    unlabelled: int = 5,
    distractors: int = 0,
    steps: int = 4_000,
    meta_batch_size: int = 1,
    lr: float = 1e-3,
    bfloat16: bool = True,
    seed: int = 0,
) -> Experiment:
    """Return the experiment.

    Args:
        ways: classes per training task.
        shots: support examples per class.
        queries: queries per class in training.
        unlabelled: unlabelled examples per class.
        distractors: further classes with unlabelled examples only.
        steps: meta-training steps.
        meta_batch_size: tasks per meta-training step.
        lr: learning rate of Adam at the start.
        bfloat16: train with the forward pass in bfloat16.
        seed: seed of initial parameters and training tasks.
    """
    data = qs.datasets.omniglot(convention="vinyals")
    learner = qs.SemiSupervisedPrototypicalNetwork(qs.nets.Conv4(), distractors=distractors > 0)
    learner.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    learner.execution = "loop"  # one large episode a step: nothing to batch over
    optimizer = torch.optim.Adam(learner.parameters(), lr)

    def tasks(
        part: qs.datasets.Labelled, ways: int, queries: int, *, more: bool = True
    ) -> qs.FewShot:
        return qs.FewShot(
            part,
            ways,
            shots,
            queries,
            unlabelled=unlabelled if more else 0,
            distractors=distractors if more else 0,
            rotations="classes",
        )

    return Experiment(
        learner,
        tasks(data.train, ways, queries),
        tasks(data.validation, 5, 5),
        {
            f"5-way {shots}-shot": Benchmark(tasks(data.test, 5, 10), n_tasks=1000),
            f"5-way {shots}-shot, all labelled": Benchmark(
                tasks(data.test, 5, 10, more=False), n_tasks=1000
            ),
        },
        optimizer,
        steps,
        meta_batch_size,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, 1e-5),
        precision=torch.bfloat16 if bfloat16 else None,
        validate_every=max(1, steps // 15),
        n_validation_tasks=200,
    )
