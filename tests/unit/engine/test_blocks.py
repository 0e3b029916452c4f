"""The order in which cached blocks are given up, and what keeps them."""

from __future__ import annotations

import pytest

from tests.unit.engine.helpers import Clock
from vlm_sessions.engine.blocks import BlockPool
from vlm_sessions.engine.content import hash_prefix

BLOCK_SIZE = 2


class Cache:
    """A pool in which whole prefixes are computed and freed at once."""

    def __init__(self, num_blocks: int) -> None:
        self.clock = Clock()
        self.pool = BlockPool(num_blocks, BLOCK_SIZE, self.clock)

    def fill(self, *tokens: int, retain: tuple[str, float] | None = None) -> None:
        hashes = hash_prefix(tokens, (), BLOCK_SIZE)
        cached = self.pool.match(hashes)
        reservation = self.pool.try_reserve(cached, len(hashes) - len(cached))
        assert reservation is not None
        blocks = list(reservation.blocks)
        for index in range(len(cached), len(blocks)):
            parent = blocks[index - 1] if index else None
            blocks[index] = self.pool.commit(blocks[index], hashes[index], parent)
        if retain is not None:
            self.pool.retain(retain[0], blocks[-1], retain[1])
        self.pool.free(blocks)
        self.pool.check_integrity()

    def take(self, num_blocks: int) -> tuple[int, ...]:
        """Use up blocks for something that is never cached."""
        reservation = self.pool.try_reserve((), num_blocks)
        assert reservation is not None
        self.pool.check_integrity()
        return reservation.fresh

    def num_found(self, *tokens: int) -> int:
        return len(self.pool.match(hash_prefix(tokens, (), BLOCK_SIZE)))


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
    cached = cache.pool.match(hash_prefix((1, 2, 3, 4), (), BLOCK_SIZE))
    assert cache.pool.try_reserve(cached, 3) is None
    cache.pool.check_integrity()
    assert cache.num_found(1, 2, 3, 4) == 2
    assert cache.pool.num_available == 4
    assert cache.pool.try_reserve(cached, 2) is not None


def test_the_cached_part_of_a_reservation_is_never_evicted_for_the_rest_of_it() -> None:
    cache = Cache(4)
    cache.fill(1, 2, 3, 4)
    cache.fill(5, 6, 7, 8)
    cached = cache.pool.match(hash_prefix((1, 2, 3, 4), (), BLOCK_SIZE))
    reservation = cache.pool.try_reserve(cached, 2)
    assert reservation is not None
    assert reservation.cached == cached
    assert not set(reservation.fresh) & set(cached)
    assert cache.num_found(1, 2, 3, 4) == 2


def test_a_block_computed_twice_is_kept_once() -> None:
    cache = Cache(4)
    block_hash = hash_prefix((1, 2), (), BLOCK_SIZE)[0]
    one, other = cache.take(2)
    assert cache.pool.commit(one, block_hash, None) == one
    assert cache.pool.commit(other, block_hash, None) == one
    assert cache.pool.num_users(one) == 2
    cache.pool.check_integrity()
    assert cache.pool.num_available == 3


def test_clearing_keeps_what_is_in_use() -> None:
    cache = Cache(4)
    cache.fill(1, 2, retain=("a", 3000.0))
    cache.fill(5, 6, retain=("b", 3000.0))
    cached = cache.pool.match(hash_prefix((1, 2), (), BLOCK_SIZE))
    assert cache.pool.try_reserve(cached, 0) is not None
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
    assert len(cache.pool._retentions._expiries) < 100
    cache.clock.now = 9998.0
    assert cache.pool.count_retained() == 2
    cache.clock.now = 9999.0
    assert cache.pool.count_retained() == 0


def test_a_pool_without_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one block"):
        BlockPool(0, 16)
