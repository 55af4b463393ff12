"""A node's side of Flower's Fleet API: outbound HTTPS calls alone, each signed with the node's link key."""

from __future__ import annotations

import base64
import contextlib
from typing import Any

import httpx
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.common.constant import HEARTBEAT_MIN_INTERVAL, TIMESTAMP_HEADER
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.date import now
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.primitives.asymmetric import sign_message
from flwr.supernode.fleet_http_client import FleetHttpClient

from . import PROTOCOL

HEARTBEAT = float(HEARTBEAT_MIN_INTERVAL)


class LinkDown(Exception):
    """The coordinator's link cannot be reached, or did not take a call; try again."""


class LinkRefused(Exception):
    """The link does not know this node's key, takes the node for active elsewhere, or runs another protocol. `status`: its HTTP status, if any."""

    def __init__(self, reason: str, status: int = 0):
        self.status = status
        super().__init__(reason)


class BadMessage(Exception):
    """What the link sent is no message of this protocol; it is dropped, and the next one may be good."""


class _Signed:
    """Signs each call, as Flower's `NodeAuthHttpInterceptor` does: that one loads a web framework, which takes a node half a second."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, public: bytes):
        self._key, self._public = key, base64.b64encode(public).decode()

    def intercept(self, context: Any, call_next: Any) -> httpx.Response:
        time = now().isoformat()
        signature = sign_message(self._key, time.encode())
        context.request.headers[FLEET_HTTP_PUBLIC_KEY_HEADER] = self._public
        context.request.headers[TIMESTAMP_HEADER] = time
        context.request.headers[FLEET_HTTP_SIGNATURE_HEADER] = base64.b64encode(signature).decode()
        answer: httpx.Response = call_next(context)
        return answer


class Fleet:
    """A node's connection to a link: `url` is https, `authority` the PEM of the CA that its certificate must be of.

    Every call raises `LinkDown` where the link cannot be reached, `LinkRefused` where it does not take this node.
    """

    def __init__(self, url: str, authority: bytes, key: ec.EllipticCurvePrivateKey):
        address = url.removeprefix("https://").rstrip("/")
        self._public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self._client = FleetHttpClient.from_server_address(
            address, False, authority, interceptors=[_Signed(key, self._public)]
        )
        self.node_id: int | None = None
        self._runs: dict[int, bool] = {}

    def activate(self, previous: int | None = None) -> int:
        """Begin. A node that ended without a word is still taken for active: `previous`, its id then, says goodbye first."""
        if previous is not None:
            with contextlib.suppress(LinkRefused):  # it was not active, or is registered anew
                self._call(self._client.DeactivateNode, DeactivateNodeRequest(node_id=previous))
        request = ActivateNodeRequest(public_key=self._public, heartbeat_interval=HEARTBEAT)
        self.node_id = int(self._call(self._client.ActivateNode, request).node_id)
        return self.node_id

    def heartbeat(self) -> bool:
        """Whether the link still takes this node for active."""
        request = SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=HEARTBEAT)
        return bool(self._call(self._client.SendNodeHeartbeat, request).success)

    def receive(self) -> Message | None:
        """The next message, of a run of this protocol; None where there is none for a while. Raises `BadMessage` as well."""
        try:
            return self._received()
        except (LinkDown, LinkRefused, BadMessage):
            raise
        except Exception as error:  # whatever Flower's parsers of untrusted bytes raise
            raise BadMessage(type(error).__name__) from None

    def _received(self) -> Message | None:
        pulled = self._call(self._client.PullMessages, PullMessagesRequest(node=self._node))
        if not pulled.messages_list:
            return None
        run_id = pulled.messages_list[0].metadata.run_id
        if not self._runs.get(run_id):
            run = self._call(self._client.GetRun, GetRunRequest(node=self._node, run_id=run_id)).run
            if run.fab_hash != PROTOCOL:
                raise LinkRefused("a run of another protocol than this node speaks")
            self._runs = {run_id: True}
        tree = pulled.message_object_trees[0]
        contents = {}
        for part in iterate_object_tree(tree):
            request = PullObjectRequest(node=self._node, run_id=run_id, object_id=part.object_id)
            found = self._call(self._client.PullObject, request)
            if not found.object_available:
                return None
            contents[part.object_id] = found.object_content
        self._call(
            self._client.ConfirmMessageReceived,
            ConfirmMessageReceivedRequest(
                node=self._node, run_id=run_id, message_object_id=pulled.messages_list[0].metadata.message_id
            ),
        )
        received = inflate_object_from_contents(tree.object_id, contents)
        if not isinstance(received, Message) or received.has_error():
            raise BadMessage(type(received).__name__)
        received.metadata.__dict__["_message_id"] = tree.object_id
        return received

    def reply(self, reply: Message) -> None:
        """Send the reply to a message that was received."""
        run_id = reply.metadata.run_id
        with no_object_id_recompute():
            reply.metadata.__dict__["_message_id"] = reply.object_id
            objects, tree = get_all_nested_objects(reply), get_object_tree(reply)
            bare = remove_content_from_message(reply) if reply.has_content() else reply
            pushed = self._call(
                self._client.PushMessages,
                PushMessagesRequest(
                    node=self._node, messages_list=[message_to_proto(bare)], message_object_trees=[tree]
                ),
            )
            for object_id in pushed.objects_to_push:
                request = PushObjectRequest(
                    node=self._node,
                    run_id=run_id,
                    session_id=pushed.session_id,
                    object_id=object_id,
                    object_content=objects[object_id].deflate(),
                )
                self._call(self._client.PushObject, request)

    def goodbye(self) -> None:
        """Be active no more, as far as the link listens. A second time does nothing."""
        node_id, self.node_id = self.node_id, None
        if node_id is not None:
            with contextlib.suppress(LinkDown, LinkRefused):
                self._call(self._client.DeactivateNode, DeactivateNodeRequest(node_id=node_id))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    @property
    def _node(self) -> Node:
        return Node(node_id=self.node_id or 0)

    def _call(self, method: Any, request: Any) -> Any:
        try:
            return method(request)
        except httpx.HTTPStatusError as error:
            status = error.response.status_code
            if status in (408, 425, 429, 502, 503, 504):
                raise LinkDown(f"HTTP {status}") from None
            raise LinkRefused(f"HTTP {status}", status) from None
        except (httpx.HTTPError, RuntimeError, ValueError, OSError) as error:
            raise LinkDown(type(error).__name__) from None
