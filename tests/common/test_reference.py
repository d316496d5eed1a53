"""A slow second implementation replays one frozen transcript of each suite, byte for byte."""

import importlib.util
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_SPEC = importlib.util.spec_from_file_location("replay", Path(__file__).with_name("replay.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
ref = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(ref)

VECTORS = Path(__file__).parents[1] / "vectors"
SITES = ref.SITES


@pytest.fixture(scope="module", params=["transcript.json", "transcript_f.json"])
def replay(request: pytest.FixtureRequest):
    return ref.Replay(VECTORS / request.param)


def test_begin_and_bundles(replay) -> None:
    """BEGIN names the charter; bundles hold the public halves of what was drawn."""
    begin = replay.fields("begin", replay.alone(replay.message("begin"), replay.coordinator))
    assert begin.fixed(32) == ref.digest("charter", replay.vector["charter"].encode())
    assert (begin.fixed(32), begin.number()) == (bytes.fromhex(replay.vector["run"]), 1)
    begin.end()
    for site in SITES:
        bundle = replay.fields("bundle", replay.alone(replay.message("bundle", site)), marked=True)
        assert (bundle.fixed(32), bundle.number()) == (replay.begin, site)
        assert bundle.fixed(replay.suite.exchange_bytes) == replay.exchange_keys[site]
        assert bundle.fixed(replay.suite.kem_bytes) == replay.kem_key(site)
        assert bundle.fixed(32) == ref.digest("beacon nonce", replay.begin, replay.drawn[site]["nonce"])
        bundle.end()
    together = replay.fields("bundles", replay.message("bundles"), marked=True)
    assert together.many_signed() == [replay.alone(replay.message("bundle", site)) for site in SITES]
    together.end()


def test_pairings_and_keys(replay) -> None:
    """Every sealed secret opens to what was drawn; pair keys and group key follow."""
    for receiver in SITES:
        pairings = replay.fields("pairings", replay.message("pairings", receiver), marked=receiver > 0)
        bodies = pairings.many_signed()
        pairings.end()
        assert len(bodies) == receiver
        for sender, body in enumerate(bodies):
            pairing = replay.fields("pairing", body)
            assert (pairing.fixed(32), pairing.number(), pairing.number()) == (replay.transcript, sender, receiver)
            info = ref.digest("pair secret", replay.transcript, ref.num(sender), ref.num(receiver))
            drawn = replay.drawn[receiver]
            secret = replay.suite.open(pairing.text(), drawn["lattice"], drawn["curve"], info)
            assert secret == replay.drawn[sender][f"r{receiver}"]
            key = ref.derive(replay.pair_keys[0, receiver], "group key", replay.transcript)
            sealed = AESGCM(key).encrypt(ref.ZERO_NONCE, replay.drawn[0]["group"], replay.transcript)
            assert pairing.text() == (sealed if sender == 0 else b"")
            pairing.end()
    assert {f"{i}-{j}": key.hex() for (i, j), key in replay.pair_keys.items()} == replay.vector["pair_keys"]
    assert replay.drawn[0]["group"].hex() == replay.vector["group_key"]


def test_reveals_and_the_name_of_the_run(replay) -> None:
    """Nonces, the group key's hash, and the hash over all of it."""
    reveals = replay.fields("reveals", replay.message("reveals"), marked=True)
    for site, body in enumerate(reveals.many_signed()):
        assert body == replay.alone(replay.message("reveal", site))
        reveal = replay.fields("reveal", body)
        assert (reveal.fixed(32), reveal.number()) == (replay.transcript, site)
        assert (reveal.fixed(32), reveal.fixed(32)) == (replay.drawn[site]["nonce"], replay.group_hash)
        reveal.end()
    reveals.end()
    assert replay.setup.hex() == replay.vector["setup"]


def test_open_ready_and_roster(replay) -> None:
    """The header's fields, one READY each, and the context over all of them."""
    header = replay.fields("header", replay.header)
    assert (header.fixed(32), header.number()) == (replay.setup, 1)
    assert [header.fixed(32) for _ in range(3)] == [b"\x01" * 32, b"\x02" * 32, bytes(32)]
    assert [header.number() for _ in range(5)] == [replay.words, 0, 1, 2**40, 0]
    assert header.fixed(32) == replay.setup
    header.end()
    for site, body in enumerate(replay.readys):
        ready = replay.fields("ready", body)
        assert (ready.fixed(32), ready.number(), ready.number()) == (ref.digest("header", replay.header), site, 1)
        assert ready.fixed(32) == bytes([site]) * 32
        ready.end()
    roster = replay.fields("roster", replay.alone(replay.message("roster"), replay.coordinator), marked=True)
    assert roster.fixed(32) == ref.digest("header", replay.header)
    assert roster.many_signed() == replay.readys
    roster.end()
    assert replay.context.hex() == replay.vector["context"]


@pytest.mark.parametrize("site", SITES)
def test_reports(replay, site: int) -> None:
    """Masks, tag, shares and bundles, to the last byte."""
    report = replay.fields("report", replay.message("report", site), marked=True)
    header = replay.fields("report header", report.signed())
    masked, bundles = replay.masked(site), replay.bundles(site)
    assert (header.fixed(32), header.number()) == (replay.context, site)
    assert (header.fixed(32), header.fixed(32)) == (ref.root(masked), ref.digest("bundles", *bundles))
    header.end()
    assert report.texts() == bundles
    assert report.text() == masked
    report.end()
    assert {str(j): replay.pair_seed(0, j).hex() for j in (1, 2)} == replay.vector["mask_seeds_of_site_0"]


@pytest.mark.parametrize("site", SITES)
def test_confirm_and_unmask(replay, site: int) -> None:
    """The survivor hash, one confirmation each, and shares of the other sites' own seeds alone."""
    request = replay.fields("confirm request", replay.message("confirm_request", site), marked=True)
    survivors = replay.fields("survivors", request.signed(replay.coordinator), marked=True)
    assert survivors.fixed(32) == replay.context
    assert survivors.many_signed() == [replay.report_header(i) for i in SITES]
    survivors.end()
    others = [i for i in SITES if i != site]
    assert request.texts() == [replay.bundles(i)[[j for j in SITES if j != i].index(site)] for i in others]
    request.end()
    confirm = replay.fields("confirm", replay.alone(replay.message("confirm", site)))
    assert (confirm.fixed(32), confirm.fixed(32), confirm.number()) == (replay.context, replay.survivors, site)
    confirm.end()
    quorum = replay.fields("quorum", replay.alone(replay.message("quorum"), replay.coordinator), marked=True)
    assert quorum.fixed(32) == replay.context
    assert quorum.many_signed() == [replay.alone(replay.message("confirm", i)) for i in SITES]
    quorum.end()
    unmask = replay.fields("unmask", replay.alone(replay.message("unmask", site)))
    assert (unmask.fixed(32), unmask.number()) == (replay.context, site)
    assert unmask.texts() == [replay.shares(i)[site][:39] for i in others]
    unmask.end()


def test_result(replay) -> None:
    """The opened words are the plain sum, the tag fits, and the statement names them."""
    result = replay.fields("result", replay.message("result"), marked=True)
    statement = replay.fields("statement", result.signed(replay.coordinator))
    assert result.signed(replay.coordinator) == replay.header
    assert result.many_signed() == replay.readys
    assert result.many_signed() == [replay.report_header(i) for i in SITES]
    assert result.many_signed() == [replay.alone(replay.message("confirm", i)) for i in SITES]
    words = result.text()
    result.end()
    assert [statement.fixed(32) for _ in range(3)] == [replay.context, replay.survivors, ref.root(words)]
    statement.end()
    total = replay.opened()
    plain = [sum(column) for column in zip(*replay.vector["vectors"], strict=True)]
    assert b"".join(w.to_bytes(8, "little") for w in total) == words
    assert total[: replay.words] == plain == replay.vector["sum"]
    low, middle, high = total[replay.words :]
    tag = low + (middle << 32) + (high << 64)
    assert (tag - replay.inner(plain) - sum(replay.pad(i) for i in SITES)) % ref.TAG_FIELD == 0


def test_the_slow_curve_refuses_what_it_should() -> None:
    """The control for its checks: a mirrored signature, another message, a point off the curve."""
    replay = ref.Replay(VECTORS / "transcript_f.json")
    fields = replay.fields("signed", replay.message("begin"), marked=True)
    body, signature = fields.text(), fields.fixed(96)
    message, s = ref.digest("signature", body), int.from_bytes(signature[48:], "big")
    ref.verify_ecdsa(replay.coordinator, signature, message)

    for key, bad, said in (
        (replay.coordinator, signature[:48] + (ref.N - s).to_bytes(48, "big"), message),
        (replay.coordinator, signature, message[:-1]),
        (replay.coordinator[:-1] + bytes([replay.coordinator[-1] ^ 1]), signature, message),
    ):
        with pytest.raises(AssertionError):
            ref.verify_ecdsa(key, bad, said)
    assert ref.times(ref.N, ref.G) is None
