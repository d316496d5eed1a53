"""The script that plays docs/deploy.md, as a module, and the page."""

import contextlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any


def _script() -> ModuleType:
    file = Path(__file__).parents[1] / "scripts" / "loopback_deploy.py"
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


loopback_deploy = _script()
PAGE = loopback_deploy.PAGE.read_text()


@contextlib.contextmanager
def daemons(folder: Path, *, held_out: int, allow: Callable[[Path], None]) -> Iterator[Any]:
    """The page up to its daemons: sites that hold test records beside their own, and what they allow.

    Args:
        folder: for all of it.
        held_out: test records of each site.
        allow: changes a site's policy file.
    """
    setting = loopback_deploy.Setting(init=dict.fromkeys(loopback_deploy.SITES, "data.held_out=held-out.jsonl"))
    with loopback_deploy.Rehearsal(folder, PAGE, setting) as rehearsal:
        for number, site in enumerate(rehearsal.sites):
            loopback_deploy.write_records(site.folder / "held-out.jsonl", first=5000 + 100 * number, count=held_out)
        steps = iter(rehearsal.steps)
        for step in steps:
            if " up " in step:
                break
            rehearsal.play(step)
        for site in rehearsal.sites:
            allow(site.folder / site.name / "policy.yaml")
        rehearsal.play(step)
        rehearsal.play(next(steps))
        yield rehearsal
