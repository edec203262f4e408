"""What a run tells while it goes on."""

from collections.abc import Callable, Sequence

__all__ = ["tell"]


def tell(
    progress: Callable[[int], None],
    applied: int,
    losses: Sequence[tuple[int, float, int]],
    gaps: Sequence[int | None],
) -> None:
    """Tell how many gradients have been applied since the last time, and what is newest.

    A listener that has a method `news(loss, gap)` is told the newest loss, of rows (pass, loss,
    ns), and the mean of the newest gaps, in updates; None for what is not known yet.
    """
    progress(applied)
    news = getattr(progress, "news", None)
    if news is not None:
        known = [gap for gap in gaps if gap is not None]
        news(losses[-1][1] if losses else None, sum(known) / len(known) if known else None)
