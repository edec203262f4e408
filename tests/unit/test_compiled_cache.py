"""What compiled code is told of and kept by."""

import pytest

numba = pytest.importorskip("numba")

from simcore.compiled_cache import compilations, kept  # noqa: E402


def test_what_is_compiled_first_is_told_and_not_again() -> None:
    function, told = numba.njit(lambda number: number + 1), []
    with compilations(lambda: told.append("begun")):
        assert function(1) == 2
        assert told == ["begun"]
        assert function(2) == 3
    assert told == ["begun"]
    with compilations(None):
        assert function(2.5) == 3.5
    assert told == ["begun"]


def test_functions_know_the_digest_of_all_files() -> None:
    made: list[int] = []

    def make(digest: int) -> object:
        made.append(digest)
        return lambda: digest

    assert kept(make)() == made[0] > 2**32
    kept(make)
    assert made[0] == made[1]
