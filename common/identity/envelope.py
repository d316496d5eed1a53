"""The signature around every message of a real deployment, checked before anything in the message is read.

    question    coordinator to site: version, run, kind, site, header, vector, note
    answer      site to coordinator: version, run, kind, site, the question's digest, header, vector, note

Covers: whoever carries messages can neither make one up, nor change one, nor hand a site the question of another site,
nor hand over an answer to another question, of another kind, run or site. Both suites of identity keys.
Does not cover: messages that are held back or shown twice; the rules of the site (its journal, its ledger) and of the
secure sum are for those. Nothing is encrypted here: that is TLS, and for words of a sum the masks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from partsong.common.derive import digest, number
from partsong.common.errors import WireError
from partsong.common.identity.keys import Signer, signature_fits
from partsong.common.identity.suite import SIGNATURE_BYTES, suite_of_key
from partsong.common.plan import LONGEST_NAME, is_name

ENVELOPE_VERSION = 1
KINDS = ("propose", "keys", "open", "roster", "confirm", "unmask", "result", "offer", "publish")
"""What a coordinator asks, as in `partsong.common.wire`."""
_QUESTION, _ANSWER = "envelope question", "envelope answer"


@dataclass(frozen=True, kw_only=True, slots=True)
class Letter:
    """One message and its signature, as they came in or as they go out."""

    version: int
    run: str
    kind: str
    """Kind of the question, also in its answer."""
    site: str
    """Who is asked; in an answer, who answers."""
    header: bytes = field(repr=False)
    vector: bytes = field(default=b"", repr=False)
    note: bytes = field(default=b"", repr=False)
    signature: bytes = field(default=b"", repr=False)

    @classmethod
    def read(cls, fields: Mapping[str, object], *, kind: str, vector: bytes, note: bytes) -> Letter:
        """Take a letter from what rides beside the vector and the note.

        Args:
            fields: as `fields` gave them on the other side; from a stranger.
            kind: by the type of the message.
            vector: raw.
            note: raw.
        Raises:
            WireError: a field is missing or of another type.
        """
        version, run, site = fields.get("version"), fields.get("run"), fields.get("site")
        header, signature = fields.get("header"), fields.get("signature")
        if type(version) is not int or not isinstance(run, str) or not isinstance(site, str):
            raise WireError("envelope: no version, run and site; it was dropped unread", rule="envelope.form")
        if not isinstance(header, bytes) or not isinstance(signature, bytes):
            raise WireError("envelope: no header and signature; it was dropped unread", rule="envelope.form")
        return cls(
            version=version, run=run, kind=kind, site=site, header=header, vector=vector, note=note, signature=signature
        )

    def fields(self) -> dict[str, int | str | bytes]:
        """Give what rides beside the vector and the note."""
        return {
            "version": self.version,
            "run": self.run,
            "site": self.site,
            "header": self.header,
            "signature": self.signature,
        }

    def parts(self) -> tuple[bytes, ...]:
        """What is signed, the long parts by their hashes."""
        return (
            number(self.version),
            self.run.encode(),
            self.kind.encode(),
            self.site.encode(),
            *(hashlib.sha256(part).digest() for part in (self.header, self.vector, self.note)),
        )


def question_digest(question: Letter) -> bytes:
    """Give the 32 bytes that the coordinator signs, and that an answer names."""
    return digest(_QUESTION, *question.parts())


def answer_digest(answer: Letter, *, question: bytes) -> bytes:
    """Give the 32 bytes that a site signs.

    Args:
        answer: its signature does not count.
        question: `question_digest` of what is answered.
    """
    return digest(_ANSWER, question, *answer.parts())


class SiteEnvelope:
    """A site's side: opens questions, seals answers."""

    def __init__(self, *, site: str, signer: Signer, coordinator: bytes) -> None:
        """Take the site's id, its identity key, and the coordinator's key, both of the charter."""
        self._site, self._signer, self._coordinator = site, signer, coordinator

    def open(self, question: Letter) -> bytes:
        """Check a question and give its digest, which its answer needs.

        Raises:
            WireError: another version, another site's, or not signed by the charter's coordinator; nothing of it
                was read.
        """
        _check_form(question)
        if question.site != self._site:
            raise WireError("envelope: a question to another site; it was dropped unread", rule="envelope.site")
        digest_of_question = question_digest(question)
        if not _fits(self._coordinator, question.signature, digest_of_question):
            raise WireError(
                "envelope: not signed by the coordinator of the charter; it was dropped unread",
                rule="envelope.signature",
            )
        return digest_of_question

    def seal(self, *, run: str, kind: str, question: bytes, header: bytes, vector: bytes, note: bytes) -> Letter:
        """Sign an answer.

        Args:
            run: of the question.
            kind: of the question.
            question: what `open` gave.
            header: the answer's three parts.
            vector: see above.
            note: see above.
        """
        blank = Letter(
            version=ENVELOPE_VERSION, run=run, kind=kind, site=self._site, header=header, vector=vector, note=note
        )
        return replace(blank, signature=self._signer.sign(answer_digest(blank, question=question)))


class CoordinatorEnvelope:
    """The coordinator's side in one run: seals questions, opens answers."""

    def __init__(self, *, run: str, signer: Signer, identity_keys: Mapping[str, bytes]) -> None:
        """Take the run's name, the coordinator's key, and each site's identity key, all of the charter.

        Raises:
            ValueError: the run's name cannot be shown.
        """
        if not is_name(run):
            raise ValueError(f"run as a name of at most {LONGEST_NAME} characters")
        self._run, self._signer, self._keys = run, signer, dict(identity_keys)

    @property
    def run(self) -> str:
        """Name of the run."""
        return self._run

    def seal(self, *, kind: str, site: str, header: bytes, vector: bytes, note: bytes) -> tuple[Letter, bytes]:
        """Sign a question to one site; its digest comes along, for `open`."""
        blank = Letter(
            version=ENVELOPE_VERSION, run=self._run, kind=kind, site=site, header=header, vector=vector, note=note
        )
        digest_of_question = question_digest(blank)
        return replace(blank, signature=self._signer.sign(digest_of_question)), digest_of_question

    def open(self, answer: Letter, *, kind: str, site: str, question: bytes) -> None:
        """Check an answer.

        Args:
            answer: as it came in.
            kind: of the question.
            site: who was asked.
            question: digest of what was asked.
        Raises:
            WireError: another version, run, kind or site, or not signed by the asked site over this question;
                nothing of it was read.
        """
        _check_form(answer)
        if (answer.run, answer.kind, answer.site) != (self._run, kind, site):
            raise WireError(
                "envelope: the answer of another site, or to another question; it was dropped unread",
                rule="envelope.site",
            )
        key = self._keys.get(site)
        if key is None or not _fits(key, answer.signature, answer_digest(answer, question=question)):
            raise WireError("envelope: not signed by the asked site; it was dropped unread", rule="envelope.signature")


def _check_form(letter: Letter) -> None:
    if letter.version != ENVELOPE_VERSION:
        raise WireError(
            f"envelope: version {letter.version}, and this side speaks {ENVELOPE_VERSION}; "
            "install the same version of partsong on both sides",
            rule="envelope.version",
        )
    if letter.kind not in KINDS or not is_name(letter.run) or not is_name(letter.site):
        raise WireError("envelope: a kind or a name that does not exist; it was dropped unread", rule="envelope.form")


def _fits(key: bytes, signature: bytes, message: bytes) -> bool:
    suite = suite_of_key(key)
    return suite is not None and len(signature) == SIGNATURE_BYTES.of(suite) and signature_fits(key, signature, message)
