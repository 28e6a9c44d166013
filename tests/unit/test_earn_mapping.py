"""Rows of files into events by a declared mapping."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paymaster.earn.mapping import Template, parse, read_rows
from paymaster.kernel.errors import Refusal, Unprocessable

NOW = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)
FIELDS = {
    "event_id": "{!amt_annotation_ids}:{orig_id}",
    "user": "{!amt_worker_ids}",
    "campaign": "labels",
    "task": "senses",
    "type": "answer",
    "occurred_at": "2008-06-01T00:00:00Z",
    "payload.item": "{orig_id}",
    "payload.answer": "{response}",
}
HEADER = "!amt_annotation_ids\t!amt_worker_ids\torig_id\tresponse\tgold"


def test_columns_and_constants_make_an_event():
    rows = [HEADER, "A1\tW1\t5:0@35\t1\t1"]
    [parsed] = read_rows(rows, parse(FIELDS), "file", NOW, delimiter="\t")
    [event] = parsed.events
    assert (event.event_id, event.user, event.line) == ("A1:5:0@35", "W1", 2)
    assert dict(event.payload) == {"item": "5:0@35", "answer": "1"}


def test_a_bad_row_does_not_stop_the_others():
    rows = [HEADER, "A1\tW1\t1\t1\t1", "A2\tW1", "A3\t\t1\t1\t1", "", "A4\tW1\t1\t1\t1"]
    [parsed] = read_rows(rows, parse(FIELDS), "file", NOW, delimiter="\t")
    assert [event.event_id for event in parsed.events] == ["A1:1", "A4:1"]
    assert [(fault.line, fault.slug) for fault in parsed.faults] == [
        (3, "event-malformed"),
        (4, "event-malformed"),
    ]


def test_commas_may_be_quoted_and_lines_counted_through_breaks():
    fields = {**FIELDS, "event_id": "{id}", "user": "{who}"}
    del fields["payload.item"], fields["payload.answer"]
    rows = ["\ufeffid,who,said\n", '1,"a,b","two\n', 'lines"\n', "2,c,d\n"]
    [parsed] = read_rows(rows, parse(fields), "file", NOW)
    assert [(event.event_id, event.user) for event in parsed.events] == [("1", "a,b"), ("2", "c")]
    assert parsed.events[1].line == 4


def test_a_broken_quote_is_a_fault():
    fields = {**FIELDS, "event_id": "{id}", "user": "{who}"}
    del fields["payload.item"], fields["payload.answer"]
    [parsed] = read_rows(["id,who", '"1"x,a', "2,b"], parse(fields), "file", NOW)
    assert [event.event_id for event in parsed.events] == ["2"]
    assert [fault.line for fault in parsed.faults] == [2]


def test_large_files_come_in_batches():
    rows = (HEADER if n == 0 else f"A{n}\tW1\t{n}\t1\t1" for n in range(25))
    sizes = [
        len(parsed.events)
        for parsed in read_rows(rows, parse(FIELDS), "file", NOW, delimiter="\t", batch=10)
    ]
    assert sizes == [10, 10, 4]


def test_the_header_must_fit():
    with pytest.raises(Unprocessable) as caught:
        list(read_rows(["a\tb\ta"], parse(FIELDS), "file", NOW, delimiter="\t"))
    assert caught.value.slug == "mapping-column"
    assert {problem.pointer for problem in caught.value.problems} == {"line:1"}
    with pytest.raises(Refusal, match="batch-empty"):
        list(read_rows([], parse(FIELDS), "file", NOW))


@pytest.mark.parametrize(
    "changes",
    [
        {"event_id": None},
        {"amount": "{price}"},
        {"reward": "1.00"},
        {"user": "{half"},
        {"user": "half}"},
        {"user": 7},
    ],
)
def test_a_mapping_with_faults_is_refused(changes: dict[str, object]):
    fields = {k: v for k, v in {**FIELDS, **changes}.items() if v is not None}
    with pytest.raises(Unprocessable) as caught:
        parse(fields)
    assert caught.value.slug == "mapping-invalid"
    assert len(caught.value.problems) == 1


def test_braces_are_written_twice():
    assert Template.parse("{{{a}}}").fill({"a": "x"}) == "{x}"


@settings(deadline=None)
@given(st.text(), st.text(min_size=1).filter(lambda name: not set("{}") & set(name)), st.text())
def test_a_template_puts_the_column_where_it_stands(around: str, name: str, value: str):
    safe = around.replace("{", "{{").replace("}", "}}")
    made = Template.parse(f"{safe}{{{name}}}{safe}")
    assert made.columns == {name}
    assert made.fill({name: value}) == around + value + around
