"""A learner whose parameters have become NaN predicts NaN, and no class."""

import pytest
import torch
from torch import Tensor

import quickstudy as qs
from tests.faults.test_small_weights_in_learners import NAMES
from tests.zoo import ZOO


@pytest.mark.parametrize("place", ["parameters", "support", "query"])
@pytest.mark.parametrize("name", NAMES)
def test_predictions_are_nan(name: str, place: str):
    entry = ZOO[name]
    task = entry.tasks.sample(1, torch.Generator().manual_seed(0))
    support, query = (qs.Examples(*(leaf[0] for leaf in part)) for part in task)
    learner = entry.learner().eval()
    if place == "parameters":
        for p in learner.parameters():
            p.data.fill_(torch.nan)
    elif not support.x.is_floating_point():
        pytest.skip("words have no NaN")
    nan = torch.full_like(support.x, torch.nan) if place == "support" else support.x
    x = torch.full_like(query.x, torch.nan) if place == "query" else query.x
    with torch.no_grad():
        prediction = learner.predict(learner.adapt(support._replace(x=nan)), x)
    rows = prediction if isinstance(prediction, Tensor) else torch.cat(list(prediction), -1)
    assert rows.isnan().any(-1).all()
