"""All sites in the coordinator's process: Flower's own apps over a grid within the process."""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import Context, RecordDict

from partsong.client.app import make_app as make_client_app
from partsong.client.budget.ledger import Ledger
from partsong.client.site import Site
from partsong.common.errors import PartsongError
from partsong.server.app import make_app as make_server_app
from partsong.server.exchange import Exchange
from partsong.simulations.local_grid import LocalGrid
from partsong.simulations.stacked.company import Company

Start = Callable[[str], tuple[Site, Ledger]]
"""Starts a site on its disk; gives its ledger for closing."""


class OneProcess:
    """Sites that share this process and its base model."""

    def __init__(
        self,
        names: tuple[str, ...],
        start: Start,
        *,
        on_error: Callable[[str, PartsongError], None],
        company: Company | None = None,
    ) -> None:
        """Prepare; no site is started yet.

        Args:
            names: of the sites.
            start: starts one.
            on_error: told a site's error, in the site's thread.
            company: lets sites train together. None: each alone.
        """
        self._names, self._start = names, start
        self._sites: dict[str, tuple[Site, Ledger]] = {}
        app = make_client_app(lambda context: self._sites[str(context.node_config["site"])][0])
        self._grid = LocalGrid(app, names, on_error=on_error, company=company)

    def start(self) -> None:
        """Start all sites."""
        for name in self._names:
            self._sites[name] = self._start(name)

    def play(self, main: Callable[[Exchange], None]) -> None:
        """Run the coordinator's app over the grid."""
        context = Context(run_id=0, node_id=1, node_config={}, state=RecordDict(), run_config={})
        make_server_app(main)(self._grid, context)

    def site_at(self, address: int) -> str:
        """The site that a node stands for."""
        return self._grid.site_at(address)

    def restart(self, name: str) -> None:
        """Forget a site and start it on its disk."""
        self._sites.pop(name)[1].close()
        self._sites[name] = self._start(name)

    def close(self) -> None:
        """Stop the grid's threads and close the ledgers."""
        self._grid.close()
        for _, ledger in self._sites.values():
            ledger.close()
