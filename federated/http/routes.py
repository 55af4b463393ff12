"""The calls of the analysts' API: what goes in and what comes out. Server, client and the OpenAPI document are made from this table."""

from __future__ import annotations

from typing import Any

import msgspec

from federated.messages import ContractState
from federated.offers import Offers
from federated.scoring.messages import MOST_BYTES, Models
from mpc.secagg import Setting
from sandbox.keys import Signed
from sandbox.pending import Ticket
from sandbox.release import Explanation

PREFIX = "/api/v1"
JSON = "application/json"
MSGPACK = "application/msgpack"  # of releases: JSON has no infinity, which the ends of intervals may be
EVENTS = "text/event-stream"
BINARY = "application/octet-stream"  # of ciphertexts
HEX = "^[0-9a-f]{64}$"
LONGEST_WAIT = 30.0  # seconds that a call may wait for news
MAX_BODY = 2**20


class Health(msgspec.Struct, frozen=True):
    """Whether the coordinator answers, how many requests wait or run, and how many departments are connected, where that is known."""

    status: str
    waiting: int
    connected: int | None = None


class Federation(msgspec.Struct, frozen=True):
    """Its name, the adversary that secure aggregation is set against, and the roster as TOML: compare it with your own."""

    name: str
    setting: Setting
    roster: str


class Parameter(msgspec.Struct, frozen=True):
    """A query parameter, with its JSON schema."""

    name: str
    text: str
    schema: dict[str, Any]
    required: bool = False


class Route(msgspec.Struct, frozen=True):
    """One call. `takes` and `gives`: types of the bodies; `media`: how an answer is encoded; `problems`: statuses of its errors.

    What is taken is a `Signed` as JSON, or `BINARY` bytes; at most `most` of them.
    """

    name: str
    method: str
    path: str
    text: str
    gives: Any
    takes: Any = None
    most: int = MAX_BODY
    media: str = JSON
    status: int = 200
    parameters: tuple[Parameter, ...] = ()
    problems: tuple[int, ...] = ()
    open: bool = False


_FRESH = Parameter("fresh", "Ask the departments again.", {"type": "boolean", "default": True})
_WAIT = Parameter(
    "wait",
    "Answer once the ticket is another than `seen`, or after so many seconds.",
    {"type": "number", "minimum": 0, "maximum": LONGEST_WAIT, "default": 0},
)
_SEEN = Parameter(
    "seen", "The ETag of the ticket that is known already.", {"type": "string", "maxLength": 80}
)
_TABLE = Parameter(
    "table", "The contract's table.", {"type": "string", "minLength": 1, "maxLength": 128}, required=True
)

_DEPARTMENT = Parameter(
    "department",
    "Whose model it is.",
    {"type": "string", "minLength": 1, "maxLength": 128},
    required=True,
)

_ONE = f"{PREFIX}/requests/{{digest}}"
_SIGNED = (400, 403, 409, 413, 422, 502)

ROUTES = (
    Route("health", "GET", "/health", "Whether the coordinator answers.", Health, open=True),
    Route("openapi", "GET", "/openapi.json", "This document.", dict[str, Any], open=True),
    Route("federation", "GET", f"{PREFIX}/federation", "Who is who in this federation.", Federation),
    Route(
        "offers",
        "GET",
        f"{PREFIX}/offers",
        "What each department offers, and who does not answer.",
        Offers,
        parameters=(_FRESH,),
    ),
    Route(
        "explain",
        "POST",
        f"{PREFIX}/explain",
        "What a signed request would do. Spends and logs nothing.",
        Explanation,
        takes=Signed,
        problems=_SIGNED,
    ),
    Route(
        "submit",
        "POST",
        f"{PREFIX}/requests",
        "Queue a signed request. The same request again is the same ticket.",
        Ticket,
        takes=Signed,
        status=202,
        problems=_SIGNED,
    ),
    Route(
        "tickets",
        "GET",
        f"{PREFIX}/requests",
        "All of the caller's requests that are kept, the latest first.",
        tuple[Ticket, ...],
    ),
    Route(
        "ticket",
        "GET",
        _ONE,
        "How a request stands, at once or once it has changed.",
        Ticket,
        parameters=(_WAIT, _SEEN),
        problems=(404,),
    ),
    Route(
        "cancel",
        "DELETE",
        _ONE,
        "Stop a request before anything is spent; past that it runs to its end.",
        Ticket,
        problems=(404,),
    ),
    Route(
        "events",
        "GET",
        f"{_ONE}/events",
        "Server-sent events: `stage` (a JSON string) for each stage as it is reached, then `end` (the ticket as JSON).",
        str,
        media=EVENTS,
        problems=(404,),
    ),
    Route(
        "release",
        "GET",
        f"{_ONE}/release",
        "The release, as MessagePack; of a request that ended otherwise the error that ended it. 409 while it runs.",
        bytes,
        media=MSGPACK,
        problems=(403, 404, 409, 422, 502),
    ),
    Route(
        "propose",
        "POST",
        f"{PREFIX}/contracts",
        "Hand a signed usage contract to the departments; answers who did not take it, and why.",
        dict[str, str],
        takes=Signed,
        problems=_SIGNED,
    ),
    Route(
        "contract",
        "GET",
        f"{PREFIX}/contracts/{{digest}}",
        "How a usage contract stands at each department that answers.",
        dict[str, ContractState],
        parameters=(_TABLE,),
        problems=(404,),
    ),
    Route(
        "models",
        "GET",
        f"{PREFIX}/models",
        "The models that departments publish, as each has signed it.",
        Models,
    ),
    Route(
        "score",
        "POST",
        f"{PREFIX}/scores",
        "Pass one message about scores on to a department: signed, its rows encrypted. Answers with the department's reply.",
        bytes,
        takes=bytes,
        most=MOST_BYTES,
        media=BINARY,
        parameters=(_DEPARTMENT,),
        problems=(400, 403, 409, 502),
    ),
)
