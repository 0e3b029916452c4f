"""With room for everything, nothing is ever computed twice: reuse is exact to the token.

The slow, obvious way to say what must be cached: remember all that was ever computed, and compare
token by token, an image's row being another token for each image.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.engine.helpers import Bench, Heard, turn
from vlm_sessions.engine.fake import FakeRunner, reference_answer
from vlm_sessions.engine.types import Finished, FinishReason, ImageSpan, Turn

Symbol = int | tuple[str, int]

EOS_EVERY = 6

words = st.lists(st.integers(3, 5), max_size=7)
pictures = st.sampled_from([("cat", 3), ("dog", 3), ("cow", 8)])
openings = st.lists(st.one_of(words, pictures), max_size=3)


@dataclass(frozen=True)
class Said:
    """A turn: it goes on from the earlier one of this number, and else begins anew."""

    opening: list[list[int] | tuple[str, int]]
    earlier: int
    where: int
    """At which token of the earlier conversation it goes on."""
    more: list[int]
    new: int
    """Tokens of its answer, at most."""


turns = st.builds(
    Said,
    opening=openings,
    earlier=st.integers(0, 9),
    where=st.integers(0, 40),
    more=words,
    new=st.integers(0, 7),
)


@settings(max_examples=500, deadline=None)
@given(block_size=st.sampled_from([1, 2, 3, 4, 8, 16]), said=st.lists(turns, max_size=8))
def test_with_room_for_everything_a_turn_computes_exactly_what_no_turn_has_computed(
    block_size: int, said: list[Said]
) -> None:
    bench = Bench(runner=FakeRunner(num_blocks=600, block_size=block_size, eos_every=EOS_EVERY))
    computed: list[list[Symbol]] = []
    conversations: list[Turn] = []
    for number, one in enumerate(said):
        asked = turn(str(number), *one.opening, *one.more, 6, new=one.new)
        if one.earlier < number:
            asked = going_on(conversations[one.earlier], one, asked)
        [heard] = bench.run(asked)
        assert heard.tokens == reference_answer(asked, eos_every=EOS_EVERY)
        assert heard.prefilled is not None
        limit = len(asked.tokens) - bool(one.new)
        expected = max((num_common(symbols(asked), other) for other in computed), default=0)
        assert heard.prefilled.cached_tokens == min(expected, limit)
        conversations.append(answered(asked, heard))
        computed.append(symbols(conversations[-1])[: num_computed(asked, heard)])
        located = bench.engine.locate(conversations[-1].tokens, asked.images)
        assert located.kv_tokens == max(num_common(symbols(conversations[-1]), c) for c in computed)


def going_on(earlier: Turn, said: Said, asked: Turn) -> Turn:
    """``asked`` from a point of an earlier conversation at which no image is cut in two."""
    end = min(said.where, len(earlier.tokens))
    for image in earlier.images:
        if image.start < end < image.start + image.length:
            end = image.start
    images = tuple(image for image in earlier.images if image.start < end)
    return Turn(asked.turn_id, (*earlier.tokens[:end], *said.more, 6), images, asked.sampling)


def answered(asked: Turn, heard: Heard) -> Turn:
    return Turn("", (*asked.tokens, *heard.tokens), asked.images, asked.sampling)


def num_computed(asked: Turn, heard: Heard) -> int:
    """All but the token sampled last, unless it ended the answer and so is not part of it."""
    assert isinstance(heard.end, Finished)
    stopped = heard.end.reason is FinishReason.STOP or not heard.tokens
    return len(asked.tokens) + len(heard.tokens) - (not stopped)


def symbols(conversation: Turn) -> list[Symbol]:
    values: list[Symbol] = list(conversation.tokens)
    for image in conversation.images:
        for row in range(image.length):
            values[image.start + row] = name_of(image), row
    return values


def name_of(image: ImageSpan) -> str:
    return f"{image.digest}:{image.length}"


def num_common(one: list[Symbol], other: list[Symbol]) -> int:
    same = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return sum(1 for _ in same)
