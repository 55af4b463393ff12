"""Flower's Fleet API as an ASGI app: Flower's authentication and handlers, and no framework around them.

A node makes about ten small calls a message. Flower's router answers each behind FastAPI, three middlewares and six changes of thread, which
took most of the coordinator's time in a round; here a call is parsed, authenticated and handled in one function, in one thread.
Who calls must prove a registered node's key. What goes wrong is a bare status: nothing of Flower's own words leaves.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest, PushObjectRequest
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.error import FlowerError
from flwr.supercore.error.catalog import API_ERROR_MAP
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from flwr.superlink.routers.fleet.node_auth import authenticate_node
from flwr.superlink.servicer.fleet import fleet_handlers
from google.protobuf.message import DecodeError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

log = logging.getLogger(__name__)

# Of each path: what its body is, and who answers it, from the body and what it asks of the link's state.
CALLS: dict[str, tuple[type[Any], Callable[..., Any]]] = {
    "/v1/fleet/activate-node": (ActivateNodeRequest, fleet_handlers.activate_node),
    "/v1/fleet/deactivate-node": (DeactivateNodeRequest, fleet_handlers.deactivate_node),
    "/v1/fleet/send-node-heartbeat": (SendNodeHeartbeatRequest, fleet_handlers.send_node_heartbeat),
    "/v1/fleet/pull-messages": (PullMessagesRequest, fleet_handlers.pull_messages),
    "/v1/fleet/push-messages": (PushMessagesRequest, fleet_handlers.push_messages),
    "/v1/fleet/get-run": (GetRunRequest, fleet_handlers.get_run),
    "/v1/fleet/pull-object": (PullObjectRequest, fleet_handlers.pull_object),
    "/v1/fleet/push-object": (PushObjectRequest, fleet_handlers.push_object),
    "/v1/fleet/confirm-message-received": (
        ConfirmMessageReceivedRequest,
        fleet_handlers.confirm_message_received,
    ),
}
OF_STORE: tuple[Callable[..., Any], ...] = (
    fleet_handlers.pull_messages,
    fleet_handlers.confirm_message_received,
)


class FleetApi:
    """An ASGI app over a link's state."""

    def __init__(self, factory: Any):
        self._link = factory.state()
        self.state = SimpleNamespace(linkstate_factory=factory)  # where Flower's authentication looks for it

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request({**scope, "app": self}, receive)
        response = await run_in_threadpool(self._respond, request, await request.body())
        await response(scope, receive, send)

    def _respond(self, request: Request, body: bytes) -> Response:
        try:
            answer = self._answer(request, body)
        except HTTPException as error:
            return Response(status_code=error.status_code)
        except FlowerError as error:
            return Response(status_code=API_ERROR_MAP[error.code].http_status_code)
        except Exception as error:  # whatever a handler raises of a node's bytes
            log.error("%s failed with %s", request.url.path, type(error).__name__)
            return Response(status_code=500)
        return Response(answer, media_type=PROTOBUF_MEDIA_TYPE)

    def _answer(self, request: Request, body: bytes) -> bytes:
        if request.method != "POST" or request.url.path not in CALLS:
            raise HTTPException(404)
        kind, handler = CALLS[request.url.path]
        if request.headers.get("content-type") != PROTOBUF_MEDIA_TYPE:
            raise HTTPException(415)
        call = kind()
        try:
            call.ParseFromString(body)
        except DecodeError:
            raise HTTPException(400) from None
        request.state.protobuf_request = call
        authenticate_node(request)
        if isinstance(call, PushMessagesRequest):
            _own_name(call)
        store = {"store": self._link.object_store} if handler in OF_STORE else {}
        answer: bytes = handler(request=call, state=self._link, **store).SerializeToString()
        return answer


def _own_name(pushed: PushMessagesRequest) -> None:
    """A node replies in its own name alone: Flower's API would store one node's reply under another's."""
    if any(message.metadata.src_node_id != pushed.node.node_id for message in pushed.messages_list):
        raise HTTPException(403)
