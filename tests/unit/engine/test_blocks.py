"""The order in which cached blocks are given up, and what keeps them."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests.unit.engine.helpers import Clock
from vlm_sessions.engine.blocks import BlockPool
from vlm_sessions.engine.content import TokenChain
from vlm_sessions.engine.matches import Match, Reservation


@dataclass(frozen=True)
class Writer:
    """A turn that holds blocks."""

    pool: BlockPool
    match: Match
    reservation: Reservation

    def finish(self, *tokens: int) -> int:
        """Name what was computed, all these tokens, and free the blocks; returns the last one."""
        chain = TokenChain(tokens, (), self.pool.block_size)
        blocks = list(self.reservation.blocks)
        for index in range(len(self.match.full), len(blocks)):
            parent = blocks[index - 1] if index else None
            block_hash = chain.hashes[index] if index < len(chain.hashes) else None
            content = chain.content(index, len(tokens))
            blocks[index] = self.pool.commit(blocks[index], parent, content, block_hash)
        self.pool.free(blocks)
        self.pool.check_integrity()
        return blocks[-1]


class Cache:
    """A pool in which whole prefixes are computed and freed at once."""

    def __init__(self, num_blocks: int, block_size: int = 2) -> None:
        self.clock = Clock()
        self.pool = BlockPool(num_blocks, block_size, self.clock)

    def fill(self, *tokens: int, retain: tuple[str, float] | None = None) -> None:
        tip = self.begin(*tokens).finish(*tokens)
        if retain is not None:
            self.pool.retain(retain[0], tip, retain[1])
        self.pool.check_integrity()

    def begin(self, *tokens: int) -> Writer:
        """Reserve blocks for all of them."""
        match = self.find(*tokens)
        reservation = self.pool.try_reserve(match, -(-len(tokens) // self.pool.block_size))
        assert reservation is not None
        self.pool.check_integrity()
        return Writer(self.pool, match, reservation)

    def take(self, num_blocks: int) -> tuple[int, ...]:
        """Use up blocks for something that is never cached."""
        reservation = self.pool.try_reserve(Match(), num_blocks)
        assert reservation is not None
        self.pool.check_integrity()
        return reservation.blocks

    def find(self, *tokens: int) -> Match:
        return self.pool.match(TokenChain(tokens, (), self.pool.block_size), len(tokens))

    def num_found(self, *tokens: int) -> int:
        """Full blocks."""
        return len(self.find(*tokens).full)


def test_blocks_never_used_go_before_cached_ones() -> None:
    cache = Cache(4)
    cache.fill(1, 2, 3, 4)
    cache.take(2)
    assert cache.num_found(1, 2, 3, 4) == 2
    assert cache.pool.num_evicted == 0


def test_the_least_recently_used_prefix_goes_first_and_its_tail_before_its_head() -> None:
    cache = Cache(4)
    cache.fill(1, 2, 3, 4)
    cache.fill(5, 6, 7, 8)
    cache.fill(1, 2, 3, 4)
    cache.take(1)
    assert (cache.num_found(5, 6, 7, 8), cache.num_found(1, 2, 3, 4)) == (1, 2)
    cache.take(1)
    assert (cache.num_found(5, 6, 7, 8), cache.num_found(1, 2, 3, 4)) == (0, 2)
    cache.take(1)
    assert cache.num_found(1, 2, 3, 4) == 1
    assert cache.pool.num_evicted == 3


def test_a_head_that_two_prefixes_share_outlives_both_tails() -> None:
    cache = Cache(3)
    cache.fill(1, 2, 3, 4)
    cache.fill(1, 2, 5, 6)
    cache.take(2)
    assert cache.num_found(1, 2) == 1


def test_retained_prefixes_go_last_and_the_earliest_expiry_first() -> None:
    cache = Cache(6)
    cache.fill(1, 2, 3, 4, retain=("late", 3000.0))
    cache.fill(5, 6, 7, 8, retain=("early", 2000.0))
    cache.fill(9, 10, 11, 12)
    cache.take(2)
    assert cache.num_found(9, 10, 11, 12) == 0
    cache.take(2)
    assert cache.num_found(5, 6, 7, 8) == 0
    assert cache.num_found(1, 2, 3, 4) == 2


def test_a_new_retention_under_a_key_replaces_the_old_one() -> None:
    cache = Cache(4)
    cache.fill(1, 2, retain=("s", 3000.0))
    cache.fill(5, 6, retain=("s", 3000.0))
    cache.fill(7, 8)
    cache.take(2)
    assert cache.num_found(1, 2) == 0, "no longer retained, and the least recently used"
    assert cache.num_found(5, 6) == 1
    assert cache.pool.count_retained() == 1


def test_a_released_prefix_is_the_first_to_go() -> None:
    cache = Cache(4)
    cache.fill(1, 2, 3, 4)
    cache.fill(5, 6, 7, 8, retain=("s", 3000.0))
    cache.pool.release("s")
    cache.pool.check_integrity()
    cache.take(2)
    assert cache.num_found(5, 6, 7, 8) == 0
    assert cache.num_found(1, 2, 3, 4) == 2


def test_a_release_leaves_what_another_retention_protects() -> None:
    cache = Cache(4)
    cache.fill(1, 2, 3, 4, retain=("a", 3000.0))
    cache.fill(1, 2, 5, 6, retain=("b", 3000.0))
    cache.pool.release("a")
    cache.take(2)
    assert cache.num_found(1, 2, 3, 4) == 1
    assert cache.num_found(1, 2, 5, 6) == 2
    assert cache.pool.count_retained() == 2


def test_a_retention_ends_with_its_time() -> None:
    cache = Cache(4)
    cache.fill(1, 2, 3, 4, retain=("s", 2000.0))
    cache.clock.now = 1999.0
    cache.fill(5, 6, 7, 8)
    assert cache.pool.count_retained() == 2
    cache.clock.now = 2000.0
    assert cache.pool.count_retained() == 0
    cache.take(1)
    assert cache.num_found(1, 2, 3, 4) == 1
    assert cache.num_found(5, 6, 7, 8) == 2


def test_what_is_left_of_an_evicted_retained_prefix_stays_retained() -> None:
    cache = Cache(4)
    cache.fill(1, 2, 3, 4, 5, 6, retain=("s", 3000.0))
    cache.take(2)
    assert cache.num_found(1, 2, 3, 4, 5, 6) == 2
    assert cache.pool.count_retained() == 2
    cache.take(2)
    assert cache.pool.count_retained() == 0
    cache.pool.release("s")
    cache.pool.check_integrity()


def test_releasing_an_unknown_key_is_harmless() -> None:
    cache = Cache(2)
    cache.fill(1, 2)
    cache.pool.release("nobody")
    assert cache.num_found(1, 2) == 1


def test_a_reservation_that_does_not_fit_changes_nothing() -> None:
    cache = Cache(4)
    cache.fill(1, 2, 3, 4)
    found = cache.find(1, 2, 3, 4)
    assert cache.pool.try_reserve(found, 5) is None
    cache.pool.check_integrity()
    assert cache.num_found(1, 2, 3, 4) == 2
    assert cache.pool.num_available == 4
    assert cache.pool.try_reserve(found, 4) is not None


def test_the_cached_part_of_a_reservation_is_never_evicted_for_the_rest_of_it() -> None:
    cache = Cache(4)
    cache.fill(1, 2, 3, 4)
    cache.fill(5, 6, 7, 8)
    found = cache.find(1, 2, 3, 4)
    reservation = cache.pool.try_reserve(found, 4)
    assert reservation is not None
    assert reservation.blocks[:2] == found.full
    assert len(set(reservation.blocks)) == 4
    assert cache.num_found(1, 2, 3, 4) == 2


def test_a_block_computed_twice_is_kept_once() -> None:
    cache = Cache(4)
    chain = TokenChain((1, 2), (), 2)
    one, other = cache.take(2)
    assert cache.pool.commit(one, None, chain.content(0, 2), chain.hashes[0]) == one
    assert cache.pool.commit(other, None, chain.content(0, 2), chain.hashes[0]) == one
    assert cache.pool.num_users(one) == 2
    cache.pool.check_integrity()
    assert cache.pool.num_available == 3


def test_clearing_keeps_what_is_in_use() -> None:
    cache = Cache(4)
    cache.fill(1, 2, retain=("a", 3000.0))
    cache.fill(5, 6, retain=("b", 3000.0))
    assert cache.pool.try_reserve(cache.find(1, 2), 1) is not None
    cache.pool.clear()
    cache.pool.check_integrity()
    assert (cache.num_found(1, 2), cache.num_found(5, 6)) == (1, 0)
    assert cache.pool.num_evicted == 0


def test_sharing_one_prefix_among_a_thousand_keys_stays_cheap_and_right() -> None:
    cache = Cache(64)
    prefix = range(100)
    for number in range(1000):
        cache.fill(*prefix, retain=(f"s{number}", 2000.0 + number))
    assert cache.pool.count_retained() == 50
    for number in range(999):
        cache.pool.release(f"s{number}")
    assert cache.pool.count_retained() == 50
    cache.pool.release("s999")
    assert cache.pool.count_retained() == 0
    cache.pool.check_integrity()


def test_a_retention_renewed_at_every_turn_is_remembered_once() -> None:
    cache = Cache(4)
    for number in range(1000):
        cache.fill(1, 2, 3, 4, retain=("s", 9000.0 + number))
    assert len(cache.pool._kept.retentions._expiries) < 100
    cache.clock.now = 9998.0
    assert cache.pool.count_retained() == 2
    cache.clock.now = 9999.0
    assert cache.pool.count_retained() == 0


# --- partly filled blocks ---------------------------------------------------------------------


def test_a_tail_is_found_to_the_token_and_written_on_by_the_one_who_needs_all_of_it() -> None:
    cache = Cache(4, block_size=4)
    cache.fill(1, 2, 3, 4, 5, 6)
    [full, tail] = cache.begin(1, 2, 3, 4, 5, 6, 7).reservation.blocks
    assert cache.find(1, 2, 3, 4, 5, 6, 7) == Match(6, (full,), (), tail, 2)
    assert cache.pool.moves.num_copied == 0
    assert cache.pool.num_available == 2


def test_a_tail_that_is_needed_in_part_is_copied_and_stays_as_it_was() -> None:
    cache = Cache(4, block_size=4)
    cache.fill(1, 2, 3)
    writer = cache.begin(1, 2, 9)
    copy = writer.reservation.copy
    assert copy is not None
    assert copy.num_tokens == 2
    assert writer.reservation.blocks == (copy.target,)
    writer.finish(1, 2, 9)
    assert cache.find(1, 2, 3).num_tokens == cache.find(1, 2, 9).num_tokens == 3
    assert cache.pool.num_cached == 2


def test_a_full_block_that_is_needed_in_part_is_copied() -> None:
    cache = Cache(4, block_size=4)
    cache.fill(1, 2, 3, 4)
    copy = cache.begin(1, 2, 3, 9).reservation.copy
    assert copy is not None
    assert (copy.source, copy.num_tokens) == (cache.find(1, 2, 3, 4).full[0], 3)


def test_a_tail_that_someone_writes_on_is_copied_by_everybody_else() -> None:
    cache = Cache(4, block_size=4)
    cache.fill(1, 2)
    first = cache.begin(1, 2, 3)
    second = cache.begin(1, 2, 4)
    assert first.reservation.copy is None
    assert second.reservation.copy is not None
    assert second.reservation.copy.source == first.reservation.blocks[0]
    first.finish(1, 2, 3)
    second.finish(1, 2, 4)
    assert cache.pool.num_cached == 2, "neither of them holds what the other does"


def test_a_tail_that_is_the_beginning_of_another_block_is_not_kept_beside_it() -> None:
    cache = Cache(4, block_size=4)
    first, second, third = cache.begin(1, 2), cache.begin(1, 2, 3), cache.begin(1, 2, 3, 4)
    first.finish(1, 2)
    second.finish(1, 2, 3)
    assert cache.pool.num_cached == 1
    third.finish(1, 2, 3, 4)
    assert cache.pool.num_cached == 1
    assert cache.num_found(1, 2, 3, 4) == 1
    cache.fill(1, 2, 3, retain=("s", 3000.0))
    assert cache.pool.num_cached == 1
    assert cache.pool.count_retained() == 1, "by whoever holds it"


def test_a_tail_that_was_given_up_is_not_kept_beside_its_copy_that_went_on() -> None:
    cache = Cache(4, block_size=4)
    cache.fill(1, 2, retain=("s", 3000.0))
    given_up, copied = cache.begin(1, 2, 3), cache.begin(1, 2, 4)
    copied.finish(1, 2, 4)
    assert cache.pool.count_retained() == 0, "it is in use"
    given_up.finish(1, 2)
    assert cache.pool.num_cached == 1
    assert cache.pool.count_retained() == 1, "what a retention protects is kept there now"


def test_a_retention_follows_its_tail_into_the_block_that_goes_on() -> None:
    cache = Cache(3, block_size=4)
    writer = cache.begin(1, 2, 3, 4)
    cache.fill(1, 2, retain=("s", 3000.0))
    writer.finish(1, 2, 3, 4)
    cache.fill(5, 6)
    cache.fill(7, 8)
    cache.take(2)
    assert cache.find(1, 2).num_tokens == 2
    cache.pool.release("s")
    assert cache.pool.count_retained() == 0


def test_a_tail_goes_before_the_blocks_that_it_continues() -> None:
    cache = Cache(3, block_size=2)
    cache.fill(1, 2, 3, 4, 5, retain=("s", 3000.0))
    cache.take(1)
    assert cache.find(1, 2, 3, 4, 5).num_tokens == 4
    assert cache.pool.count_retained() == 2


def test_a_block_that_is_copied_may_make_room_for_its_own_copy() -> None:
    cache = Cache(1, block_size=4)
    cache.fill(1, 2, 3)
    copy = cache.begin(1, 2, 9).reservation.copy
    assert copy is not None
    assert (copy.source, copy.target, copy.num_tokens) == (0, 0, 2)


def test_the_longest_beginning_is_found_among_many_siblings() -> None:
    cache = Cache(300, block_size=8)
    for number in range(300):
        cache.fill(1, 2, 3, number % 10, number // 10, number)
    assert cache.pool.num_cached == 300
    for number in (0, 7, 150, 299):
        expected = (1, 2, 3, number % 10, number // 10, number)
        assert cache.find(*expected, 4, 4).num_tokens == 6
        assert cache.find(*expected[:5], 5000).num_tokens == 5
        assert cache.find(*expected[:4], 5000, 0).num_tokens == 4
    assert cache.find(1, 2, 5000).num_tokens == 2
    assert cache.find(5000).num_tokens == 0


def test_a_pool_without_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one block"):
        BlockPool(0, 16)
