"""What Flower needs for messages within one process."""

from __future__ import annotations

from flwr.app import Context, Message, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity


def local_run(run_id: int) -> Run:
    """A run of this process alone. Flower holds the identity that messages are made under in a global."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, run_id, 1
    return Run.create_empty(run_id)


def context(run_id: int, node_id: int) -> Context:
    """An empty context for a ClientApp."""
    return Context(run_id=run_id, node_id=node_id, node_config={}, state=RecordDict(), run_config={})


def message(content: RecordDict, destination: int, kind: str, group: str, ttl: float | None) -> Message:
    return Message(content, destination, kind, ttl=ttl, group_id=group)


def to_bytes(message: Message, message_id: str) -> bytes:
    """The bytes of a message on the wire, under the id that a SuperLink would give it."""
    message.metadata.__dict__["_message_id"] = message_id
    return message_to_proto(message).SerializeToString()


def from_bytes(data: bytes) -> Message:
    return message_from_proto(MessageProto.FromString(data))
