"""A passphrase comes from where only its owner can read, or it is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest

from partsong.common.errors import InputError
from partsong.common.identity.passphrase import find_passphrase, new_passphrase


def written(folder: Path, name: str, text: bytes, *, mode: int = 0o600) -> Path:
    """A file with these rights."""
    file = folder / name
    file.write_bytes(text)
    file.chmod(mode)
    return file


def typed(*answers: str) -> Callable[[str], str]:
    """A person at the terminal."""
    left = list(answers)
    return lambda _prompt: left.pop(0)


def test_the_named_file_comes_first_then_the_variables_then_the_terminal(tmp_path: Path) -> None:
    """Each is asked only where those before it are not there."""
    named = written(tmp_path, "named", b"from the option\n")
    variable = written(tmp_path, "variable", b"from the variable\r\n")
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    written(credentials, "partsong-passphrase", b"from systemd", mode=0o440)
    everything = {"PARTSONG_PASSPHRASE_FILE": str(variable), "CREDENTIALS_DIRECTORY": str(credentials)}
    systemd = {"CREDENTIALS_DIRECTORY": str(credentials)}

    assert find_passphrase(file=named, environment=everything, ask=None) == b"from the option"
    assert find_passphrase(file=None, environment=everything, ask=None) == b"from the variable"
    assert find_passphrase(file=None, environment=systemd, ask=None) == b"from systemd"
    assert find_passphrase(file=None, environment={}, ask=typed("from a person")) == b"from a person"
    assert find_passphrase(file=None, environment={"CREDENTIALS_DIRECTORY": "/nowhere"}, ask=typed("p")) == b"p"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_file_that_others_may_use_is_refused_by_name(tmp_path: Path, mode: int) -> None:
    """Its mode and the remedy are said; the passphrase is not."""
    file = written(tmp_path, "open", b"correct horse battery", mode=mode)

    with pytest.raises(InputError, match=rf"open: found mode {mode:04o}.*chmod 600") as refused:
        find_passphrase(file=file, environment={}, ask=typed("another"))

    assert "horse" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "words"), [(b"", "found nothing"), (b"\n", "found nothing"), (b"x" * 5000, "more than")]
)
def test_an_empty_or_endless_file_is_refused(tmp_path: Path, text: bytes, words: str) -> None:
    """Rather than asking elsewhere."""
    with pytest.raises(InputError, match=words):
        find_passphrase(file=written(tmp_path, "f", text), environment={}, ask=typed("another"))


def test_nothing_to_read_and_nobody_to_ask_says_what_to_do(tmp_path: Path) -> None:
    """A plain variable with the passphrase in it is not looked at."""
    with pytest.raises(InputError, match="--passphrase-file or PARTSONG_PASSPHRASE_FILE"):
        find_passphrase(file=None, environment={"PARTSONG_PASSPHRASE": "correct horse battery"}, ask=None)
    with pytest.raises(InputError, match="no file that can be read"):
        find_passphrase(file=tmp_path / "none", environment={}, ask=typed("another"))


def test_a_new_passphrase_is_long_and_typed_twice(tmp_path: Path) -> None:
    """From a file it is read once."""
    file = written(tmp_path, "f", b"correct horse battery")

    assert new_passphrase(file=None, environment={}, ask=typed("twelve bytes", "twelve bytes")) == b"twelve bytes"
    assert new_passphrase(file=file, environment={}, ask=typed()) == b"correct horse battery"
    with pytest.raises(InputError, match="two that differ"):
        new_passphrase(file=None, environment={}, ask=typed("twelve bytes", "twelve bytEs"))
    with pytest.raises(InputError, match="found 11 bytes, expected at least 12"):
        new_passphrase(file=None, environment={}, ask=typed("eleven byte", "eleven byte"))
