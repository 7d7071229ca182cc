"""What every test may use."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests neither read nor write the cache of whoever runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Tests are of tiny tensors: threads that wait for each other on a busy machine make them
    ten times slower."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seed() -> None:
    """Every test starts from the same random state."""
    torch.manual_seed(0)


@pytest.fixture
def real_data(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of published data sets, which data sets are then read from."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("QUICKSTUDY_DATA", beside))
    if not folder.is_dir():
        pytest.skip("no published data: set QUICKSTUDY_DATA to a folder that has some")
    monkeypatch.setenv("QUICKSTUDY_DATA", str(folder))
    return folder


@pytest.fixture
def double() -> Iterator[None]:
    """Tensors are float64, so that two ways to compute a thing can be compared."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)
