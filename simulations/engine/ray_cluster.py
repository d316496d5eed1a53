"""Workers as actors of a Ray cluster, on this machine or on many.

Covers: the same workers as those of `processes`, started and asked through Ray; a fraction of a GPU for each.
Does not cover: files. Every machine of the cluster has to see the run's directory, the base model and the records at
the paths that the configuration names.

Flower's own simulation engine hands each message to whichever of its actors is free, and so serves sites that remember
nothing. A site here holds its update and its keys from OPEN to UNMASK, so it has an actor of its own for the whole run.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from partsong.common.errors import ConfigError, TryAgain
from partsong.common.simulated import EngineConfig
from partsong.simulations.engine.worker import Worker


class RayCrew:
    """Actors of one run."""

    def __init__(self, run: Path, config: EngineConfig) -> None:
        """Prepare; nothing is started yet.

        Args:
            run: directory of the run.
            config: how many actors, and what each asks for.
        Raises:
            ConfigError: Ray is not installed.
        """
        if importlib.util.find_spec("ray") is None:
            raise ConfigError(
                "engine.name", found="ray, which is not installed", expected="local", remedy="install partsong[ray]"
            )
        self._run, self._config = run.resolve(), config
        self._actors: list[Any] = []
        self._joined = False

    def start(self) -> None:
        """Join or start the cluster, start the actors, and wait for their base models.

        Raises:
            TryAgain: an actor could not start.
        """
        import ray

        config = self._config
        if not ray.is_initialized():
            ray.init(address=config.address, include_dashboard=False, log_to_driver=False, configure_logging=False)
            self._joined = True
        remote = ray.remote(num_cpus=config.cpus, num_gpus=config.gpus, max_restarts=0)(Worker)
        self._actors = [
            remote.remote(self._run, index=index, workers=config.workers) for index in range(config.workers)
        ]
        try:
            ray.get([actor.__ray_ready__.remote() for actor in self._actors])
        except ray.exceptions.RayError as err:
            raise TryAgain(f"a worker could not start in the Ray cluster: {type(err).__name__}") from err

    def ask(self, worker: int, question: bytes) -> bytes:
        """Ask an actor and wait.

        Raises:
            TryAgain: it is gone.
        """
        import ray

        try:
            return bytes(ray.get(self._actors[worker].reply.remote(question)))
        except ray.exceptions.RayActorError as err:
            raise TryAgain(f"worker {worker} ended; its sites' disks stand: resume the run") from err

    def close(self) -> None:
        """End the actors, and the cluster where this run has started or joined it."""
        if not self._actors:
            return
        import ray

        for actor in self._actors:
            ray.kill(actor)
        self._actors.clear()
        if self._joined:
            ray.shutdown()
