"""Messages between workers: from when to when each is under way, and how many at once.

A message is under way from when it departs until it has been received: over the link, and in a
queue. One that arrives at the tick at which it departed counts for a moment.
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from simcore.levels import peaks
from simcore.passes import NEVER, rows_of
from simcore.trace import Trace

__all__ = ["Messages", "mean_messages", "messages_of", "most_messages"]


@dataclass(frozen=True, slots=True)
class Messages:
    """Every message of a trace, all arrays of shape (messages,).

    `channel` is the channel's number and `received` the row of `trace.spans` that received it, -1
    for none. It is under way from tick `since` to tick `until`, `simcore.passes.NEVER` if it was
    not received.
    """

    channel: NDArray[np.int64]
    received: NDArray[np.int64]
    since: NDArray[np.int64]
    until: NDArray[np.int64]


def messages_of(trace: Trace) -> Messages:
    """All messages that were sent, in the order of their sends; no data from storage."""
    spans, batches = trace.spans, trace.header.batches
    sends, receives = rows_of(trace, "send"), rows_of(trace, "receive")
    row_of = np.full(len(trace.header.channels) * batches, -1)
    row_of[spans["block"][receives] * batches + spans["batch"][receives]] = receives
    channel = spans["block"][sends]
    received = row_of[channel * batches + spans["batch"][sends]]
    until = np.where(received < 0, NEVER, spans["end"][received])
    # In a real run a message may be received before its send has ended.
    return Messages(channel, received, np.minimum(spans["end"][sends], until), until)


def most_messages(trace: Trace, messages: Messages) -> tuple[int, ...]:
    """The most messages that are under way at once, for each channel of the trace."""
    one = np.ones_like(messages.channel)
    channels = len(trace.header.channels)
    found = peaks(messages.channel, messages.since, messages.until, one, channels)
    return tuple(found.tolist())


def mean_messages(
    trace: Trace, messages: Messages, window: tuple[int, int] | None = None
) -> tuple[Fraction | None, ...]:
    """How many messages are under way on average over time, exact, for each channel of the trace.

    From the first start to the last end of an operation, or from one tick to another; None if no
    time passes.
    """
    begin, end = window or (trace.start, trace.end)
    if begin == end:
        return (None,) * len(trace.header.channels)
    ticks = np.minimum(messages.until, end) - np.maximum(messages.since, begin)
    held = np.zeros(len(trace.header.channels), np.int64)
    np.add.at(held, messages.channel, np.maximum(ticks, 0))
    return tuple(Fraction(each, end - begin) for each in held.tolist())
