"""Fingerprints as people give them on a command line: `WHO=FINGERPRINT`, or the fingerprint alone.

Covers: what is no fingerprint, or is of nobody, is refused with what was probably meant; with WHO the key has to be
that one's, without it the fingerprint has to be of one of the keys at hand.
Does not cover: how it was heard. Over the channel that brought the files it proves nothing.
"""

from __future__ import annotations

import difflib
import hmac
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from partsong.common.errors import InputError

_PLAIN = re.compile(r"[a-z2-7]{32}")
"""160 bits in base 32, without the spaces."""
_FORM = "WHO=FINGERPRINT or a fingerprint, which is eight groups of four letters and digits"


@dataclass(frozen=True, kw_only=True, slots=True)
class Heard:
    """One fingerprint that somebody has said."""

    who: str
    """Whose it is; empty: that was not given."""
    plain: str
    """In lower case, without spaces."""

    def fits(self, who: str, listed: str) -> bool:
        """Whether it speaks for this one's key.

        Args:
            who: whose key.
            listed: the key's fingerprint, as `partsong.common.identity.keys.fingerprint` gives it.
        """
        own = listed.replace(" ", "").encode()
        return self.who in ("", who) and hmac.compare_digest(self.plain.encode(), own)


def parse_heard(text: str, *, known: Collection[str]) -> Heard:
    """Read what was given.

    Args:
        text: of one `--fingerprint`.
        known: who may be named.
    Raises:
        InputError: it is of neither form, or names nobody; nothing was done.
    """
    who, sign, given = text.rpartition("=")
    if sign and who not in known:
        near = difflib.get_close_matches(who, known, n=1, cutoff=0.5)
        raise InputError(
            "--fingerprint",
            found=f"one of {who[:80]!r}",
            expected=f"one of {', '.join(sorted(known))}",
            remedy=f"did you mean {near[0]}=...?" if near else None,
        )
    plain = "".join(given.lower().split())
    if not _PLAIN.fullmatch(plain):
        short = f" ({len(plain)} of 32 letters and digits)" if re.fullmatch(r"[a-z2-7]*", plain) else ""
        raise InputError(
            "--fingerprint",
            found=repr(text)[:80] + short,
            expected=_FORM,
            remedy="put it in quotes, for it holds spaces" if 0 < len(plain) < 32 else None,
        )
    return Heard(who=who, plain=plain)


def spoken_for(heard: Collection[Heard], keys: Mapping[str, str]) -> frozenset[str]:
    """Name those whose key somebody has said the fingerprint of.

    Args:
        heard: what was given.
        keys: fingerprint of each key, by whose it is.
    """
    return frozenset(who for who, listed in keys.items() if any(one.fits(who, listed) for one in heard))
