import hashlib
import json

import pytest

from dualsmooth.engine.certificate import Certificate, Claim, Stamp
from dualsmooth.engine.draws import DrawRecord
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.ledger import AlphaLedger, Bound

LEVELS = {"selector": 5e-4, "classifier": 5e-4}
CLAIM = Claim.of(
    3, 0.1 + 0.2, 0.25, AlphaLedger("chain", 1e-3, LEVELS),
    [Bound("classifier", "= 3", 0.25, 99, 100, 5e-4, 0.9, 0.3)], interval=(0, 1),
)  # fmt: skip
STAMP = Stamp(
    method="dual(median, interval)", seed=2**64 - 1, attempt=0, bundle="b", precision="fp32",
    device="cpu", sampler="torch", batch_size=8,
)  # fmt: skip
RECORD = DrawRecord("classifier", 0.25, "CLASS_ESTIMATE", 1, 0, 100, (1, 99, 0))
CERTIFICATE = Certificate.of(CLAIM, STAMP, 0, None, [RECORD], 1.5)


@pytest.mark.parametrize(
    ("rule", "total"), [("minimum", 0.6e-3), ("sum", 1e-3), ("chain", 1e-3), ("single", 0.6e-3)]
)
def test_rules_join_levels(rule: str, total: float) -> None:
    ledger = AlphaLedger(rule, 1e-3, {"selector": 0.4e-3, "classifier": 0.6e-3})
    assert ledger.total == pytest.approx(total, rel=1e-15)


def test_a_ledger_cannot_overspend_or_invent_a_rule() -> None:
    with pytest.raises(ArgumentError, match="ledger must not exceed its budget"):
        AlphaLedger("chain", 1e-3, {"selector": 1e-3, "classifier": 1e-3})
    with pytest.raises(ArgumentError, match=r"^rule must be one of"):
        AlphaLedger("best of three", 1e-3, LEVELS)


def test_round_trip_is_exact() -> None:
    assert Certificate.from_json(CERTIFICATE.to_json()) == CERTIFICATE
    assert json.loads(CERTIFICATE.to_json())["radius"] == 0.1 + 0.2


def test_every_altered_field_is_noticed() -> None:
    record = json.loads(CERTIFICATE.to_json())
    for key in record:
        if key != "seconds":
            altered = json.dumps(record | {key: "altered"})
            with pytest.raises((ValueError, TypeError, AttributeError)):
                Certificate.from_json(altered)
    missing = {key: value for key, value in record.items() if key != "bounds"}
    with pytest.raises(ValueError, match="not a certificate record"):
        Certificate.from_json(json.dumps(missing))
    for text in ("", "[]", "{}", "nonsense", "null"):
        with pytest.raises(ValueError, match=r"."):
            Certificate.from_json(text)


def test_time_does_not_enter_the_checksum() -> None:
    one, two = (json.loads(c.to_json()) for c in (CERTIFICATE, CERTIFICATE))
    two["seconds"] = 99.0
    assert Certificate.from_json(json.dumps(two)).seconds == 99.0
    assert one["checksum"] == two["checksum"]


def resigned(change: dict[str, object]) -> str:
    """The certificate with other fields and a right checksum."""
    record = json.loads(CERTIFICATE.to_json()) | change
    unsigned = {k: v for k, v in record.items() if k not in ("checksum", "seconds")}
    text = json.dumps(unsigned, sort_keys=True)
    return json.dumps(record | {"checksum": hashlib.sha256(text.encode()).hexdigest()[:16]})


@pytest.mark.parametrize(
    "change",
    [
        {"seconds": float("inf")},
        {"seconds": 10**400},
        {"radius": 10**400},
        {"radius": "0.3"},
        {"predicted": True},
        {"predicted": 3.0},
        {"interval": [0]},
        {"interval": [0, 1, 2]},
        {"counts": {}},
        {"bounds": [[]]},
        {"alpha": None},
        {"alpha": {"rule": "chain", "budget": 1e-3, "levels": {}, "total": 0}},
        {"alpha": {"rule": "chain", "budget": 1e-3, "levels": LEVELS, "total": 1e-4}},
        {"alpha": {"rule": "chain", "budget": 1e-3, "levels": {"a": 10**400}, "total": 1e-4}},
    ],
    ids=str,
)
def test_a_right_checksum_does_not_excuse_wrong_types(change: dict[str, object]) -> None:
    assert Certificate.from_json(resigned({})) == CERTIFICATE
    with pytest.raises(ValueError, match="must"):
        Certificate.from_json(resigned(change))


def test_deep_nesting_is_no_certificate() -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        Certificate.from_json("[" * 100_000)


def test_the_line_is_written_as_it_always_was() -> None:
    line = CERTIFICATE.to_json()
    assert line.startswith(
        '{"predicted": 3, "radius": 0.30000000000000004, "sigma": 0.25, "method": "dual(median, '
        'interval)", "abstained_at": null, "alpha": {"rule": "chain", "budget": 0.001, "levels": '
        '{"selector": 0.0005, "classifier": 0.0005}, "total": 0.001}, "bounds": [{"stage": '
        '"classifier", "event": "= 3", "sigma": 0.25, "k": 99, "n": 100, "alpha": 0.0005, "lower": '
        '0.9, "radius": 0.3}], "interval": [0, 1], "counts": [{"model": "classifier", "sigma": '
        '0.25, "phase": "CLASS_ESTIMATE", "level": 1, "first": 0, "count": 100, "votes": [1, 99, '
        '0]}], "image_id": 0, "label": null, "draws": 100, "seed": 18446744073709551615, '
        '"attempt": 0, "stream_version": 1, "bundle": "b", "precision": "fp32", "device": "cpu", '
        '"sampler": "torch", "batch_size": 8, "noise": "gaussian", "noise_tables": "", "checksum": '
    )
    assert line.endswith('"seconds": 1.5}')


def test_a_claim_without_a_stamp_is_no_certificate() -> None:
    with pytest.raises(TypeError, match=r"missing .* required"):
        Certificate(**{name: getattr(CLAIM, name) for name in CLAIM.__slots__})
    with pytest.raises(TypeError, match=r"missing .* required"):
        Stamp(method="fixed(0.25)", seed=0)  # type: ignore[call-arg]


@pytest.mark.parametrize("event", ["= 3", ">= 0", "<= 15", "!= 999"])
def test_an_event_is_a_relation_and_an_index(event: str) -> None:
    bound = Bound("classifier", event, 0.25, 99, 100, 5e-4, 0.9, 0.3)
    assert f"{bound.relation} {bound.index}" == event


@pytest.mark.parametrize(
    "event", ["", "=3", "= ", "> 3", "= -1", "= 3 ", "= 3\n", "= \u0663", "== 3"]
)
def test_other_events_are_no_records(event: str) -> None:
    with pytest.raises(ArgumentError, match="event must be a relation and an index"):
        Bound("classifier", event, 0.25, 99, 100, 5e-4, 0.9, 0.3)
    bounds = json.loads(CERTIFICATE.to_json())["bounds"]
    bounds[0]["event"] = event
    with pytest.raises(ValueError, match="event must be"):
        Certificate.from_json(resigned({"bounds": bounds}))


def test_a_region_ends_a_claim() -> None:
    assert CLAIM.within(0.1).radius == CLAIM.within(0.1).region == 0.1
    assert CLAIM.within(9.0).radius == CLAIM.radius
    assert CLAIM.within(float("inf")).region is None
    for empty in (0.0, -1.0, float("nan")):
        ended = CLAIM.within(empty)
        assert (ended.predicted, ended.radius, ended.abstained_at) == (None, 0.0, "region")
