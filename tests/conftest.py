"""Hypothesis profiles. The default one always tries the same few examples; to search on:

HYPOTHESIS_PROFILE=nightly pytest --timeout=0
"""

import os

from hypothesis import settings

settings.register_profile(
    "default", max_examples=25, deadline=None, derandomize=True, database=None
)
settings.register_profile("nightly", max_examples=2000, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
