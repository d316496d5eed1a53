"""One block of the last sum, picked at random and recomputed from every site's masked vector.

Covers: a sum that is wrong somewhere although its tag fits, which takes a coordinator that works with a site. The block
is picked after the sum was signed, so nothing can have been prepared for it.
Does not cover: the blocks that nobody picked. With k checks by honest sites on n blocks a sum that is wrong in one of
them escapes with probability (1 - 1/n)**k a round; a small vector is one block. The last sum of a run is not asked for
here: `partsong verify` recomputes it.

Specification: PROTOCOL.md section 8.
"""

from __future__ import annotations

from partsong.client.secure_sum.vault import Vault
from partsong.common.codec import unpack
from partsong.common.errors import Refused, WireError
from partsong.common.secure_sum.merkle import LEAF_BYTES
from partsong.common.secure_sum.messages import Result
from partsong.common.secure_sum.recompute import SumDisagrees, check_block
from partsong.common.secure_sum.shamir import Entropy
from partsong.common.secure_sum.transcript import RunFacts

CHECKS = 3
"""Sites that check a round, on average; all of them where they are fewer. A check costs 64 KiB for each summand."""
NONE = -1
"""No block is asked for."""
_RECORD = "wrong sum"


class SpotCheck:
    """The check of one run at one site."""

    def __init__(self, vault: Vault, *, entropy: Entropy) -> None:
        """Prepare.

        Args:
            vault: remembers a sum that was found wrong.
            entropy: secret uniform bytes: a coordinator must not know which block it will be asked for.
        """
        self._vault, self._entropy = vault, entropy
        self._packed = b""
        self.wanted = NONE

    def forget(self) -> None:
        """Nothing is asked for in this round."""
        self._packed, self.wanted = b"", NONE

    def pick(self, packed: bytes, *, members: int) -> None:
        """Choose whether to check the last sum, and where.

        Args:
            packed: its RESULT, or empty.
            members: of the run that this round may ask.
        """
        self.forget()
        if packed and self._below(members) < CHECKS:
            blocks = -(-len(unpack(Result, packed).words) // LEAF_BYTES)
            self._packed, self.wanted = packed, self._below(blocks)

    def require(self, proof: bytes, *, run: RunFacts) -> None:
        """Recompute the block that was asked for, before anything is sealed on top of that sum.

        Raises:
            Refused: `unproven_block`, where the block is missing or another; `wrong_sum`, where it does not add up:
                this site takes no further part in the run, also after a restart.
        """
        if self.wanted == NONE:
            return
        try:
            check_block(proof, result=self._packed, leaf=self.wanted, run=run)
        except WireError as err:
            raise Refused(
                "unproven_block", reason="the block of the last sum was not shown", remedy="send it with ROSTER"
            ) from err
        except SumDisagrees as err:
            self._vault.write(_RECORD, run.setup)
            raise self._wrong() from err
        self.forget()

    def require_trust(self, run: RunFacts) -> None:
        """Refuse to go on in a run in which a sum was found wrong here."""
        if self._vault.read(_RECORD) == run.setup:
            raise self._wrong()

    def _below(self, number: int) -> int:
        """Draw one of 0 to `number` - 1; the bias is below 2**-30."""
        return int.from_bytes(self._entropy(8), "big") % number

    @staticmethod
    def _wrong() -> Refused:
        return Refused(
            "wrong_sum",
            reason="a published sum is not what the masked vectors add up to",
            remedy="compare the results with the other sites; this site takes no further part in the run",
        )
