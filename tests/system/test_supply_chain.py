"""What is installed is locked by hash, and what is built is the same everywhere."""

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def lock(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, as a module of its own for each test."""
    spec = importlib.util.spec_from_file_location("lock", ROOT / "scripts" / "lock.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", ["lock.py", "--check"])
    return module


def test_the_locks_satisfy_the_declared_requirements(lock: ModuleType) -> None:
    """Every direct requirement of every set, with a version in its range and a hash."""
    assert lock.main() == 0
    assert set(lock.pins("core")) <= set(lock.pins("dev"))
    assert set(lock.pins("core")) < set(lock.pins("gpu"))
    assert len(lock.pins("core")) > 60


def test_the_set_without_a_gpu_is_core_without_its_libraries(lock: ModuleType) -> None:
    """Nothing else is missing, and no version or hash differs."""
    core, cpu = lock.pins("core"), lock.pins("cpu")

    assert cpu.items() < core.items()
    missing = set(core) - set(cpu)
    assert {"torch", "triton", "nvidia-cublas"} <= missing
    assert all(name in {"torch", "triton"} or name.startswith(("nvidia-", "cuda-")) for name in missing)


def test_a_set_without_a_gpu_that_is_not_of_this_core_is_found(
    lock: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although each of its lines is well formed."""
    shutil.copytree(lock.FOLDER, tmp_path / "requirements")
    file = tmp_path / "requirements" / "cpu.txt"
    file.write_text(file.read_text().replace("numpy==", "numpy==1"))
    monkeypatch.setattr(lock, "FOLDER", tmp_path / "requirements")

    assert lock.main() == 1


@pytest.mark.parametrize(
    ("pattern", "instead"),
    [
        (r"(?m)^cryptography==\S+", "cryptography==40.0.2"),
        (r"(?m)^flwr==[^\n]*(?:\n {4}--hash[^\n]*)*\n", ""),
        (r"(?s)^", "--index-url https://packages.example/simple\n"),
        (r"(?m)(^numpy==\S+[^\n]*)(?:\n {4}--hash[^\n]*)*", r"\1"),
    ],
    ids=["old", "missing", "address", "hash"],
)
def test_a_lock_that_does_not_fit_is_found(
    lock: ModuleType, pattern: str, instead: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a version out of range, a missing package, an address of an index, a line without a hash."""
    shutil.copytree(lock.FOLDER, tmp_path / "requirements")
    file = tmp_path / "requirements" / "core.txt"
    changed = re.sub(pattern, instead, file.read_text(), count=1)
    assert changed != file.read_text()
    file.write_text(changed)
    monkeypatch.setattr(lock, "FOLDER", tmp_path / "requirements")

    assert lock.main() == 1


def _built(folder: Path, source: Path) -> Path:
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"})
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.mark.nightly
def test_two_builds_give_the_same_wheel(tmp_path: Path) -> None:
    """From copies with other paths, times and rights of files; nothing but the package is in it."""
    wheels = []
    for name in ("one", "another"):
        source = tmp_path / name / "source"
        ignored = shutil.ignore_patterns(".venv", ".git", "build", "dist", "runs", "__pycache__", ".*_cache", "tests")
        shutil.copytree(ROOT, source, symlinks=True, ignore=ignored)
        if name == "another":
            for file in source.rglob("*.py"):
                os.utime(file, (1_600_000_000, 1_600_000_000))
        wheels.append(_built(tmp_path / name / "dist", source))

    digests = {hashlib.sha256(wheel.read_bytes()).hexdigest() for wheel in wheels}

    names = zipfile.ZipFile(wheels[0]).namelist()
    assert len(digests) == 1
    assert {name.split("/")[0].split("-")[0] for name in names} == {"partsong"}
    assert "partsong/conf/deploy/grafana.json" in names
    assert not [name for name in names if name.endswith((".pyc", ".jsonl"))]


@pytest.mark.nightly
def test_the_bill_of_materials_lists_the_locked_set(lock: ModuleType, tmp_path: Path) -> None:
    """Each package with version and hashes, the same bytes twice, and no trace of this machine."""
    pytest.importorskip("cyclonedx_py")
    files = [tmp_path / "one.json", tmp_path / "two.json"]

    for file in files:
        command = [sys.executable, "-W", "ignore", str(ROOT / "scripts" / "sbom.py"), str(file)]
        subprocess.run(command, check=True, capture_output=True)

    texts = [file.read_text() for file in files]
    bill = json.loads(texts[0])
    listed = {(part["name"], part["version"]) for part in bill["components"]}
    assert texts[0] == texts[1]
    assert bill["bomFormat"] == "CycloneDX"
    assert {(name, version) for name, found in lock.pins("core").items() for version, _ in found} <= {
        (re.sub(r"[-_.]+", "-", name).lower(), version) for name, version in listed
    }
    assert str(ROOT) not in texts[0]
