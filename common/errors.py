"""What can go wrong, as one tree of exceptions.

    PartsongError            1   the work was tried and failed
    ├── InputError           2   the user's configuration, file or argument is wrong
    │   ├── ConfigError
    │   ├── DataError
    │   └── ModelError
    ├── Refused              2   allowed by the machine, forbidden by a privacy rule
    ├── WireError            1   a message that is not what the protocol says
    ├── RoundAborted         1   a round ended without a sum
    └── TryAgain            75   a passing shortage: disk full, a port in use

The number is the exit code of the command line. The text of an error says where, what was found, what was
expected and what to do; it never holds the text of a record, an update, a key or a per-record loss.
"""

from __future__ import annotations


class PartsongError(Exception):
    """Base of every error this package raises on purpose."""

    exit_code = 1


class InputError(PartsongError):
    """Something the user gave is wrong; nothing was changed."""

    exit_code = 2

    def __init__(self, place: str, *, found: str, expected: str, remedy: str | None = None) -> None:
        """Compose the text from its four parts.

        Args:
            place: file, row, field, key or argument.
            found: what stands there, never the content of a record.
            expected: what would have been right.
            remedy: what to do now; left out where `expected` says it all.
        """
        text = f"{place}: found {found}, expected {expected}"
        super().__init__(f"{text}; {remedy}" if remedy else text)
        self.place, self.found, self.expected, self.remedy = place, found, expected, remedy


class ConfigError(InputError):
    """A configuration key or value is wrong; the run did not start."""


class DataError(InputError):
    """A dataset is missing, empty or malformed; no record was used."""


class ModelError(InputError):
    """A base model cannot be loaded or does not fit the configuration; nothing was trained."""


class Refused(PartsongError):
    """A privacy rule forbids this; nothing was read, trained or sent."""

    exit_code = 2

    def __init__(self, rule: str, *, reason: str, remedy: str) -> None:
        """Name the rule that refused.

        Args:
            rule: short stable name, such as `unaccounted_release`.
            reason: why it is unsafe.
            remedy: what to ask for instead.
        """
        super().__init__(f"refused by rule {rule}: {reason}; {remedy}")
        self.rule, self.reason, self.remedy = rule, reason, remedy


class WireError(PartsongError):
    """A message does not follow the wire format; it was dropped unread."""

    def __init__(self, text: str, *, rule: str = "message") -> None:
        """Name the rule that it breaks.

        Args:
            text: what was found and expected, nothing of what the message says.
            rule: short stable name, such as `envelope.signature`, for the log of whoever dropped it.
        """
        super().__init__(text)
        self.rule = rule


class RoundAborted(PartsongError):
    """A round ended without a sum; the updates of that round are gone."""


class TryAgain(PartsongError):
    """A passing shortage; nothing half-written is left, the same command may work later."""

    exit_code = 75
