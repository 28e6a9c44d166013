import asyncio
import io
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import structlog

from paymaster.observe import (
    Metrics,
    configure_logs,
    context,
    current_trace_id,
    format_traceparent,
    get_logger,
    metrics_response,
    parse_traceparent,
    redacted,
    trace_id_of,
)

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"


class Lines:
    """The log of one test."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    def text(self) -> str:
        return self.stream.getvalue()

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text().splitlines()]


@pytest.fixture
def lines() -> Iterator[Lines]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    made = Lines()
    configure_logs("info", "json", made.stream)
    yield made
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


# ------------------------------------------------------------------------------------ logs


def test_a_line_is_one_json_object_with_its_context(lines: Lines):
    with context(trace_id=TRACE, actor="cred_1", environment="acme-test", cell=3):
        get_logger("withdraw").info("withdrawal_requested", withdrawal="wd_1", amount="1.23")
    get_logger("withdraw").info("later")
    first, second = lines.events()
    assert {**first, "timestamp": ""} == {
        "event": "withdrawal_requested",
        "withdrawal": "wd_1",
        "amount": "1.23",
        "trace_id": TRACE,
        "actor": "cred_1",
        "environment": "acme-test",
        "cell": 3,
        "logger": "withdraw",
        "level": "info",
        "timestamp": "",
    }
    assert first["timestamp"].endswith("Z")
    assert "trace_id" not in second


def test_what_was_bound_outside_stands_again_afterwards():
    with context(trace_id="a" * 32, cell=1):
        with context(trace_id="b" * 32):
            assert current_trace_id() == "b" * 32
        assert current_trace_id() == "a" * 32
        with suppress(KeyError), context(trace_id="c" * 32):
            raise KeyError
        assert current_trace_id() == "a" * 32
    assert current_trace_id() is None


async def test_context_stays_in_its_task(lines: Lines):
    both = asyncio.Barrier(2)

    async def work(trace_id: str) -> None:
        with context(trace_id=trace_id):
            await both.wait()
            assert current_trace_id() == trace_id
            get_logger("x").info("done", expected=trace_id)

    await asyncio.gather(work("a" * 32), work("b" * 32))
    assert current_trace_id() is None
    assert all(event["trace_id"] == event["expected"] for event in lines.events())


@pytest.mark.parametrize("name", ["uvicorn", "uvicorn.error", "asyncssh", "httpx", "psycopg.pool"])
def test_lines_of_libraries_take_the_same_way(lines: Lines, name: str):
    with context(trace_id=TRACE):
        logging.getLogger(name).warning("connection %s lost", "Bearer abcdef123456")
    (event,) = lines.events()
    assert event["event"] == "connection Bearer [redacted] lost"
    assert (event["logger"], event["level"], event["trace_id"]) == (name, "warning", TRACE)


def test_addresses_that_httpx_would_log_are_not_written(lines: Lines):
    logging.getLogger("httpx").info("GET https://provider.invalid/?access_token=abc")
    assert lines.text() == ""


def test_the_level_is_kept_and_setting_up_again_does_not_double(lines: Lines):
    get_logger("x").debug("hidden")
    configure_logs("error", "json", lines.stream)
    get_logger("x").warning("hidden_too")
    get_logger("x").error("seen")
    assert [event["event"] for event in lines.events()] == ["seen"]


def test_a_traceback_is_written_without_what_is_in_it(lines: Lines):
    try:
        raise ValueError("DE89 3704 0044 0532 0130 00 refused for someone@example.org")
    except ValueError:
        get_logger("x").exception("failed")
    (event,) = lines.events()
    assert "ValueError: [redacted] refused for [redacted]" in event["exception"]
    assert "3704" not in lines.text()


def test_warnings_are_logged(lines: Lines):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn("old way", UserWarning, stacklevel=1)
        logging.captureWarnings(capture=False)
    assert "old way" in lines.events()[0]["event"]


def test_the_console_format_is_redacted_too(lines: Lines):
    configure_logs("info", "console", lines.stream)
    get_logger("x").info("hello", password="hunter2", note="Bearer abcdef123456")
    assert "hello" in lines.text()
    assert "hunter2" not in lines.text()
    assert "abcdef123456" not in lines.text()


# ------------------------------------------------------------------------------------ redaction


@pytest.mark.parametrize(
    "name",
    [
        "secret",
        "client_secret",
        "password",
        "access_token",
        "Authorization",
        "api_key",
        "private_key",
        "iban",
        "account_number",
        "external_id",
        "openid",
        "Set-Cookie",
    ],
)
def test_fields_are_dropped_by_their_name_at_every_depth(lines: Lines, name: str):
    get_logger("x").info("a", **{name: "plain-value"}, nested={"list": [{name: ["plain-value"]}]})
    assert lines.events()[0][name] == "[redacted]"
    assert "plain-value" not in lines.text()


@pytest.mark.parametrize(
    "secret",
    [
        "DE89370400440532013000",
        "DE89 3704 0044 0532 0130 00",
        "DE88370400440532013000",
        "GB82-WEST-1234-5698-7654-32",
        "NO9386011117947",
        "gb82west12345698765432",
        "0x52908400098527886E0F7030069857D2E4169EE7",
        "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq",
        "4111 1111 1111 1111",
        "5500005555555559",
        "someone.else@example.org",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abcdefghijk",
        "-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----",
    ],
)
def test_what_looks_secret_or_personal_is_cut_out(secret: str):
    for before, after in (("", ""), ("x=", "."), ("paid to ", " was refused"), ('{"a":"', '"}')):
        assert redacted(before + secret + after) == before + "[redacted]" + after


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Authorization: Bearer abc.def-ghi", "Authorization: Bearer [redacted]"),
        ("postgresql://app:s3cr3t@db/x", "postgresql://app:[redacted]@db/x"),
        ("https://x/?access_token=abc&n=1", "https://x/?access_token=[redacted]&n=1"),
        ("https://x/cb?code=abc", "https://x/cb?code=[redacted]"),
    ],
)
def test_credentials_in_addresses_and_headers_are_cut_out(text: str, left: str):
    assert redacted(text) == left


@pytest.mark.parametrize(
    "text",
    [
        "wd_0A1ZC4R7M2K9T0V",
        "AB1ZC4R7M2K9T0V",
        "AB12C4R7M2K9T0V",
        TRACE,
        f"00-{TRACE}-{SPAN}-01",
        "ab1204ffab1204ffab1204ffab1204ff",
        "status_code=200",
        "12345.67 EUR",
        "2026-11-20T09:00:00.000Z",
        "0x" + "ab" * 32,
        "1763629200000",
        "4111111111111112",
        "https://x/v1/withdrawals?limit=5",
    ],
)
def test_what_operators_need_is_left(text: str):
    assert redacted(text) == text


def test_bytes_are_counted_not_written(lines: Lines):
    get_logger("x").info("a", body=b"secret bytes", huge="y" * 50_000, many=list(range(5000)))
    (event,) = lines.events()
    assert event["body"] == "<12 bytes>"
    assert len(lines.text()) < 30_000


# ------------------------------------------------------------------------------------ trace


def test_traceparent_is_read_and_written():
    parent = parse_traceparent(f"00-{TRACE}-{SPAN}-01")
    assert parent is not None
    assert (parent.trace_id, parent.parent_id, parent.sampled) == (TRACE, SPAN, True)
    assert format_traceparent(TRACE, SPAN) == f"00-{TRACE}-{SPAN}-01"
    unsampled = parse_traceparent(format_traceparent(TRACE, sampled=False))
    assert unsampled is not None
    assert unsampled.sampled is False
    assert parse_traceparent(f"01-{TRACE}-{SPAN}-01-more") is not None


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "x",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}",
    ],
)
def test_a_malformed_traceparent_starts_a_new_trace(header: str | None):
    assert parse_traceparent(header) is None
    made = trace_id_of(header)
    assert len(made) == 32
    assert made != TRACE
    assert made != trace_id_of(header)


def test_the_callers_trace_is_taken_up():
    assert trace_id_of(f"00-{TRACE}-{SPAN}-00") == TRACE


# ------------------------------------------------------------------------------------ metrics


def test_metrics_are_exposed_under_the_documented_names():
    metrics, other = Metrics(), Metrics()
    metrics.requests.labels("GET", "/v1/users/{id}", "200").inc()
    metrics.request_duration_seconds.labels("GET", "/v1/users/{id}").observe(0.02)
    metrics.dispatch_attempts.labels("iso20022", "sent").inc(2)
    metrics.due_items.labels("withdrawal.approved").set(7)
    metrics.oldest_due_age_seconds.labels("withdrawal.approved").set(1.5)
    metrics.inbox_pending.labels("sandbox_wallet").set(1)
    metrics.unknown_attempts.labels("iso20022").set(1)
    metrics.oldest_unknown_age_seconds.labels("iso20022").set(60)
    metrics.postings.labels("reward").inc(3)
    metrics.verdicts.labels("review").inc()
    metrics.breaks_open.labels("amount").set(2)
    metrics.outbox_lag_seconds.labels("0").set(0.1)
    body, content_type = metrics_response(metrics)
    text = body.decode()
    assert content_type.startswith("text/plain")
    for line in (
        'paymaster_requests_total{method="GET",route="/v1/users/{id}",status="200"} 1.0',
        'paymaster_dispatch_attempts_total{outcome="sent",rail="iso20022"} 2.0',
        'paymaster_due_items{queue="withdrawal.approved"} 7.0',
        'paymaster_oldest_due_age_seconds{queue="withdrawal.approved"} 1.5',
        'paymaster_inbox_pending{source="sandbox_wallet"} 1.0',
        'paymaster_unknown_attempts{rail="iso20022"} 1.0',
        'paymaster_oldest_unknown_age_seconds{rail="iso20022"} 60.0',
        'paymaster_postings_total{kind="reward"} 3.0',
        'paymaster_verdicts_total{outcome="review"} 1.0',
        'paymaster_breaks_open{kind="amount"} 2.0',
        'paymaster_outbox_lag_seconds{cell="0"} 0.1',
    ):
        assert line in text.splitlines()
    assert "paymaster_request_duration_seconds_bucket" in text
    assert "iso20022" not in metrics_response(other)[0].decode()
