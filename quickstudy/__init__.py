"""quickstudy: learning to learn, on PyTorch.

Names are loaded on first use: `__init__.pyi` lists them, for people, type checkers and editors.
"""

import lazy_loader

__version__ = "0.2.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
