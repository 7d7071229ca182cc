"""First-order MAML on the letters that come with quickstudy, in a minute on two cores.

The scripts are those of `glyphs_protonet`, the letters unturned. Three inner steps in training
and five at test, on ten letters with one example each; tested with five examples too, which it
was not trained for. A strided Conv4-32 that always normalises by the batch at hand, as MAML's
published results do: predictions are transductive. Made for this library: no paper has numbers
for it.
"""

import torch

import quickstudy as qs
from quickstudy.runs.recipes import Benchmark, Experiment


def recipe(
    *,
    shots: int = 1,
    queries: int = 5,
    steps: int = 1_000,
    meta_batch_size: int = 2,
    inner_lr: float = 0.1,
    inner_steps: int = 3,
    lr: float = 3e-3,
    channels: int = 32,
    seed: int = 0,
) -> Experiment:
    """Return the experiment.

    Args:
        shots: support examples per class.
        queries: queries per class in training.
        steps: meta-training steps.
        meta_batch_size: tasks per meta-training step.
        inner_lr: learning rate of inner steps.
        inner_steps: inner steps in training (five at test).
        lr: learning rate of Adam at the start.
        channels: channels of each convolution.
        seed: seed of initial parameters and training tasks.
    """
    data = qs.datasets.glyphs()
    net = qs.nets.use_batch_statistics(qs.nets.Conv4(10, channels=channels, pool="stride"))
    learner = qs.fomaml(net, lr=inner_lr, steps=inner_steps)
    optimizer = torch.optim.Adam(learner.parameters(), lr)

    def test(shots: int) -> Benchmark:
        return Benchmark(qs.FewShot(data.test, 10, shots, 5), {"steps": 5}, meta_batch_size=20)

    return Experiment(
        learner,
        qs.FewShot(data.train, 10, shots, queries),
        qs.FewShot(data.validation, 10, 1, 5),
        {f"10-way {shots}-shot": test(shots) for shots in (1, 5)},
        optimizer,
        steps,
        meta_batch_size,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, 1e-5),
        validate_every=100,
        n_validation_tasks=100,
    )
