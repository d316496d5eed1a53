"""What the command line loads, sends and ships."""

import ast
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def python(code: str) -> str:
    """Run code in a fresh interpreter."""
    return subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True).stdout


def test_help_loads_no_heavy_library_and_opens_no_connection() -> None:
    """`--help` and an unknown command answer without torch, flwr, hydra or a socket."""
    code = """
import socket, sys
def refuse(*_): raise SystemExit("a connection was opened")
socket.socket.connect = refuse
from partsong.simulations import cli
for arguments in (["--help"], ["simulate", "--help"], ["--version"], ["unknown"]):
    sys.argv = ["partsong", *arguments]
    try:
        cli.main()
    except SystemExit as end:
        assert end.code in (0, 2), end.code
import json
heavy = ("torch", "transformers", "peft", "opacus", "flwr", "hydra", "numpy", "pyarrow")
print("\\n" + json.dumps([name for name in heavy if name in sys.modules]))
"""
    assert json.loads(python(code).splitlines()[-1]) == []


def test_a_mistake_in_an_argument_is_answered_before_torch_is_loaded() -> None:
    """Composition comes first."""
    code = """
import sys
from partsong.simulations import cli
sys.argv = ["partsong", "simulate", "privacy.epsilom=3"]
try:
    cli.main()
except SystemExit as end:
    assert end.code == 2
print("torch" in sys.modules)
"""
    assert python(code).splitlines()[-1] == "False"


def test_the_switches_against_telemetry_and_downloads_are_set_before_anything_is_imported() -> None:
    """flwr, the hub client and tokenizers read the environment when they are imported."""
    code = """
import os, sys
for name in list(os.environ):
    if name.startswith(("FLWR_", "HF_")):
        del os.environ[name]
from partsong.simulations import cli
sys.argv = ["partsong", "simulate", "--cfg", "job", "model=local", "model.source=x"]
try:
    cli.main()
except SystemExit:
    pass
import huggingface_hub.constants as hub
from flwr.supercore import telemetry
print()
print(hub.HF_HUB_OFFLINE, hub.HF_HUB_DISABLE_TELEMETRY, telemetry.FLWR_TELEMETRY_ENABLED)
"""
    assert python(code).splitlines()[-1] == "True True 0"


def test_every_key_of_the_configuration_has_a_docstring() -> None:
    """The reference page is made of them."""
    tree = ast.parse((ROOT / "common" / "config.py").read_text())
    bare = []
    for cls in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        assert ast.get_docstring(cls)
        for field, after in zip(cls.body, [*cls.body[1:], None], strict=True):
            if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
                continue
            explained = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            section = isinstance(field.annotation, ast.Name) and field.annotation.id.endswith("Config")
            if not explained and not section:
                bare.append(f"{cls.name}.{field.target.id}")
    assert bare == []


def test_a_daemon_loads_no_accountant_before_it_is_asked() -> None:
    """SciPy comes with the first epsilon: 70 MB that a daemon without such a question does without."""
    modules = "partsong.server.daemon.up, partsong.client.daemon.up, partsong.common.privacy.selection"
    asked = "partsong.common.privacy.accounting.epsilon([partsong.common.privacy.accounting.StepEvents(**event)], delta=1e-5)"
    event = {"sampling_rate": 1.0, "noise_multiplier": 5.0, "steps": 1}
    script = (
        f"import sys, {modules}; event = {event}; print('scipy' in sys.modules); {asked}; print('scipy' in sys.modules)"
    )

    done = subprocess.run([sys.executable, "-P", "-c", script], check=True, capture_output=True, text=True)

    assert done.stdout.split() == ["False", "True"]


@pytest.mark.slow
def test_the_wheel_holds_one_package_and_no_bare_folder(tmp_path: Path) -> None:
    """Nothing named server, client or common reaches site-packages, and the YAML files are in."""
    pytest.importorskip("hatchling")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)],
        check=True,
        capture_output=True,
    )

    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()

    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"partsong"}
    assert "partsong/conf/simulation.yaml" in names
    assert "partsong/py.typed" in names
    assert not [name for name in names if "tests" in name.split("/")]
