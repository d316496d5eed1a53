"""Several workers as one exchange: each plays its own sites, one question after the other; all play at once.

Guarantees: what a site answers depends on its questions alone, so a seeded run ends with the same bytes whatever the
    number of workers and however fast each is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Protocol

from partsong.common import events
from partsong.common.codec import pack, unpack
from partsong.common.errors import PartsongError, TryAgain
from partsong.server.exchange import Exchange, Parcel
from partsong.server.rounds import Loss
from partsong.simulations.engine.letters import (
    BROKEN,
    FAILED,
    SHORT,
    Question,
    Questions,
    Replies,
    Reply,
    loss_of,
    to_us,
)

Clock = Callable[[], float]
_Item = tuple[int, Reply | Exception]


class Crew(Protocol):
    """Workers, wherever they run."""

    def start(self) -> None:
        """Start all of them, and wait until each has its base model."""
        ...

    def ask(self, worker: int, question: bytes) -> bytes:
        """Ask a worker and wait for its reply. One thread for each worker calls this.

        Raises:
            TryAgain: the worker is gone; the run can be resumed.
        """
        ...

    def close(self) -> None:
        """End all of them, also in the middle of a question."""
        ...


class SiteFailed(PartsongError):
    """A site's error, in the words that its worker passed on."""


class CrewEngine:
    """An engine over a crew; its address of a site is the site's place among the names."""

    def __init__(
        self,
        names: tuple[str, ...],
        crew: Crew,
        *,
        workers: int,
        together: int = 1,
        clock_of: Callable[[str], Clock],
        listen: events.Listener,
        on_error: Callable[[str, PartsongError], None],
    ) -> None:
        """Prepare; no worker is started yet.

        Args:
            names: of the sites, in the order that the workers share them out.
            crew: of `workers` workers.
            workers: how many.
            together: sites of a worker that train together, >= 1.
            clock_of: gives a site's clock.
            listen: told of training steps, in the coordinator's thread.
            on_error: told a site's error, in the coordinator's thread.
        """
        self._names, self._crew, self._workers, self._together = names, crew, workers, together
        self._clock_of, self._listen, self._on_error = clock_of, listen, on_error
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="worker")

    def start(self) -> None:
        """Start the workers."""
        self._crew.start()

    def play(self, main: Callable[[Exchange], None]) -> None:
        """Let the coordinator talk to the sites."""
        main(self)

    def site_at(self, address: int) -> str:
        """The site at an address."""
        return self._names[address]

    def addresses(self) -> tuple[int, ...]:
        """Every site is connected."""
        return tuple(range(len(self._names)))

    def restart(self, name: str) -> None:
        """End a site's process and start it on its disk."""
        address = self._names.index(name)
        self._heard(address, *self._asked({address: Parcel(header=b"")}))

    def ask(
        self,
        parcels: Mapping[int, Parcel],
        *,
        phase: str,
        timeout_s: float,  # noqa: ARG002 - each answers as soon as it can
    ) -> Iterator[tuple[int, Parcel | Loss]]:
        """Yield answers as workers give them.

        Raises:
            TryAgain: a machine is short of something, or a worker is gone.
        """
        found: SimpleQueue[_Item] = SimpleQueue()
        together = self._together if phase == "open" else 1
        for worker in range(self._workers):
            if mine := [address for address in parcels if address % self._workers == worker]:
                lots = [mine[first : first + together] for first in range(0, len(mine), together)]
                asked = [{address: parcels[address] for address in lot} for lot in lots]
                self._threads.submit(self._ask_all, asked, found)
        for _ in parcels:
            address, reply = found.get()
            if isinstance(reply, Exception):
                raise reply
            yield address, self._heard(address, reply)

    def close(self) -> None:
        """End the workers, then the threads that wait for them."""
        self._crew.close()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _ask_all(self, lots: Sequence[Mapping[int, Parcel]], found: SimpleQueue[_Item]) -> None:
        """Put the replies of one worker's sites where `ask` finds them; after an error no more are asked."""
        for parcels in lots:
            try:
                for item in zip(parcels, self._asked(parcels), strict=True):
                    found.put(item)
            except Exception as err:  # noqa: BLE001 - `ask` raises it in the coordinator's thread
                found.put((next(iter(parcels)), err))
                return

    def _asked(self, parcels: Mapping[int, Parcel]) -> tuple[Reply, ...]:
        """Ask sites of one worker together."""
        questions = [
            Question(
                site=address,
                clock_us=to_us(self._clock_of(self._names[address])()),
                header=parcel.header,
                vector=parcel.vector,
                note=parcel.note,
            )
            for address, parcel in parcels.items()
        ]
        worker = next(iter(parcels)) % self._workers
        return unpack(Replies, self._crew.ask(worker, pack(Questions(each=tuple(questions))))).each

    def _heard(self, address: int, reply: Reply) -> Parcel | Loss:
        """Tell what happened at the site, and give its answer."""
        name, said = self._names[address], reply.said.decode()
        for step in reply.steps:
            self._listen(
                events.SiteProgress(
                    site=name,
                    round=step.round,
                    step=step.step,
                    steps=step.steps,
                    local_loss=loss_of(step.local_loss),
                )
            )
        for told in reply.told:
            self._on_error(name, SiteFailed(told.decode()))
        if reply.outcome == SHORT:
            raise TryAgain(said)
        if reply.outcome == BROKEN:
            raise RuntimeError(f"a worker failed at {name}:\n{said}")
        if reply.outcome == FAILED:
            self._on_error(name, SiteFailed(said))
            return Loss.FAILED
        return Parcel(header=reply.header, vector=bytes(reply.vector), note=bytes(reply.note))
