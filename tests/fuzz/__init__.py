"""Harnesses that try many odd inputs, each a function of a seed and a number.

python -m tests.fuzz.learners --seed 0 --n 2000     nets, shapes, dtypes and weights
python -m tests.fuzz.estimators --seed 0 --n 2000   arrays, labels and weights

`trials` has what they share. Each ends with the line "tried N / held N / failed N".
"""
