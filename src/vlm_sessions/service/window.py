"""Which turns of a conversation the model is given once all of them no longer fit its context.

The record keeps every turn. The first one stays, since it has the system text, and so do all that
brought images; of the others the oldest are left out, question and answer together. A turn's tokens
begin with what ends the answer before it, so what is left is a conversation like any other.

                    ┌── a cut ──┐ ┌── a cut ──┐
    turn 1 with 🖼  │ 2   3   4 │ │ 5   6     │ 7 with 🖼   8   9   new prompt   room for an answer
    stays           └───────────┘ └───────────┘ stays       └ too few for a cut

They are left out by whole cuts, each at least a quarter of what the turns that stay leave free. So
a conversation that grows is given the same beginning for many turns, which is then found in the
cache; leaving out just what is needed would change the beginning at every turn, and everything
after it would be computed anew each time.

Nothing is remembered of this: which turns are given follows from the record and the new prompt
alone, the same after a restart, in a fork, and after a rewind.
"""

from __future__ import annotations

from collections.abc import Sequence

from vlm_sessions.sessions.session import SessionTurn

PARTS = 4
"""Of what the turns that stay leave free. One part is the least that is left out at once, and the
most that is kept free for an answer, however long a one was asked for."""


def turns_given(
    turns: Sequence[SessionTurn], *, num_new: int, num_wanted: int, max_context: int
) -> tuple[SessionTurn, ...]:
    """Those turns that are given to the model together with a new prompt.

    All of them if they fit. Otherwise as few cuts as possible are left out; if none is enough, only
    those turns are left that must stay, and the caller finds out whether they fit.

    Args:
        num_new: tokens of the new prompt.
        num_wanted: tokens of the answer that was asked for.
        max_context: tokens that the model can be given, the answer included.
    """
    num_free = max_context - sum(turn.num_tokens for turn in turns if _stays(turn, turns))
    part = max(0, num_free) // PARTS
    num_over = (
        sum(turn.num_tokens for turn in turns) + num_new + min(num_wanted, part) - max_context
    )
    if num_over <= 0:
        return tuple(turns)
    num_left_out = _num_left_out(
        [turn.num_tokens for turn in turns if not _stays(turn, turns)], part, num_over
    )
    given: list[SessionTurn] = []
    for turn in turns:
        if not _stays(turn, turns) and num_left_out:
            num_left_out -= 1
        else:
            given.append(turn)
    return tuple(given)


def _stays(turn: SessionTurn, turns: Sequence[SessionTurn]) -> bool:
    return turn is turns[0] or bool(turn.images)


def _num_left_out(sizes: Sequence[int], part: int, num_over: int) -> int:
    """How many of the turns of these sizes are left out to save ``num_over`` tokens.

    Whole cuts; where all of them do not suffice, as many turns as it takes, or all.
    """
    num_saved = num_in_cut = 0
    enough = len(sizes)
    for number, size in enumerate(sizes, 1):
        num_saved += size
        num_in_cut += size
        if num_saved >= num_over:
            enough = min(enough, number)
        if num_in_cut >= part:
            num_in_cut = 0
            if num_saved >= num_over:
                return number
    return enough
