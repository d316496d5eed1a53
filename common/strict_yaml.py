"""YAML as people read it, and nothing that seems to say one thing and says another.

Covers: a key given twice, a key that is no text, an alias, a date that would become an object, a number such as `1e-6`
that YAML 1.1 takes for text: the first three are refused, the last two mean what they seem to mean.
Does not cover: what the keys mean; that is `build`'s business.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any, TypeVar

import yaml

from partsong.common.build import build, to_tree
from partsong.common.errors import ConfigError

T = TypeVar("T")

LARGEST_FILE_BYTES = 1 << 20
_WITHOUT = ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:merge")


def read_yaml(cls: type[T], path: Path, *, what: str) -> T:
    """Read a file into a dataclass.

    Args:
        cls: the dataclass.
        path: a file of at most a megabyte, UTF-8.
        what: the document in a word or two, for error texts.
    Raises:
        ConfigError: the file is missing, is no YAML, gives a key twice, or says something that `cls` cannot hold; the
            text names the key, what was found, what was expected and the closest known key.
    """
    try:
        if path.stat().st_size > LARGEST_FILE_BYTES:
            raise ConfigError(path.name, found="more than a megabyte", expected=f"a {what}")
        return parse_yaml(cls, path.read_text(encoding="utf-8"), where=path.name, what=what)
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(path.name, found="no file that can be read", expected=f"a {what} in YAML, UTF-8") from err


def parse_yaml(cls: type[T], text: str, *, where: str, what: str) -> T:
    """Make a dataclass of YAML text; empty text has no keys.

    Raises:
        ConfigError: as `read_yaml`.
    """
    try:
        tree = yaml.load(text, _Loader)  # noqa: S506  # a SafeLoader, see below
    except _Mistake as err:
        raise ConfigError(where, found=err.found, expected=err.expected) from err
    except (yaml.YAMLError, ValueError, RecursionError) as err:
        mark = getattr(err, "problem_mark", None)
        place = where if mark is None else f"{where}, line {mark.line + 1}"
        raise ConfigError(place, found="text that is not YAML", expected=f"a {what} in YAML") from err
    try:
        return build(cls, {} if tree is None else tree)
    except ConfigError as err:
        place = f"{where}: {err.place}"
        raise ConfigError(place, found=err.found, expected=err.expected, remedy=err.remedy) from err


def to_yaml(value: object) -> str:
    """Write a tree as YAML, its keys in their order."""
    text: str = yaml.safe_dump(to_tree(value), sort_keys=False, allow_unicode=True, width=110)
    return text


def differences(value: Any) -> dict[str, Any]:
    """Give what differs from the defaults of a dataclass: a default lives in its code alone."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        now = getattr(value, field.name)
        if dataclasses.is_dataclass(now):
            below = differences(now)
            found |= {field.name: below} if below else {}
        elif now != _default(field):
            found[field.name] = to_tree(now)
    return found


def _default(field: dataclasses.Field[Any]) -> object:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


class _Mistake(Exception):
    """YAML that is valid and means something else than it seems to."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(found)
        self.found, self.expected = found, expected


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no types
    """YAML as people read it: `1e-6` is a number, a date is text, a key given twice and an alias are mistakes."""

    yaml_implicit_resolvers = {  # noqa: RUF012  # PyYAML's own attribute, replaced for this class alone
        first: [(tag, pattern) for tag, pattern in pairs if tag not in _WITHOUT]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise _Mistake("an alias", "every value written out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002  # PyYAML's
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for place, (key, (key_node, _)) in enumerate(zip(keys, node.value, strict=True)):
            if not isinstance(key, str):
                raise _Mistake(f"{key!r} as a key in line {key_node.start_mark.line + 1}", "keys that are text")
            if key in keys[:place]:
                raise _Mistake(f"{key!r} a second time in line {key_node.start_mark.line + 1}", "each key once")
        made: dict[Any, Any] = super().construct_mapping(node, deep)
        return made


# YAML 1.1, which PyYAML reads, takes `1e-6` for text. A delta is written so.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+"), list("-+0123456789")
)
