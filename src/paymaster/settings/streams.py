"""Settings of the status stream."""

from __future__ import annotations

from pydantic import Field

from paymaster.settings.base import Group


class Streams(Group):
    """`GET /v1/users/{user}/stream`: what happens to one user's money, as it happens."""

    per_user: int = Field(
        default=5, ge=1, le=1000, description="Most streams of one user in one process."
    )
    per_process: int = Field(
        default=1000, ge=1, le=100_000, description="Most streams of one process."
    )
    life_seconds: float = Field(
        default=900.0,
        ge=0.05,
        le=86_400,
        description="How long a stream lasts; then the client connects again and goes on.",
    )
    heartbeat_seconds: float = Field(
        default=15.0,
        ge=0.05,
        le=300,
        description="After so much silence a comment is sent, so that proxies keep the connection.",
    )
    recheck_seconds: float = Field(
        default=60.0,
        ge=0.05,
        le=3600,
        description="How often it is asked anew whether the caller may still listen.",
    )
    poll_seconds: float = Field(
        default=0.5,
        ge=0.02,
        le=60,
        description="How often a process looks for something new, once for all its streams of a "
        "cell.",
    )
    waiting_events: int = Field(
        default=256,
        ge=3,
        le=100_000,
        description="Most events that wait for a client that reads slowly; above it the stream "
        "ends. What a client missed while it was away comes in parts of this size.",
    )
    resume_places: int = Field(
        default=200_000,
        ge=0,
        le=10_000_000,
        description="How far back in the order of commits a client may go on; further back it is "
        "told to load anew.",
    )
