import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch

from quickstudy.datasets import Labelled, glyphs

module = sys.modules["quickstudy.datasets.glyphs"]


def test_every_letter_has_twenty_drawings_and_its_script():
    splits = glyphs()
    for part, least in zip(splits, (800, 100, 200), strict=True):
        assert len(part.classes) >= least
        assert (part.y.bincount(minlength=len(part.classes)) == 20).all()
        assert part.x.shape[1:] == (1, 28, 28)
        assert part.groups is not None
        for name, group in zip(part.classes, part.groups, strict=True):
            letter, title = name.split(" ", 1)
            assert unicodedata.name(letter) == title
            assert title.startswith(part.group_names[group])
    scripts = [set(part.group_names) for part in splits]
    assert not scripts[0] & scripts[1] | scripts[0] & scripts[2] | scripts[1] & scripts[2]


def test_letters_that_look_alike_are_there_once():
    splits = glyphs()
    letters = {name[0] for part in splits for name in part.classes}
    assert letters >= set("AKyжΩאגԲᐊბ")
    assert not letters & set("ΑΚОорес")  # Greek and Cyrillic twins of Latin letters
    assert not letters & set("éÅйΆ")  # accents


def test_drawings_have_ink_and_differ():
    for part in glyphs():
        ink = part.x.flatten(1).float().mean(1) / 255
        assert (ink > 0.003).all()
        assert 0.05 < ink.mean() < 0.25
        assert len(part.x.flatten(1).unique(dim=0)) == len(part.x)


def accuracy(data: Labelled) -> float:
    """Of nearest mean: five drawings of each of twenty letters, judged on the others."""
    few = data.select(range(0, len(data.classes), len(data.classes) // 20))
    order = few.y.argsort(stable=True)
    x = few.x[order].flatten(1).float().unflatten(0, (-1, 20))  # (C, 20, 784)
    shown = torch.arange(20) % 4 == 0
    distance = torch.cdist(x[:, ~shown].flatten(0, 1), x[:, shown].mean(1))
    return (
        (distance.argmin(1) == torch.arange(len(x)).repeat_interleave(15)).float().mean().item()
    )


def test_letters_can_be_told_apart_but_not_by_pixels_alone():
    assert all(0.5 < accuracy(part) < 0.9 for part in glyphs())


def test_it_is_drawn_once_and_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(
        module, "SCRIPTS", {"train": ("LAO",), "validation": ("HEBREW",), "test": ("OLD",)}
    )
    draw = module._glyphs.__wrapped__
    first = draw()
    (file,) = tmp_path.rglob("*.npz")
    with monkeypatch.context() as patch:
        patch.setattr(module, "_draw", None)
        assert [part.hash for part in draw()] == [part.hash for part in first]
    file.write_bytes(file.read_bytes()[:1000])  # damaged: drawn again
    assert [part.hash for part in draw()] == [part.hash for part in first]
    assert file.stat().st_size > 1000


def test_without_a_cache_it_warns_and_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(
        module,
        "_draw",
        lambda: {
            "letters": np.array(["A", "Ա", "Ω"]),
            "images": torch.randint(256, (3, 20, 28, 28)).to(torch.uint8).numpy(),
        },
    )
    with pytest.warns(UserWarning, match="Cannot write in .* drawn again next time"):
        assert module._glyphs.__wrapped__().test.classes == ("Ω GREEK CAPITAL LETTER OMEGA",)
