"""Run before any test imports transformers."""

from glsnet.vision import before_transformers

before_transformers()
