"""Carries one job out over the Grid that Flower gives. All it needs stands in Flower's run configuration."""

import os

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from partsong.common.identity.passphrase import find_passphrase
from partsong.server.daemon.behind_superlink import GridLink, carry_job_out, read_nodes, require_absolute

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Carry the job out, or the run that was broken off."""
    asked = context.run_config
    carry_job_out(
        require_absolute(asked["directory"], key="directory"),
        passphrase=find_passphrase(file=None, environment=os.environ, ask=None),
        job=require_absolute(asked["job"], key="job"),
        link=GridLink(grid, read_nodes(str(asked["nodes"]))),
    )
