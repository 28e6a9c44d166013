"""The tasks of a campaign and their gold answers; a user's own list, starting, handing in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast

import msgspec
from fastapi import APIRouter, Path, Request
from pydantic import Field, StringConstraints
from starlette.responses import Response

from paymaster.api import guarded
from paymaster.api.campaigns import CampaignPath
from paymaster.api.context import Call, Campaigns, Events, Operates, OwnEvents, OwnReads, Reads
from paymaster.api.door import Door
from paymaster.api.guarded import Ready
from paymaster.api.models import Amount, Body, Moment, Name, Reason, Reply, Text, listing
from paymaster.api.paging import Paged, next_cursor
from paymaster.api.shapes import GoldOut, Page, SubmittedOut, TaskOut, UserTaskOut
from paymaster.api.shapes_staff import WAITING
from paymaster.api.users import UserPath
from paymaster.db.tx import CellTx, ControlTx
from paymaster.earn import catalogue, intake, task, user_task
from paymaster.earn.catalogue import Offer
from paymaster.earn.event import Status
from paymaster.earn.ingest import ingest
from paymaster.earn.machine import OfferState
from paymaster.earn.task import PutTask as Command
from paymaster.earn.user_task import Decision
from paymaster.kernel.clock import parse_rfc3339
from paymaster.kernel.errors import NotFound, Problem, Refusal, Unprocessable
from paymaster.kernel.ids import parse_text_id, text_id
from paymaster.kernel.money import Money
from paymaster.people import users

router = APIRouter(route_class=Door, tags=["tasks"])
LIST = "/v1/campaigns/{campaign}/tasks"
TaskPath = Annotated[str, Path(max_length=128, description="The app's own id of the task.")]
TaskIdPath = Annotated[str, Path(max_length=40, description="`tk_...`")]


class PutTask(Body):
    """The whole task. Type, start and kind of verification stay as they were first given."""

    type: Annotated[Text, StringConstraints(max_length=40), Field(examples=["labelling"])]
    title: Name
    reward: Amount
    verification: Annotated[
        dict[Text, Any],
        Field(
            description="`kind` is gold, count or review.",
            examples=[{"kind": "count", "event": "opened", "count": 3, "distinct_days": True}],
        ),
    ]
    starts_at: Moment
    requirements: Annotated[dict[Text, Any], Field(default_factory=dict)]
    user_cap: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    expires_at: Moment | None = None
    state: Literal["active", "paused", "ended"] = "active"


class Decide(Body):
    """A person's word on work that was handed in."""

    approve: bool
    reason: Reason


@router.put(
    "/v1/campaigns/{campaign}/tasks/{task_name}",
    response_model=TaskOut,
    responses={201: {"model": TaskOut, "description": "Made."}},
)
async def put_task(
    call: Campaigns, campaign: CampaignPath, task_name: TaskPath, body: PutTask
) -> Reply:
    """Make a task or change one. A new reward counts for what is done from now on."""
    command = Command(
        external_id=call.name(task_name),
        type=body.type,
        title=body.title,
        reward=body.reward.money(),
        verification=body.verification,
        starts_at=parse_rfc3339(body.starts_at),
        requirements=body.requirements,
        user_cap=body.user_cap,
        expires_at=parse_rfc3339(body.expires_at) if body.expires_at else None,
        state=OfferState(body.state),
    )
    view, created = await call.control(
        lambda tx: task.put_task(tx, call.environment.id, call.name(campaign), command)
    )
    return Reply(view.wire(), 201 if created else 200)


@router.get(LIST, response_model=Page[TaskOut])
async def list_tasks(call: Reads, campaign: CampaignPath, page: Paged) -> Reply:
    """The tasks of a campaign, oldest first."""
    filters = {"campaign": call.name(campaign)}
    position = page.after(call, LIST, filters)
    after = cast("int", position[0]) if position else 0
    found = await call.look(
        lambda tx: task.listing(tx, call.environment.id, campaign, after, page.limit)
    )
    last = (found[-1].number,) if len(found) == page.limit else None
    return listing([view.wire() for view in found], next_cursor(call, LIST, filters, last))


@router.get("/v1/campaigns/{campaign}/tasks/{task_name}", response_model=TaskOut)
async def get_task(call: Reads, campaign: CampaignPath, task_name: TaskPath) -> Reply:
    """A task. Gold answers are never shown."""
    view = await call.look(
        lambda tx: task.named(tx, call.environment.id, call.name(campaign), call.name(task_name))
    )
    return Reply(view.wire())


class GoldLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line of NDJSON."""

    item: str
    answer: str


class GoldItems(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The JSON form."""

    items: dict[str, str]


_LINE, _ITEMS = msgspec.json.Decoder(GoldLine), msgspec.json.Decoder(GoldItems)


@router.put(
    "/v1/campaigns/{campaign}/tasks/{task_name}/gold",
    response_model=GoldOut,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "properties": {
                            "items": {
                                "type": "object",
                                "additionalProperties": {"type": "string"},
                                "description": "Item to answer; at most 10 000.",
                            }
                        },
                        "required": ["items"],
                        "additionalProperties": False,
                    }
                },
                "application/x-ndjson": {
                    "schema": {
                        "type": "string",
                        "description": 'Lines of {"item": "...", "answer": "..."}.',
                    }
                },
            },
        }
    },
)
async def put_gold(
    call: Campaigns, campaign: CampaignPath, task_name: TaskPath, request: Request
) -> Reply:
    """Store known answers of a labelling task. They never leave the server."""
    answers = _gold(await request.body(), request.headers.get("content-type", ""))

    async def work(tx: ControlTx) -> int:
        found = await task.named(tx, call.environment.id, call.name(campaign), call.name(task_name))
        return await task.put_gold(tx, call.environment.id, found.id, answers)

    return Reply({"answers": len(answers), "changed": await call.control(work)})


def _gold(body: bytes, content_type: str) -> Mapping[str, str]:
    if not content_type.startswith("application/x-ndjson"):
        try:
            return _ITEMS.decode(body).items
        except msgspec.ValidationError:
            raise
        except (msgspec.DecodeError, RecursionError) as error:
            raise Refusal("json-malformed", f"The body is not JSON: {error}.") from None
    answers: dict[str, str] = {}
    for number, line in enumerate(body.split(b"\n"), start=1):
        if line.strip():
            try:
                read = _LINE.decode(line)
            except (msgspec.DecodeError, RecursionError) as error:
                problems = [Problem(f"line:{number}", f"{error}.")]
                raise Refusal(
                    "request-invalid",
                    "A line cannot be read; nothing was stored.",
                    problems=problems,
                ) from None
            answers[read.item] = read.answer
    return answers


@router.get("/v1/users/{user}/tasks", response_model=Page[UserTaskOut])
async def list_user_tasks(call: OwnReads, user: UserPath) -> Reply:
    """What of all that is on offer the user may do now."""
    ref = await call.user(user)
    live = await call.look(lambda tx: catalogue.live(tx, call.environment.id, tx.now))
    found = await call.cell(ref.cell).read(
        lambda tx: user_task.listing(tx, call.deps.secrets.sealer, ref.id, live)
    )
    return listing([one.wire() for one in found])


async def _offer(call: Call, text: str) -> Offer:
    number = parse_text_id("tk", text).id
    found = await call.look(lambda tx: catalogue.by_number(tx, call.environment.id, [number]))
    if number not in found or found[number].task_name != text:
        raise NotFound("task-unknown", "There is no such task.")
    return found[number]


@router.post("/v1/users/{user}/tasks/{task_id}/start", response_model=UserTaskOut)
async def start_task(call: OwnEvents, user: UserPath, task_id: TaskIdPath) -> Reply:
    """The user begins a task; again changes nothing."""
    ref, offer = await call.user(user), await _offer(call, task_id)
    found = await call.write(
        call.cell(ref.cell),
        lambda tx: user_task.start(tx, call.deps.secrets.sealer, ref.id, offer),
    )
    return Reply(found.wire())


class Submit(Body):
    """Work that is handed in. The payload holds what the task's verification looks at."""

    submission_id: Annotated[
        Text,
        StringConstraints(min_length=1, max_length=80),
        Field(description="The app's own id of it: the same one again changes nothing."),
    ]
    payload: Annotated[dict[Text, str | int | bool | None], Field(default_factory=dict)]
    occurred_at: Moment


@router.post("/v1/users/{user}/tasks/{task_id}/submit", response_model=SubmittedOut)
async def submit_task(call: Events, user: UserPath, task_id: TaskIdPath, body: Submit) -> Reply:
    """Hand work in: an event of the type that the task's verification waits for."""
    ref, offer = await call.user(user), await _offer(call, task_id)
    view = await call.cell(ref.cell).read(
        lambda tx: users.get(tx, call.deps.secrets.sealer, ref.id)
    )
    event = {
        "event_id": f"{view.id}/{offer.task_name}/{body.submission_id}",
        "user": view.external_id,
        "task": offer.task_name,
        "type": offer.rule.event,
        "occurred_at": body.occurred_at,
        "payload": body.payload,
    }
    report = await ingest(
        call.deps.dbs,
        call.deps.secrets.sealer,
        call.environment.id,
        call.actor,
        call.trace_id,
        "submit",
        intake.parse(msgspec.json.encode([event]), "submit", await call.now()),
    )
    [outcome] = report.outcomes
    if outcome.status is Status.REJECTED:
        raise Unprocessable(outcome.slug or "event-rejected", outcome.detail or "")
    return Reply({"status": outcome.status.value, "reward": outcome.reward_id})


async def _decision(call: Call, subject: str, body: Mapping[str, Any]) -> Ready:
    user, _, task_id = subject.partition("/")
    ref, offer = call.ref("us", user), await _offer(call, task_id)
    decision = Decision(ref.id, offer, body["approve"], body["reason"])

    async def amount(tx: CellTx) -> Money | None:  # noqa: ARG001 - it is what the task offers
        return offer.reward if decision.approve else None

    async def run(tx: CellTx) -> Mapping[str, Any]:
        [decided] = await user_task.decide(tx, [decision])
        if decided.slug is not None:
            raise Unprocessable(
                decided.slug, "There is no work of the user that waits for a decision."
            )
        return user_task.UserTask(offer, decided.state).wire()

    return Ready(call.cell(ref.cell), amount, run)


DECIDE = guarded.Act("task.decide", _decision)


@router.post(
    "/v1/users/{user}/tasks/{task_id}/decide", response_model=UserTaskOut, responses=WAITING
)
async def decide_task(
    call: Operates, user: UserPath, task_id: TaskIdPath, body: Decide
) -> Response:
    """Approve or reject work that was handed in; approved work is rewarded at once."""
    ref = await call.user(user)
    subject = f"{text_id('us', ref.cell, ref.id)}/{task_id}"
    return await guarded.guarded(call, DECIDE, subject, body.model_dump(mode="json"))
