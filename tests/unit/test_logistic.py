from collections.abc import Iterator

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from analysis.logistic import FloatArray, LogisticProblem, digits, split
from simcore.errors import InputError


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    with threadpool_limits(1, "blas"):
        yield


@pytest.fixture(scope="module")
def problem() -> LogisticProblem:
    return digits(regularization=0.01)


def small(rng: np.random.Generator) -> LogisticProblem:
    return LogisticProblem(rng.normal(size=(9, 3)), rng.integers(0, 4, 9), 4, 0.3)


def in_ball(rng: np.random.Generator, shape: tuple[int, ...], radius: float) -> FloatArray:
    points = rng.normal(size=shape)
    lengths = radius * rng.random((*shape[:-1], 1))
    return points / np.linalg.norm(points, axis=-1, keepdims=True) * lengths


def test_the_loss_is_its_definition() -> None:
    problem = small(np.random.default_rng(0))
    point = np.random.default_rng(1).normal(size=problem.parameters)
    expected = 0.3 / 2 * point @ point
    for x, y in zip(problem.features, problem.labels, strict=True):
        scores = x @ point.reshape(3, 4)
        expected += (np.log(np.exp(scores).sum()) - scores[y]) / 9
    assert float(problem.loss(point)) == pytest.approx(expected, rel=1e-13)
    assert problem.loss(np.zeros(problem.parameters)) == pytest.approx(np.log(4))


def test_the_gradient_is_that_of_finite_differences() -> None:
    problem = small(np.random.default_rng(2))
    point = np.random.default_rng(3).normal(size=(2, 3, problem.parameters))
    step = 1e-6 * np.eye(problem.parameters)
    steps = point[..., None, :] + step, point[..., None, :] - step
    differences = (problem.loss(steps[0]) - problem.loss(steps[1])) / 2e-6
    np.testing.assert_allclose(problem.gradient(point), differences, atol=1e-8)


def test_batch_gradients_of_copies_average_to_the_gradient(problem: LogisticProblem) -> None:
    rng = np.random.default_rng(4)
    points = in_ball(rng, (3, problem.parameters), 4.0)
    everything = np.stack([rng.permutation(problem.samples) for _ in range(3)])
    full = problem.gradient(points)
    np.testing.assert_allclose(problem.batch_gradient(points, everything), full, atol=1e-12)
    singles = np.broadcast_to(points[0], (problem.samples, problem.parameters))
    each = problem.batch_gradient(singles, np.arange(problem.samples)[:, None])
    np.testing.assert_allclose(each.mean(axis=0), full[0], atol=1e-12)


def test_copies_do_not_see_each_other(problem: LogisticProblem) -> None:
    rng = np.random.default_rng(5)
    points = in_ball(rng, (4, problem.parameters), 4.0)
    samples = rng.integers(0, problem.samples, (4, 7))
    together = problem.batch_gradient(points, samples)
    for copy in range(4):
        one = slice(copy, copy + 1)
        alone = problem.batch_gradient(points[one], samples[one])
        np.testing.assert_allclose(together[one], alone, atol=1e-13)
        np.testing.assert_allclose(
            problem.gradient(points)[copy], problem.gradient(points[copy]), atol=1e-13
        )


def test_no_gradient_moves_faster_than_the_lipschitz_constant(problem: LogisticProblem) -> None:
    rng = np.random.default_rng(6)
    here = in_ball(rng, (20, problem.parameters), 10.0)
    there = here + in_ball(rng, (20, problem.parameters), 2.0)
    moved = np.linalg.norm(problem.gradient(here) - problem.gradient(there), axis=-1)
    assert (moved <= problem.lipschitz() * np.linalg.norm(here - there, axis=-1)).all()


def test_the_lipschitz_constant_is_attained(problem: LogisticProblem) -> None:
    # Where every sample is torn between two classes, the Hessian in the scores attains 1/2.
    bias = np.zeros((65, 10))
    bias[-1] = [40.0, 40.0, *[0.0] * 8]
    moments = problem.features.T @ problem.features / problem.samples
    along = np.linalg.eigh(moments)[1][:, -1:] * np.array([1.0, -1.0, *[0.0] * 8]) / np.sqrt(2)
    step = 1e-4 * along.ravel()
    change = problem.gradient(bias.ravel() + step) - problem.gradient(bias.ravel() - step)
    assert np.linalg.norm(change) / 2e-4 == pytest.approx(problem.lipschitz(), rel=1e-6)


def test_every_sampled_gradient_is_within_the_second_moment(problem: LogisticProblem) -> None:
    rng, radius = np.random.default_rng(7), 15.0
    bound = problem.second_moment(radius)
    points = in_ball(rng, (500, problem.parameters), radius)
    for size in (1, 32):
        samples = rng.integers(0, problem.samples, (500, size))
        assert (problem.batch_gradient(points, samples) ** 2).sum(axis=-1).max() <= bound
    # The bound is nearly attained: the longest sample, taken for another class with certainty.
    longest = int(np.linalg.norm(problem.features, axis=1).argmax())
    x, label = problem.features[longest], int(problem.labels[longest])
    wrong = np.outer(x, np.eye(10)[(label + 1) % 10] - np.eye(10)[label]).ravel()
    worst = radius * wrong / np.linalg.norm(wrong)
    square = float((problem.batch_gradient(worst[None], np.array([[longest]])) ** 2).sum())
    assert 0.999 * bound <= square <= bound


def test_the_minimum_is_that_of_scikit_learn(problem: LogisticProblem) -> None:
    minimum = problem.minimum()
    assert minimum.gradient_norm < 1e-7
    assert minimum.gradient_norm == np.linalg.norm(problem.gradient(minimum.parameters))
    model = LogisticRegression(
        C=1 / (problem.samples * problem.regularization), fit_intercept=False, tol=1e-7
    )
    model.fit(problem.features, problem.labels)
    theirs = problem.loss(np.asarray(model.coef_.T.ravel()))
    assert minimum.loss == pytest.approx(float(theirs), abs=1e-9)
    assert minimum.loss <= theirs + 1e-12


def test_coupling_is_what_a_block_feels_of_the_others(problem: LogisticProblem) -> None:
    blocks = split(problem.parameters, 4)
    coupling = problem.coupling(blocks)
    rng = np.random.default_rng(8)
    step = 1e-4 * in_ball(rng, (30, problem.parameters), 1.0)
    step[:, blocks[0]] = 0
    felt = problem.gradient(step)[:, blocks[0]] - problem.gradient(0 * step)[:, blocks[0]]
    ratios = np.linalg.norm(felt, axis=-1) / np.linalg.norm(step, axis=-1)
    assert 0 < ratios.max() <= coupling * (1 + 1e-3)
    assert problem.coupling(split(problem.parameters, 1)) == 0


@pytest.mark.parametrize("modules", [1, 3, 10, 11])
def test_blocks_tile_the_parameters(modules: int) -> None:
    blocks = split(11, modules)
    assert np.concatenate([np.arange(11)[block] for block in blocks]).tolist() == list(range(11))
    assert {block.stop - block.start for block in blocks} <= {11 // modules, 11 // modules + 1}


@pytest.mark.parametrize("modules", [0, 12])
def test_blocks_are_no_more_than_parameters(modules: int) -> None:
    with pytest.raises(InputError, match=f"modules is {modules}: must be from 1 to 11"):
        split(11, modules)


@pytest.mark.parametrize("regularization", [0.0, -1.0, float("nan")])
def test_without_regularisation_there_need_be_no_minimum(regularization: float) -> None:
    with pytest.raises(InputError, match=r"regularization is .*: must be more than 0"):
        digits(regularization)
