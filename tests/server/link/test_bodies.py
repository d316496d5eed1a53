"""Bodies on their way in: where they are too much together, the one that takes longest is cut off."""

import asyncio
import contextlib

from partsong.server.link.bodies import Bodies

MOST = 100


async def arrive(bodies: Bodies, sizes: list[int], *, drips: asyncio.Event | None = None) -> bool:
    """Bring a body in pieces, one a turn of the loop; with `drips`, stay until that is set. False: it was cut off."""
    try:
        async with asyncio.timeout(60) as limit:
            with bodies.arriving(limit) as grow:
                for size in sizes:
                    grow(size)
                    await asyncio.sleep(0)
                if drips is not None:
                    await drips.wait()
    except TimeoutError:
        return False
    return True


async def played(*, most: int) -> tuple[list[bool], Bodies]:
    """Three bodies drip, one after the other; then two come that are whole at once."""
    bodies, ends = Bodies(most_bytes=most), asyncio.Event()
    dripping = [asyncio.create_task(arrive(bodies, [30], drips=ends)) for _ in range(3)]
    await asyncio.sleep(0)
    quick = [await arrive(bodies, [20, 20]), await arrive(bodies, [10])]
    ends.set()
    return [await task for task in dripping] + quick, bodies


def test_the_oldest_is_cut_off_and_the_others_arrive() -> None:
    """30 + 30 + 30 and then 40: the first has to go, and no other."""
    found, bodies = asyncio.run(played(most=MOST))

    assert found == [False, True, True, True, True]
    assert not bodies._sizes


def test_with_room_for_all_nobody_is_cut_off() -> None:
    """The control."""
    found, _ = asyncio.run(played(most=130))

    assert found == [True] * 5


def test_one_that_is_larger_than_all_may_be_is_cut_off_itself() -> None:
    """And leaves the count at nothing."""
    bodies = Bodies(most_bytes=MOST)

    async def alone() -> bool:
        with contextlib.suppress(TimeoutError):
            return await arrive(bodies, [60, 60], drips=asyncio.Event())
        return False

    assert not asyncio.run(alone())
    assert not bodies._sizes
