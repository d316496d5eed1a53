"""Cuts the vectors that concern this package out of Wycheproof: `python make_wycheproof.py FOLDER`.

FOLDER holds the files of `testvectors_v1` of github.com/C2SP/wycheproof, at any depth. What is left out is said in
`LEFT_OUT`; the number of rows before and after stands in the result.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Row = dict[str, Any]
COMMIT = "7a325932231bd7a724c791c8b0d65ea4d6d2f435"
LEFT_OUT = {
    "aes_gcm_test": "other sizes of key, nonce and tag than this package has",
    "ecdh_secp384r1_ecpoint_test": "four of five vectors of the kind EdgeCaseDoubling",
    "mlkem_768_encaps_test": "valid keys, because encapsulation here draws its own randomness; 95 of 100 not reduced",
    "mlkem_1024_encaps_test": "as for mlkem_768_encaps_test",
    "mlkem_768_test": "plain valid ones, which cryptography_vectors has; 24 of 40 with a wrong length",
    "mlkem_1024_test": "as for mlkem_768_test",
}


def every(number: int, of: Callable[[Row], bool]) -> Callable[[Row], bool]:
    """Keep each `number`th row of a kind, and all rows of other kinds."""
    seen = 0

    def keep(row: Row) -> bool:
        nonlocal seen
        seen += of(row)
        return not of(row) or seen % number == 1

    return keep


def kem(row: Row) -> bool:
    return row["result"] == "invalid" or bool(row["flags"])


def says(text: str) -> Callable[[Row], bool]:
    return lambda row: text in row.get("comment", "")


# The fields of a row, from the test or else from its group; and which rows stay.
FILES: dict[str, tuple[list[str], list[Callable[[Row], bool]]]] = {
    "aes_gcm_test": (
        ["key", "iv", "aad", "msg", "ct", "tag"],
        [lambda row: (row["keySize"], row["ivSize"], row["tagSize"]) == (256, 96, 128)],
    ),
    "hkdf_sha256_test": (["ikm", "salt", "info", "size", "okm"], []),
    "x25519_test": (["public", "private", "shared"], []),
    "ed25519_test": (["key", "msg", "sig"], []),
    "ecdsa_secp384r1_sha384_p1363_test": (["key", "msg", "sig"], []),
    "ecdh_secp384r1_ecpoint_test": (
        ["public", "private", "shared"],
        [every(5, lambda row: "EdgeCaseDoubling" in row["flags"])],
    ),
    "mlkem_768_encaps_test": (["ek"], [kem, every(20, says("not reduced"))]),
    "mlkem_1024_encaps_test": (["ek"], [kem, every(20, says("not reduced"))]),
    "mlkem_768_test": (
        ["seed", "c", "K"],
        [kem, *(every(5, says(t)) for t in ("text too", "key too short")), every(2, says("key too long"))],
    ),
    "mlkem_1024_test": (
        ["seed", "c", "K"],
        [kem, *(every(5, says(t)) for t in ("text too", "key too short")), every(2, says("key too long"))],
    ),
}


def rows_of(path: Path) -> list[Row]:
    groups = json.loads(path.read_text())["testGroups"]
    rows = []
    for group in groups:
        facts = {name: group.get(name) for name in ("keySize", "ivSize", "tagSize")}
        public = group.get("publicKey")
        if public:
            facts["key"] = public.get("uncompressed") or public["pk"]
        rows += [facts | test for test in group["tests"]]
    return rows


def main(folder: Path, target: Path) -> None:
    parts = []
    for name, (fields, keeps) in FILES.items():
        (path,) = folder.rglob(f"{name}.json")
        rows = all_rows = rows_of(path)
        for keep in keeps:
            rows = [row for row in rows if keep(row)]
        lines = [
            json.dumps([row["tcId"], row["result"], row["flags"], *(row.get(f, "") for f in fields)]) for row in rows
        ]
        facts = {"of": len(all_rows), "left_out": LEFT_OUT.get(name, "nothing"), "fields": fields}
        parts.append(f"{json.dumps(name)}: {json.dumps(facts)[:-1]}, " + '"rows": [\n' + ",\n".join(lines) + "\n]}")
    source = f"github.com/C2SP/wycheproof, testvectors_v1, commit {COMMIT}, Apache-2.0; cut by make_wycheproof.py"
    target.write_text('{"source": ' + json.dumps(source) + ',\n"files": {\n' + ",\n".join(parts) + "\n}}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(__file__).with_name("wycheproof.json"))
