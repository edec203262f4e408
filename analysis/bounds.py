"""ADL's Theorem 2 (Zhuang et al. 2020, equation 25), measured beside its right-hand sides.

It bounds (1 / Gamma_S) sum_{s<S} gamma_s E||grad f(theta^{U_s})||^2, where Gamma_S = sum gamma_s.
theta^{U_s} is the point that batches U_s = M s .. U_s + M - 1 meet on their way up, every block at
the version v_f that the trace names; during start-up blocks lag in versions, as they have windows
without a gradient. With Lip the Lipschitz constant of grad f, A >= ||g||^2 for all mini-batch
gradients, d_{k,j} the gaps (equation 17) and dbar_k = 2 (K - k) / M their means over j,

    left side <= 2 (f(theta^0) - f*) / Gamma_S + (A Lip / Gamma_S) sum_s gamma_s^2 b_s

    printed     b_s = 2 [1/M + sum_k dbar_k / M^2]
    corrected   b_s = 2 [1/M + rho_s^2 sum_k (1/M) sum_j d_{k,j}^2]
    sharper     b_s = 1/M + rho_s^2 max_k dbar_k^2 Lip gamma_s / (1 - Lip gamma_s)

where rho_s = gamma_{s - dmax} / gamma_s, at least 1.

**Where the printed proof goes wrong** (supplement A). (a) Its first inequality for P_1 bounds
||(1/M) sum_j a_j||^2 by (1/M^2) sum_j ||a_j||^2, which needs orthogonal a_j; Cauchy-Schwarz gives
1/M. It is used again for the norm of a step, whose mean does not cancel: a second factor M. Only
for the centred part is it right, as batches are independent, so that the first 1/M stands.
(b) ||sum of d steps||^2 <= sum ||step||^2 lacks the factor d. (c) gamma_alpha <= gamma_s for
alpha < s, of a *non-increasing* rate: hence rho. (d) The expectation given theta^{U_s} treats the
batches as fresh, but later modules have applied them already: block k's gradients in window s are
of batches up to M s + M - 1 - 2 (K - k). (e) The steps of different blocks in one window are of
different batches, so their squares sum to at most K A, not A. Condition 22, "a block's gradient
moves only with its own block", repairs (d), but leaves f no other form than sum_k f_k(theta_k), and
no network is like that. The inequality of Theorem 1 and the mean of Theorem 2 are both violated as
printed by f = theta_1^2 / 2 with exact gradients, K = 4, M = 6 and Lip gamma = 1: from 1, theta_1
runs 1, 1, 0, -1, -1, 0 for ever, mean square 2/3, where the printed bound tends to 4/9
(`tests/theory/test_adl_bound.py`). At small Lip gamma it holds after all, above the sharper form.

**The corrected form** repairs (a) to (c) within the printed proof, so it needs condition 22 (and
for (e) A as a bound on the sum over blocks of each block's largest square). But for
Lip gamma_0 <= 2/3 and a fixed rate it follows from the sharper one, term by term, without either.

**The sharper form** needs only this: grad f as a whole is Lipschitz; batches are independent and
their gradients unbiased at any fixed point; ||g||^2 <= A where gradients are taken; gamma does not
increase, Lip gamma_0 < 1; a window's sum is divided by M, full or not. Proof, after the perturbed
iterates of Mania et al. 2017 (SIAM J. Optim. 27): let y_s be the point with exactly batches
0 .. M s - 1 applied, in all blocks. Batches M s + j all met x_s = theta^{U_s}, whose block k has
applied all of these but the last 2 (K - k). Both points depend on batches before M s alone; given
those, G, the mean of the M gradients, has mean b = grad f(x_s) and variance at most A / M. From
f(y - gamma G) <= f(y) - gamma <grad f(y), G> + Lip gamma^2 / 2 ||G||^2 and, with a = grad f(y),
-<a, b> <= -||b||^2 + (c/2) ||b||^2 + ||a - b||^2 / (2 c), taken at c = 1 - Lip gamma,

    E f(y_{s+1}) <= f(y_s) - gamma/2 ||b||^2 + gamma Lip^2 ||y_s - x_s||^2 / (2 (1 - Lip gamma))
                    + Lip gamma^2 A / (2 M),

and ||y_s - x_s||^2 = sum_k ||sum of 2 (K - k) terms gamma g_k / M||^2, which Cauchy-Schwarz bounds
by (gamma rho max_k dbar_k)^2 A. Sum over s; f(y_S) >= f*. At K = 1 it is the bound of plain SGD
(Bottou, Curtis, Nocedal 2018, SIAM Review 60, theorem 4.8). A decaying rate belongs to an update's
number; where M does not divide all 2 (K - k), blocks apply one batch at gamma_s and at gamma_{s+1},
and the whole right side grows by gamma_0 / gamma_1.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy import stats
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # scikit-learn's own

from analysis.logistic import FloatArray, IntArray, LogisticProblem, digits, split
from analysis.replay_gaps import Descent, descend, steady_gaps
from simcore.engines import simulate
from simcore.errors import InputError
from simcore.options import check
from simcore.schedules.delayed import adl
from simcore.workload import Workload

if TYPE_CHECKING:
    pass

__all__ = ["BoundCurve", "Check", "Constants", "adl_bound", "to_json"]

CONFIDENCE: Final = 0.95


@dataclass(frozen=True, slots=True)
class Constants:
    """What stands in the bounds; dimensionless. `start_loss` is f(theta^0), theta^0 = 0.

    `second_moment` is A in the ball ||theta|| <= `radius`. `minimum_loss` is a lower bound on f*:
    the optimiser's loss less its squared gradient norm over twice the regularisation.
    """

    lipschitz: float
    second_moment: float
    radius: float
    start_loss: float
    minimum_loss: float
    minimum_gradient_norm: float
    learning_rate: float
    decay: float
    regularization: float
    batch_size: int
    seeds: int
    seed: int

    def rate(self, update: int) -> float:
        """gamma of an update's number s, from 0: learning_rate / (1 + s)^decay."""
        return float(self.learning_rate / (1 + update) ** self.decay)


@dataclass(frozen=True, slots=True)
class Check:
    """An assumption: whether it holds, the value seen in the runs, its limit, and what it is for.

    It holds if the value is at most the limit.
    """

    name: str
    holds: bool
    value: float
    limit: float
    note: str


@dataclass(frozen=True, slots=True, eq=False)
class BoundCurve:
    """Both sides of Theorem 2 for one accumulation M. Arrays are over `updates` S = 1, 2, ...

    `measured` is the left side, mean over seeds; `measured_low` and `measured_high` are its 95 %
    confidence interval (Student's t, pointwise; nan for one seed). `gaps[k - 1][j]` is d_{k,j}
    and `mean_gaps[k - 1]` is dbar_k, both read from the trace. `sharper` is inf at Lip gamma = 1.
    """

    modules: int
    accumulation: int
    updates: IntArray
    measured: FloatArray
    measured_low: FloatArray
    measured_high: FloatArray
    printed: FloatArray
    corrected: FloatArray
    sharper: FloatArray
    gaps: tuple[tuple[int, ...], ...]
    mean_gaps: tuple[float, ...]
    constants: Constants
    checks: tuple[Check, ...]


def adl_bound(
    modules: int = 4,
    accumulations: Sequence[int] = (1, 2, 4),
    *,
    updates: int = 400,
    seeds: int = 8,
    learning_rate: float | None = None,
    decay: float = 0.0,
    batch_size: int = 32,
    regularization: float = 0.01,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> list[BoundCurve]:
    """Train logistic regression with the gaps of simulated ADL; one curve for each accumulation M.

    The parameters are cut into `modules` blocks. `learning_rate` is gamma_0, by default 0.02 / Lip,
    which is near what makes the sharper bound smallest after 400 updates; gamma_s is gamma_0 /
    (1 + s)^`decay`. All M see the same mini-batches, drawn from `seed`. `progress` is told 1 for
    each of the len(accumulations) x updates points at which the full gradient is taken.

    Raises:
        InputError: a count below 1, more modules than parameters, Lip gamma_0 > 1, or another
            value out of its range.
    """
    check("modules", modules)
    if not accumulations:
        raise InputError("accumulations", "", "must name one or more", "give 1,2,4, say")
    for accumulation in accumulations:
        check("accumulation", accumulation)
    for name, count in (("updates", updates), ("seeds", seeds), ("batch size", batch_size)):
        if count < 1:
            raise InputError(name, count, "must be at least 1", "give 1 or more")
    if not 0 <= decay < math.inf:
        raise InputError("decay", decay, "must be 0 or more", "give 0 for a fixed learning rate")
    problem = digits(regularization)
    blocks = split(problem.parameters, modules)
    fastest = 1 / problem.lipschitz()
    rate = 0.02 * fastest if learning_rate is None else learning_rate
    if not 0 < rate <= fastest:
        rule = f"must be more than 0 and at most 1 / Lip = {fastest:.4g}"
        raise InputError("learning rate", rate, rule, "give one in this range")
    # One thread: with matrices this small, more only wait for each other.
    with threadpool_limits(1, "blas"):
        constants = _constants(problem, rate, decay, batch_size, seeds, seed)
        coupling = problem.coupling(blocks)
        curves = []
        for accumulation in accumulations:
            # Long enough for steady gaps; the mean over a window is taken by `descend`.
            windows = max(updates, 3 + 2 * math.ceil(2 * (modules - 1) / accumulation))
            schedule = adl(modules, accumulation * windows, accumulation, reduce="sum")
            trace = simulate(schedule, Workload.even(modules))
            samples = _samples(problem, constants, schedule.batches)
            seen = descend(
                trace, problem, constants.rate, updates=updates, samples=samples, progress=progress
            )
            gaps = steady_gaps(trace, accumulation)
            curves.append(_curve(constants, accumulation, gaps, seen, coupling))
    return curves


def _constants(
    problem: LogisticProblem, rate: float, decay: float, batch_size: int, seeds: int, seed: int
) -> Constants:
    minimum = problem.minimum()
    radius = 2 * float(np.linalg.norm(minimum.parameters))
    return Constants(
        lipschitz=problem.lipschitz(),
        second_moment=problem.second_moment(radius),
        radius=radius,
        start_loss=float(problem.loss(np.zeros(problem.parameters))),
        minimum_loss=minimum.loss - minimum.gradient_norm**2 / (2 * problem.regularization),
        minimum_gradient_norm=minimum.gradient_norm,
        learning_rate=rate,
        decay=decay,
        regularization=problem.regularization,
        batch_size=batch_size,
        seeds=seeds,
        seed=seed,
    )


def _samples(problem: LogisticProblem, constants: Constants, batches: int) -> IntArray:
    """Drawn uniformly with replacement, a stream for each seed: (batches, seeds, batch size)."""
    sequences = np.random.SeedSequence(constants.seed).spawn(constants.seeds)
    shape = batches, constants.batch_size
    streams = [np.random.default_rng(s).integers(0, problem.samples, shape) for s in sequences]
    return np.stack(streams, axis=1)


def _curve(
    constants: Constants,
    accumulation: int,
    gaps: tuple[tuple[int, ...], ...],
    seen: Descent,
    coupling: float,
) -> BoundCurve:
    count, seeds = seen.squares.shape
    rates = np.array([constants.rate(update) for update in range(count)])
    left = np.cumsum(rates[:, None] * seen.squares, axis=0) / np.cumsum(rates)[:, None]
    half = np.full(count, np.nan)
    if seeds > 1:
        quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, seeds - 1))
        half = quantile * left.std(axis=1, ddof=1) / math.sqrt(seeds)
    printed, corrected, sharper = _right_sides(constants, accumulation, gaps, rates)
    return BoundCurve(
        modules=len(gaps),
        accumulation=accumulation,
        updates=np.arange(1, count + 1),
        measured=left.mean(axis=1),
        measured_low=left.mean(axis=1) - half,
        measured_high=left.mean(axis=1) + half,
        printed=printed,
        corrected=corrected,
        sharper=sharper,
        gaps=gaps,
        mean_gaps=tuple(sum(row) / accumulation for row in gaps),
        constants=constants,
        checks=_checks(constants, accumulation, gaps, seen, rates, coupling),
    )


def _right_sides(
    constants: Constants, accumulation: int, gaps: tuple[tuple[int, ...], ...], rates: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The printed, corrected and sharper bounds of the module's docstring, each (updates,)."""
    means = [sum(row) / accumulation for row in gaps]
    squares = sum(d * d for row in gaps for d in row) / accumulation
    oldest = np.maximum(0, np.arange(len(rates)) - max(max(row) for row in gaps))
    growth = (rates[oldest] / rates) ** 2  # rho_s^2
    steps = constants.lipschitz * rates
    late = np.zeros_like(rates)
    if max(means) > 0:  # else nothing is late, and Lip gamma = 1 is allowed
        with np.errstate(divide="ignore"):
            late = growth * max(means) ** 2 * steps / np.maximum(0, 1 - steps)
    aligned = all(2 * k % accumulation == 0 for k in range(len(gaps)))
    slack = 1.0 if aligned else constants.rate(0) / constants.rate(1)

    def bound(bracket: FloatArray) -> FloatArray:
        first = 2 * (constants.start_loss - constants.minimum_loss)
        noise = constants.second_moment * constants.lipschitz * np.cumsum(rates**2 * bracket)
        return np.asarray((first + noise) / np.cumsum(rates))

    printed = 2 * (1 / accumulation + sum(means) / accumulation**2) * np.ones_like(rates)
    corrected = 2 * (1 / accumulation + growth * squares)
    return bound(printed), bound(corrected), slack * bound(1 / accumulation + late)


def _checks(
    constants: Constants,
    accumulation: int,
    gaps: tuple[tuple[int, ...], ...],
    seen: Descent,
    rates: FloatArray,
    coupling: float,
) -> tuple[Check, ...]:
    modules, step = len(gaps), constants.lipschitz * constants.learning_rate
    equation = [
        [-((j - 2 * (modules - k)) // accumulation) for j in range(accumulation)]
        for k in range(1, modules + 1)
    ]
    wrong = float(np.abs(np.array(gaps) - equation).max())
    rise = float(np.diff(rates).max(initial=0.0))
    shared = (
        "condition 22, for the printed proof only: the Hessian's norm at 0 off its diagonal "
        "blocks; blocks share examples, so that only the gradient as a whole is Lipschitz"
    )
    table = [
        ("Lip gamma <= 1", step, 1.0, "for every bound"),
        ("Lip gamma <= 2/3", step, 2 / 3, "corrected bound, without condition 22"),
        ("gamma does not increase", rise, 0.0, "largest rise from one update to the next"),
        ("iterates in the ball", seen.norm, constants.radius, "largest ||theta^{U_s}||, all seeds"),
        ("gradients within A", seen.batch_square, constants.second_moment, "largest ||g||^2"),
        ("gaps as in equation 17", wrong, 0.0, "largest difference from the trace's steady gaps"),
        ("separable by block", coupling, 0.0, shared),
    ]
    return tuple(
        Check(name, value <= limit, value, limit, note) for name, value, limit, note in table
    )


def to_json(curves: Sequence[BoundCurve]) -> dict[str, Any]:
    """The curves as JSON values, schema `gradlag.bounds/1`; what is not finite becomes null."""
    return {
        "schema": "gradlag.bounds/1",
        "confidence": CONFIDENCE,
        "curves": [_plain(asdict(curve)) for curve in curves],
    }


def _plain(value: Any) -> Any:
    match value:
        case dict():
            return {key: _plain(item) for key, item in value.items()}
        case np.ndarray():
            return _plain(value.tolist())
        case list() | tuple():
            return [_plain(item) for item in value]
        case float() if not math.isfinite(value):
            return None
    return value
