"""Prototypical networks, trained and evaluated, against the usual way.

The usual way is that of libraries such as EasyFSL: a map-style data set of single images, a
sampler of the images of one episode, a DataLoader that puts them together, a net with channels
first that embeds the support set and then the query set, and a loop over episodes. (EasyFSL
itself needs torchvision, so its way is written out here.) Images are random pixels of 28 x 28,
in memory, as many as Omniglot's; one thread.

Training: a step is an episode of 60 ways, 5 shots and 5 queries, the gradient and Adam's
update; drawing counts. Evaluation: 10,000 episodes of 5 ways, 1 shot and 15 queries; drawing
counts. From cached embeddings all of them are done, and embedding the 8,460 images counts too;
of the other ways some hundreds are done, and their time is multiplied. That the loop and the
cache find the same accuracies is checked on episodes that both are given. Times are of the
process, which other work on the machine disturbs least; ways take turns.
"""

import argparse
import copy
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Sampler

from benchmarks.common import write
from quickstudy import FewShot, PrototypicalNetwork, batches, evaluate, train
from quickstudy.core.tree import unstack
from quickstudy.datasets import Labelled
from quickstudy.evaluation import embed_once
from quickstudy.nets.backbones import Conv4
from quickstudy.tasks import Fixed

Shape = tuple[int, int, int]  # ways, shots, queries
Episode = tuple[Tensor, Tensor, Tensor, Tensor]  # support x and y, query x and y
TRAINING: Shape = (60, 5, 5)
TEST: Shape = (5, 1, 15)
BLOCK = 4  # steps of training at a time
COUNT = 10_000  # episodes of an evaluation


class Images(Dataset[tuple[Tensor, int]]):
    def __init__(self, data: Labelled):
        self.x, self.y = data.x, data.y.tolist()

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.x[index].float() / 255, self.y[index]


class EpisodeSampler(Sampler[list[int]]):
    """The images of an episode, class by class."""

    def __init__(self, labels: list[int], shape: Shape, episodes: int):
        self.shape, self.episodes = shape, episodes
        self.members: dict[int, list[int]] = {}
        for index, label in enumerate(labels):
            self.members.setdefault(label, []).append(index)

    def __len__(self) -> int:
        return self.episodes

    def __iter__(self) -> Iterator[list[int]]:
        ways, shots, queries = self.shape
        for _ in range(self.episodes):
            classes = random.sample(list(self.members), ways)
            yield [i for c in classes for i in random.sample(self.members[c], shots + queries)]


def collate(shape: Shape, items: list[tuple[Tensor, int]]) -> Episode:
    ways, shots, _ = shape
    x = torch.stack([image for image, _ in items]).unflatten(0, (ways, -1))
    names = list(dict.fromkeys(label for _, label in items))
    y = torch.tensor([names.index(label) for _, label in items]).unflatten(0, (ways, -1))
    parts = x[:, :shots], y[:, :shots], x[:, shots:], y[:, shots:]
    return tuple(part.flatten(0, 1) for part in parts)  # pyright: ignore[reportReturnType]


def loader(data: Labelled, shape: Shape, episodes: int) -> DataLoader[Any]:
    images = Images(data)
    sampler = EpisodeSampler(images.y, shape, episodes)
    return DataLoader(images, batch_sampler=sampler, collate_fn=partial(collate, shape))


def usual_net() -> nn.Sequential:
    """As papers draw it: convolution, normalisation, ReLU and pooling, four times."""
    layers: list[nn.Module] = []
    for entering in (1, 64, 64, 64):
        layers += [nn.Conv2d(entering, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten())


def scores(net: nn.Module, episode: Episode) -> Tensor:
    x, y, query_x, _ = episode
    support = net(x)
    means = torch.stack([support[y == label].mean(0) for label in range(int(y.max()) + 1)])
    return -torch.cdist(net(query_x), means).square()


def usual_steps(net: nn.Module, optimizer: torch.optim.Optimizer, data: Labelled) -> None:
    for episode in loader(data, TRAINING, BLOCK):
        optimizer.zero_grad()
        F.cross_entropy(scores(net, episode), episode[3]).backward()
        optimizer.step()


def our_steps(
    learner: PrototypicalNetwork,
    optimizer: torch.optim.Optimizer,
    tasks: FewShot,
    precision: torch.dtype | None = None,
) -> None:
    for _ in train(
        learner, tasks, optimizer, steps=BLOCK, meta_batch_size=1, precision=precision
    ):
        pass


def ours() -> PrototypicalNetwork:
    """As the recipes train it: one large episode at a time."""
    learner = PrototypicalNetwork(Conv4())
    learner.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    learner.execution = "loop"
    return learner


def training(data: Labelled, blocks: int) -> list[dict[str, Any]]:
    """Milliseconds of a step, by each way."""
    tasks, net = FewShot(data, *TRAINING), usual_net()
    work: dict[str, Callable[[], None]] = {
        "loader and loop": partial(usual_steps, net, torch.optim.Adam(net.parameters()), data)
    }
    for name, precision in (("quickstudy", None), ("quickstudy, bfloat16", torch.bfloat16)):
        learner = ours()
        optimizer = torch.optim.Adam(learner.parameters())
        work[name] = partial(our_steps, learner, optimizer, tasks, precision)
    spent: dict[str, list[float]] = {name: [] for name in work}
    for block in range(blocks + 1):
        for name, steps in work.items():
            seconds = busy(steps)
            if block > 0:  # the first is to warm up
                spent[name].append(seconds / BLOCK)
    usual, *_ = (statistics.median(times) for times in spent.values())
    return [
        {
            "what": "a step, 60-way 5-shot 5-query",
            "way": name,
            "seconds": round(statistics.median(times), 3),
            "x usual": round(usual / statistics.median(times), 2),
        }
        for name, times in spent.items()
    ]


def usual_evaluation(net: nn.Module, episodes: DataLoader[Any]) -> float:
    """The accuracy."""
    right, total = 0, 0
    with torch.no_grad():
        for episode in episodes:
            right += int((scores(net, episode).argmax(1) == episode[3]).sum())
            total += len(episode[3])
    return right / total


def cached(learner: PrototypicalNetwork, tasks: FewShot, count: int) -> None:
    head, embedded = embed_once(learner, tasks)
    evaluate(head, embedded, n_tasks=count)


def evaluation(data: Labelled, few: int) -> list[dict[str, Any]]:
    """Seconds of 10,000 episodes, by each way; all but the cached one do `few`."""
    learner, net, tasks = ours().eval(), usual_net().eval(), FewShot(data, *TEST)
    episodes = loader(data, TEST, few)
    work: dict[str, tuple[int, Callable[[], Any]]] = {
        "loader and loop": (few, lambda: usual_evaluation(net, episodes)),
        "evaluate": (few, lambda: evaluate(learner, tasks, n_tasks=few)),
        "embed_once, evaluate": (COUNT, lambda: cached(learner, tasks, COUNT)),
    }
    spent = {name: COUNT / count * busy(do) for name, (count, do) in work.items()}
    return [
        {
            "what": "10,000 episodes, 5-way 1-shot 15-query",
            "way": name,
            "seconds": round(seconds, 1),
            "x usual": round(spent["loader and loop"] / seconds, 1),
        }
        for name, seconds in spent.items()
    ]


def difference(data: Labelled, count: int = 50) -> float:
    """The largest between accuracies of an episode: by the usual loop, and from the cache."""
    learner, tasks = ours(), FewShot(data, *TEST)
    with torch.no_grad():
        for x in islice(tasks.inputs(100), 10):  # in training mode: statistics of images
            learner.embed(x)
    net = copy.deepcopy(learner.eval().embed)
    head, embedded = embed_once(learner, tasks)
    (drawn,), (known,) = (batches(each, count, steps=1) for each in (tasks, embedded))
    mine = evaluate(head, Fixed(known), n_tasks=count, meta_batch_size=count).values["accuracy"]
    theirs: list[Tensor] = []
    with torch.no_grad():
        for support, query in unstack(drawn):
            labels, answers = support.y.argmax(1), query.y.argmax(1)
            guess = scores(net, (support.x, labels, query.x, answers)).argmax(1)
            theirs.append((guess == answers).double().mean())
    return (mine - torch.stack(theirs)).abs().max().item()


def busy(work: Callable[[], Any]) -> float:
    """Seconds of the processor."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def pictures(classes: int) -> Labelled:
    x = torch.randint(0, 256, (classes * 20, 1, 28, 28), dtype=torch.uint8)
    y = torch.arange(classes).repeat_interleave(20)
    return Labelled(x, y, tuple(map(str, range(classes))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--blocks", type=int, default=5, help="of 4 training steps each")
    parser.add_argument("--episodes", type=int, default=300, help="that are not cached")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    random.seed(0)
    background, test = pictures(964), pictures(423)
    apart = difference(test)  # first: it warms up, too
    rows = training(background, options.blocks) + evaluation(test, options.episodes)
    more = {
        "goals": {"quickstudy": 1.5, "embed_once, evaluate": 30},
        "largest difference of an accuracy": apart,
        "load": round(os.getloadavg()[0], 1),
    }
    title = "Prototypical networks, Conv4-64 on 28x28 pixels, one thread"
    write("metric", title, rows, options.out, **more)


if __name__ == "__main__":
    main()
