import json
from typing import Annotated, Any

import httpx
import msgspec
import pytest
from fastapi import FastAPI
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from paymaster.api.problems import MEDIA_TYPE, install, pointer, problem_of, refusal_of_input
from paymaster.kernel import errors
from paymaster.kernel.errors import (
    Broken,
    Busy,
    Conflict,
    Forbidden,
    NeverSent,
    NotFound,
    PaymasterError,
    Problem,
    RailRefused,
    RailUnknown,
    RateLimited,
    Refusal,
    Unauthenticated,
    Unprocessable,
)

TRACE = "0af7651916cd43dd8448eb211c80319c"


def told(error: Exception) -> dict[str, Any]:
    made = problem_of(error, trace_id=TRACE)
    document = json.loads(made.body)
    assert made.headers["Content-Type"] == MEDIA_TYPE
    assert document["status"] == made.status
    assert document["type"] == f"/docs/errors#{document['code']}"
    assert document["trace_id"] == TRACE
    assert document["title"]
    assert document["detail"]
    return document


@pytest.mark.parametrize(
    ("error", "status", "code", "retryable"),
    [
        (Refusal("amount-precision", "Fewer decimals."), 400, "amount-precision", False),
        (Unauthenticated("credential-invalid", "No."), 401, "credential-invalid", False),
        (Forbidden("scope-missing", "No."), 403, "scope-missing", False),
        (NotFound("not-found", "No."), 404, "not-found", False),
        (Conflict("illegal-move", "Too late."), 409, "illegal-move", False),
        (Unprocessable("insufficient", "Too little."), 422, "insufficient", False),
        (RateLimited("rate-limited", "Slower."), 429, "rate-limited", True),
        (Busy("database-slow", "Later."), 503, "database-slow", True),
        (Broken("books-unbalanced", "internal detail"), 500, "books-unbalanced", False),
        (RailUnknown("bank-said", "internal detail"), 500, "internal", True),
        (RailRefused("bank-said", "internal detail"), 500, "internal", True),
        (NeverSent("bank-said", "internal detail"), 500, "internal", True),
        (RuntimeError("internal detail"), 500, "internal", True),
        (HTTPException(405), 405, "method-not-allowed", False),
        (HTTPException(413, "internal detail"), 413, "body-too-large", False),
        (HTTPException(418), 418, "request-invalid", False),
        (HTTPException(502, "internal detail"), 500, "internal", True),
    ],
)
def test_the_table(error: Exception, status: int, code: str, *, retryable: bool):
    document = told(error)
    assert (document["status"], document["code"]) == (status, code)
    assert document["retryable"] is retryable
    assert "internal detail" not in json.dumps(document)
    assert "bank-said" not in json.dumps(document)


def test_every_class_of_error_has_a_status_of_its_kind():
    classes = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type)
        and issubclass(kind, PaymasterError)
        and kind is not PaymasterError
    ]
    assert len(classes) >= 13
    for kind in classes:
        status = told(kind("some-slug", "Some detail."))["status"]
        assert (status < 500) == issubclass(kind, Refusal | Conflict | RateLimited)


def test_who_may_come_again_is_told_when():
    assert problem_of(Busy("b", "d", retry_after_seconds=7)).headers["Retry-After"] == "7"
    assert problem_of(RateLimited("r", "d", retry_after_seconds=9)).headers["Retry-After"] == "9"
    assert problem_of(HTTPException(429)).headers["Retry-After"] == "1"
    given = HTTPException(503, headers={"Retry-After": "30"})
    assert problem_of(given).headers["Retry-After"] == "30"
    assert "Retry-After" not in problem_of(Conflict("c", "d")).headers
    assert problem_of(Unauthenticated("u", "d")).headers["WWW-Authenticate"] == "Bearer"


def test_faults_and_extra_members_are_told_and_reserved_names_are_kept():
    refusal = Refusal(
        "rule-invalid",
        "Wrong.",
        problems=[Problem("/a", "Do b.")],
        extra={"balance": "1.00", "status": "999", "code": "other"},
    )
    document = told(refusal)
    assert document["errors"] == [{"pointer": "/a", "detail": "Do b."}]
    assert (document["balance"], document["code"]) == ("1.00", "rule-invalid")
    many = Refusal("x", "d", problems=[Problem(f"/{n}", "d") for n in range(5000)])
    assert len(told(many)["errors"]) == 100


def test_the_place_of_the_error_reference_is_a_setting():
    made = problem_of(NotFound("not-found", "No."), errors_url="https://docs.example/errors")
    assert json.loads(made.body)["type"] == "https://docs.example/errors#not-found"
    assert "trace_id" not in json.loads(made.body)


def test_pointers_are_escaped():
    assert pointer("a/b", "c~d", "0") == "/a~1b/c~0d/0"
    assert pointer() == ""


# ------------------------------------------------------------------------------------ msgspec


class Amount(msgspec.Struct, forbid_unknown_fields=True):
    amount: str
    currency: Annotated[str, msgspec.Meta(pattern="^[A-Z]{3}$")]


class Event(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    amounts: list[Amount] = []
    tags: dict[str, int] = {}


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ('{"id": 1}', "/id"),
        ("{}", ""),
        ('{"id": "a", "amounts": [{"amount": "1", "currency": "eur"}]}', "/amounts/0/currency"),
        ('{"id": "a", "amounts": [{"amount": "1"}]}', "/amounts/0"),
        ('{"id": "a", "extra": 1}', ""),
        ('{"id": "a", "tags": {"x": "private-value"}}', "/tags"),
        ("[1]", ""),
        ("{", ""),
        ("", ""),
    ],
)
def test_msgspec_faults_point_into_the_body(body: str, place: str):
    with pytest.raises(msgspec.DecodeError) as caught:
        msgspec.json.decode(body, type=Event)
    document = told(caught.value)
    assert (document["status"], document["code"]) == (400, "request-invalid")
    assert [fault["pointer"] for fault in document["errors"]] == [place]
    assert "private-value" not in json.dumps(document)


# ------------------------------------------------------------------------------------ applications


class Order(BaseModel):
    amount: Annotated[str, Field(pattern=r"^[0-9.]+$", max_length=20)]
    lines: list[int] = []


def fastapi_app() -> FastAPI:
    app = FastAPI()
    install(app, errors_url="/docs/errors")

    @app.post("/orders/{number}")
    async def order(number: int, order: Order, limit: int = 1) -> dict[str, Any]:
        return {"number": number, "order": order.amount, "limit": limit}

    @app.get("/broken")
    async def broken() -> None:
        raise KeyError("password=hunter2")

    @app.get("/refused")
    async def refused(request: Request) -> None:
        request.state.trace_id = TRACE
        raise Unprocessable("insufficient", "Too little.")

    @app.get("/internal-model")
    async def internal_model() -> None:
        TypeAdapter(int).validate_python("a stored value that is no number")

    return app


def starlette_app() -> Starlette:
    async def intake(request: Request) -> Response:
        msgspec.json.decode(await request.body(), type=Event)
        return Response(status_code=202)

    app = Starlette(routes=[Route("/events", intake, methods=["POST"])])
    install(app)
    return app


async def ask(app: Any, method: str, path: str, **more: Any) -> httpx.Response:
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.request(method, path, **more)
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == MEDIA_TYPE
        assert answer.headers["cache-control"] == "no-store"
    return answer


@pytest.mark.parametrize(
    ("path", "body", "places"),
    [
        ("/orders/1", {"amount": "1"}, None),
        ("/orders/1", {"amount": "x"}, ["/amount"]),
        ("/orders/1", {"amount": "1", "lines": [1, "x"]}, ["/lines/1"]),
        ("/orders/1", {}, ["/amount"]),
        ("/orders/x?limit=y", {"amount": "1"}, ["path:number", "query:limit"]),
    ],
)
async def test_fastapi_input_faults(path: str, body: Any, places: list[str] | None):
    answer = await ask(fastapi_app(), "POST", path, json=body)
    if places is None:
        assert answer.status_code == 200
        return
    assert answer.status_code == 400
    assert answer.json()["code"] == "request-invalid"
    assert [fault["pointer"] for fault in answer.json()["errors"]] == places


async def test_a_body_that_is_not_json_is_not_repeated():
    answer = await ask(
        fastapi_app(),
        "POST",
        "/orders/1",
        content='{"private-value',
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == 400
    assert "private-value" not in answer.text


async def test_an_unexpected_exception_tells_nothing():
    answer = await ask(fastapi_app(), "GET", "/broken")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "hunter2" not in answer.text
    assert "KeyError" not in answer.text


async def test_a_fault_in_our_own_models_is_not_blamed_on_the_caller():
    answer = await ask(fastapi_app(), "GET", "/internal-model")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(int).validate_python("x")
    assert refusal_of_input(caught.value).slug == "request-invalid"


async def test_the_trace_id_of_the_request_is_told():
    answer = await ask(fastapi_app(), "GET", "/refused")
    assert (answer.status_code, answer.json()["trace_id"]) == (422, TRACE)


async def test_the_frameworks_own_refusals_are_problems():
    answer = await ask(fastapi_app(), "GET", "/nowhere")
    assert (answer.status_code, answer.json()["code"]) == (404, "not-found")
    answer = await ask(starlette_app(), "GET", "/events")
    assert (answer.status_code, answer.json()["code"]) == (405, "method-not-allowed")
    assert answer.headers["allow"] == "POST"


async def test_starlette_answers_msgspec_faults():
    answer = await ask(starlette_app(), "POST", "/events", content='{"id": 5}')
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (400, "/id")
    assert (await ask(starlette_app(), "POST", "/events", content='{"id": "5"}')).status_code == 202
