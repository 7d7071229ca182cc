"""Learners, one package per family and one file per learner."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "amortised",
        "gradient",
        "heads",
        "lifelong",
        "memory",
        "metric",
        "policies",
        "transfer",
    ],
)
