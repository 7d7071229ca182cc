"""How long the units of a GRU remember at first."""

import torch
from torch import nn

import quickstudy as qs
from quickstudy.environments import BernoulliBandit
from quickstudy.nets import chrono_init


def lifetimes(gru: nn.GRU) -> torch.Tensor:
    """The steps after which a unit's state has decayed by e, measured: no input, no new
    content, so that a state h becomes z h."""
    with torch.no_grad():
        for name, weight in gru.named_parameters():
            if name.startswith("weight"):
                weight.zero_()
        size = gru.hidden_size
        gru.get_parameter("bias_ih_l0")[2 * size :] = 0  # the candidate is tanh(0)
        gru.get_parameter("bias_hh_l0")[2 * size :] = 0
        _, state = gru(torch.zeros(1, gru.input_size), torch.ones(1, size))
    return -1 / state[0].log()


def test_the_longest_memory_is_the_timescale_and_others_are_shorter():
    torch.manual_seed(0)
    gru = nn.GRU(3, 2000)
    chrono_init(gru, 50)
    steps = lifetimes(gru)
    assert 45 < steps.max() < 50.5 and steps.min() < 3
    # 1 / (1 - z) is uniform in [2, 50]
    assert abs((steps + 0.5).mean() - 26) < 1
    short = nn.GRU(3, 2000)
    assert lifetimes(short).max() < 4  # PyTorch's own


def test_the_learners_timescale_is_that_of_their_gru():
    for make in (qs.RL2, qs.learners.policies.VariBAD):
        torch.manual_seed(0)
        assert lifetimes(make(BernoulliBandit(), hidden=500, timescale=100).memory).max() > 80
        assert lifetimes(make(BernoulliBandit(), hidden=500).memory).max() < 4
