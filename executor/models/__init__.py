"""Networks: families by size, those of the papers by name, and a user's own."""

from executor.models.make import (
    EXAMPLE,
    FORMS,
    MODELS,
    NETWORKS,
    make_model,
    published_split,
)
from executor.models.recurrent import is_recurrent
from executor.models.sized import conv, mlp

__all__ = [
    "EXAMPLE",
    "FORMS",
    "MODELS",
    "NETWORKS",
    "conv",
    "is_recurrent",
    "make_model",
    "mlp",
    "published_split",
]
