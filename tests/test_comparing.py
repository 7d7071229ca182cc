"""Pictures of how a learner compares: true to its embeddings, and only where it has some."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import nn

from quickstudy import MAML, FewShot, PrototypicalNetwork, RidgeRegression, datasets
from quickstudy.core.task import batches
from quickstudy.estimators.error_rates import equal_error_rate
from quickstudy.evaluation.pairwise import similarities
from quickstudy.nets.backbones import MLP
from quickstudy.reports.embedding import draw_embedding, plane
from quickstudy.reports.write import write
from quickstudy.runs import Benchmark as Row
from quickstudy.tasks import GaussianProcess
from quickstudy.testing.learners import Blobs
from tests.test_report import IMAGES, Page, carry_out


def test_the_plane_is_that_of_principal_components():
    x = torch.randn(20, 5) * torch.tensor([1.0, 5, 2, 1, 3]) + 7
    (first, second), share = plane(x[:8], x[8:])
    pca = PCA(2).fit(x.numpy())
    want = pca.transform(x.numpy())
    found = torch.cat([first, second]).numpy()
    np.testing.assert_allclose(np.abs(found), np.abs(want), rtol=1e-3, atol=1e-3)
    assert share == pytest.approx(pca.explained_variance_ratio_.sum(), rel=1e-4)
    (line,), share = plane(torch.tensor([[1.0], [3.0]]))
    assert line.abs().tolist() == [[1, 0], [1, 0]]
    assert share == 1
    assert plane(torch.ones(3, 2))[1] == 0


def test_images_have_a_map_a_curve_and_neighbours():
    learner = PrototypicalNetwork(nn.Sequential(nn.Flatten(), nn.Linear(64, 8)))
    test = Row(FewShot(datasets.digits(), (3, 4), 2, 4), meta_batch_size=3)
    html = draw_embedding(learner, test)
    Page(html)
    for caption in ("map of an episode", "errors of verification"):
        assert html.count(f'alt="{caption}"') == 1

    batch = next(iter(batches(test.tasks, 3, steps=1, seed=1)))
    scores, same, right = [], [], []
    for i in range(3):
        s, q = (
            [leaf[i][part.weight[i] > 0] for leaf in part]
            for part in (batch.support, batch.query)
        )
        with torch.no_grad():
            alike = similarities(learner, q[0], s[0])
        of_one = q[1] @ s[1].T > 0
        scores += alike.flatten().tolist()
        same += of_one.flatten().tolist()
        right.append([bool(of_one[j, alike[j].argmax()]) for j in range(len(q[0]))])
    assert f"the equal error rate is {equal_error_rate(scores, same):.1%}" in html
    shown = html.count("<figcaption>nearest")
    assert shown == 12
    assert html.count('class="right"') + html.count('class="wrong"') == shown
    marks = html.split("<figcaption>nearest: <i>")[1:]
    first = [mark[0] == "✓" for mark in marks]
    assert sum(first) == html.count('class="right"')
    if len(right[0]) == 12:
        assert sum(first) == sum(right[0])
    assert learner.training


def test_vectors_have_no_neighbours_to_look_at():
    html = draw_embedding(PrototypicalNetwork(nn.Linear(8, 3)), Row(Blobs(), meta_batch_size=2))
    Page(html)
    assert "map of an episode" in html
    assert "Nearest" not in html


def test_many_classes_have_a_colour_each():
    html = draw_embedding(
        PrototypicalNetwork(nn.Linear(8, 3)), Row(Blobs(ways=12), meta_batch_size=1)
    )
    assert "map of an episode" in html


def test_nothing_where_nothing_is_compared():
    assert draw_embedding(MAML(MLP(8, 3)), Row(Blobs(), meta_batch_size=2)) == ""
    assert (
        draw_embedding(
            RidgeRegression(nn.Linear(1, 4)), Row(GaussianProcess(), meta_batch_size=2)
        )
        == ""
    )


def test_a_report_has_the_pictures(tmp_path: Path):
    html = write(carry_out(IMAGES, tmp_path)).read_text(encoding="utf-8")
    Page(html)
    part = html[html.index("Embedding") : html.index("Learning curves")]
    assert "the equal error rate is 0.0%" in part  # examples of a class are equal
