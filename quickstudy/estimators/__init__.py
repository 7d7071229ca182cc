"""Learners as scikit-learn estimators.

`adapted_model` is what they share with `quickstudy predict`: it needs no scikit-learn, which is
slow to import. Therefore names here are loaded on first use; `__init__.pyi` lists them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
