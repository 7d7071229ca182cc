"""Learners as scikit-learn estimators: classifiers, regressors, verifiers, clusters.

`base` has what all share (checks of inputs, adaptation), `adapted_model` their files, `widths`
the number of classes and its growth, `open_set` and `error_rates` the thresholds. A new
estimator is a file with one subclass of `FewShotEstimator` and an executed example. Names are
loaded on first use, so that `quickstudy predict` needs no scikit-learn; `__init__.pyi` lists
them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
