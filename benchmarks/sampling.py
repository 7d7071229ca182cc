"""Episodes per second of `FewShot`, against a Dataset with an episode sampler.

Omniglot-sized data (964 classes of 20 images of 28x28 bytes, random pixels), 5-way 1-shot with
15 queries. The rival is the usual way: a map-style dataset of single images, a batch sampler
that picks the images of one episode, a DataLoader (in the same process) and the relabelling.
It runs twice: with a dataset that opens an image file at each access, as torchvision's Omniglot
does, and with one that holds all images in memory. All give float images in [0, 1] and labels.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from benchmarks.common import write
from quickstudy import FewShot, batches
from quickstudy.datasets import Labelled

WAYS, SHOTS, QUERIES = 5, 1, 15


class Images(Dataset[tuple[Tensor, int]]):
    def __init__(self, data: Labelled):
        self.x, self.y = data.x, data.y.tolist()

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.x[index].float() / 255, self.y[index]


class Files(Dataset[tuple[Tensor, int]]):
    """As `Images`, each image a PNG file."""

    def __init__(self, data: Labelled, folder: Path):
        self.y = data.y.tolist()
        self.paths = [folder / f"{i}.png" for i in range(len(self.y))]
        for path, pixels in zip(self.paths, data.x[:, 0].numpy(), strict=True):
            Image.fromarray(pixels).save(path)

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        with Image.open(self.paths[index]) as image:
            pixels = np.array(image.convert("L"))
        return torch.from_numpy(pixels)[None].float() / 255, self.y[index]


class EpisodeSampler(Sampler[list[int]]):
    def __init__(self, labels: Tensor, episodes: int):
        self.members = [torch.nonzero(labels == c).flatten() for c in labels.unique()]
        self.episodes = episodes

    def __len__(self) -> int:
        return self.episodes

    def __iter__(self) -> Iterator[list[int]]:
        for _ in range(self.episodes):
            classes = torch.randperm(len(self.members))[:WAYS]
            picks = [
                m[torch.randperm(len(m))[: SHOTS + QUERIES]]
                for m in (self.members[c] for c in classes)
            ]
            yield torch.cat(picks).tolist()


def by_loader(images: Images | Files, labels: Tensor, episodes: int) -> None:
    loader = DataLoader(images, batch_sampler=EpisodeSampler(labels, episodes))
    for x, y in loader:
        x = x.reshape(WAYS, SHOTS + QUERIES, *x.shape[1:])
        y = y.reshape(WAYS, -1)[:, :1].argsort(0).argsort(0).expand(-1, SHOTS + QUERIES)
        _ = x[:, :SHOTS], x[:, SHOTS:], y[:, :SHOTS], y[:, SHOTS:]


def by_few_shot(data: Labelled, episodes: int) -> None:
    for _ in batches(FewShot(data, WAYS, SHOTS, QUERIES), 32, steps=episodes // 32):
        pass


def seconds(work: Callable[[], None]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.manual_seed(0)
    x = torch.randint(0, 256, (964 * 20, 1, 28, 28), dtype=torch.uint8)
    y = torch.arange(964).repeat_interleave(20)
    data = Labelled(x, y, tuple(map(str, range(964))))
    with TemporaryDirectory() as folder:
        files, images = Files(data, Path(folder)), Images(data)
        few, many = 64, 3200
        times: dict[str, list[float]] = {}
        for _ in range(options.repeats):  # interleaved, so that all meet the same load
            for way, work, episodes in (
                ("Dataset of files", lambda: by_loader(files, y, few), few),
                ("Dataset in memory", lambda: by_loader(images, y, few), few),
                ("FewShot", lambda: by_few_shot(data, many), many),
            ):
                times.setdefault(way, []).append(seconds(work) / episodes)
    median = {way: statistics.median(spent) for way, spent in times.items()}
    rows = [
        {
            "way": way,
            "episodes per second": round(1 / spent, 1),
            "FewShot is faster by": round(spent / median["FewShot"], 1),
        }
        for way, spent in median.items()
    ]
    write("sampling", "5-way 1-shot 15-query episodes of 28x28 images", rows, options.out)


if __name__ == "__main__":
    main()
