"""Learners that adapt by gradient descent: MAML and its family.

All share `quickstudy.inner_loop.descend` and learn where it starts (`initial_params`), how it
steps (Meta-SGD, Meta-Curvature, MAML++), or how it is differentiated (iMAML, Reptile). A new
file holds one learner: docstring with the equation, state, class, helpers, variants.
"""

from quickstudy.learners.gradient.cavia import CAVIA, ContextInput, FiLM, film_conv4
from quickstudy.learners.gradient.imaml import IMAML
from quickstudy.learners.gradient.maml import MAML, anil, boil, fomaml
from quickstudy.learners.gradient.maml_pp import MAMLPlusPlus
from quickstudy.learners.gradient.meta_curvature import MetaCurvature
from quickstudy.learners.gradient.meta_sgd import MetaSGD
from quickstudy.learners.gradient.proto_maml import ProtoMAML
from quickstudy.learners.gradient.reptile import Reptile

__all__ = [
    "CAVIA",
    "IMAML",
    "MAML",
    "ContextInput",
    "FiLM",
    "MAMLPlusPlus",
    "MetaCurvature",
    "MetaSGD",
    "ProtoMAML",
    "Reptile",
    "anil",
    "boil",
    "film_conv4",
    "fomaml",
]
