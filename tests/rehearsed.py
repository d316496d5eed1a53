"""The script that plays docs/deploy.md, as a module, and the page."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


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
