"""What `federated.flower` uses of Flower beyond its published API, name by name: after an upgrade, this says what has changed."""

from __future__ import annotations

import ast
import base64
import importlib
import importlib.metadata
import inspect
import pathlib
import re
from types import SimpleNamespace

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.app import Message
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.supercore.constant import FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.primitives.asymmetric import verify_signature

from federated.flower import answering, fleet, link, local
from federated.gateway import PATHS
from federated.network import pack

ROOT = pathlib.Path(__file__).parents[2]
FILES = sorted((ROOT / "federated" / "flower").glob("*.py"))
PUBLIC = {"flwr.app", "flwr.clientapp", "flwr.serverapp"}
VERSION = "1.41.0"


def imported() -> list[tuple[str, str, str]]:
    """File, module and name of each import from Flower's private modules."""
    found = []
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if (
                isinstance(node, ast.ImportFrom)
                and (node.module or "").startswith("flwr")
                and node.module not in PUBLIC
            ):
                found += [(file.name, node.module, alias.name) for alias in node.names]
    return found


def test_the_version_is_the_one_that_this_was_written_for():
    pinned = re.search(r'"flwr==([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert pinned is not None
    assert pinned[1] == VERSION
    assert importlib.metadata.version("flwr") == VERSION, "read this file's failures, then federated/flower"


@pytest.mark.parametrize(("file", "module", "name"), imported())
def test_each_private_name_is_there(file, module, name):
    try:
        found = importlib.import_module(module)
    except ImportError:
        pytest.fail(f"Flower has no module {module} any more; federated/flower/{file} takes {name} from it")
    assert hasattr(found, name), f"{module} has no {name} any more; federated/flower/{file} uses it"


# What each private function is called with: positional or named.
FUNCTIONS = {
    "flwr.app.message.remove_content_from_message": ("message",),
    "flwr.common.serde.message_from_proto": ("message_proto",),
    "flwr.common.serde.message_to_proto": ("message",),
    "flwr.supercore.inflatable.inflatable_object.get_all_nested_objects": ("obj",),
    "flwr.supercore.inflatable.inflatable_object.get_object_tree": ("obj",),
    "flwr.supercore.inflatable.inflatable_object.iterate_object_tree": ("tree",),
    "flwr.supercore.inflatable.inflatable_object.no_object_id_recompute": (),
    "flwr.supercore.inflatable.inflatable_utils.inflate_object_from_contents": ("object_id", "object_contents"),
    "flwr.superlink.config_loader.get_federation_manager": ("is_simulation",),
    "flwr.superlink.config_loader.get_objectstore_linkstate_factories": ("database", "federation_manager"),
    "flwr.supernode.fleet_http_client.FleetHttpClient.from_server_address": (
        "server_address", "insecure", "root_certificates", "interceptors",
    ),
    "flwr.supercore.primitives.asymmetric.sign_message": ("private_key", "message"),
    "flwr.superlink.routers.fleet.node_auth.authenticate_node": ("request",),
    "flwr.supercore.run.Run.create_empty": ("run_id",),
}  # fmt: skip
CLIENT = (
    "ActivateNode", "DeactivateNode", "SendNodeHeartbeat", "PullMessages", "PushMessages", "GetRun", "PullObject", "PushObject",
    "ConfirmMessageReceived",
)  # fmt: skip
STATE = {
    "acknowledge_task_heartbeat": ("task_id",),
    "activate_task": ("task_id",),
    "claim_task": ("task_id",),
    "create_node": ("owner_aid", "owner_name", "public_key", "heartbeat_interval"),
    "create_run": (
        "fab_id", "fab_version", "fab_hash", "override_config", "federation_id", "federation_config", "flwr_aid",
        "primary_task_type",
    ),
    "delete_messages": ("message_ins_ids",),
    "finish_task": ("task_id", "sub_status", "details"),
    "get_message_res": ("message_ids", "run_id"),
    "get_node_info": ("statuses",),
    "get_object": ("run_id", "object_id"),
    "get_run_info": ("run_ids",),
    "start_session": ("run_id",),
    "store_message_and_object_tree": ("message", "object_tree", "session_id"),
    "store_object": ("run_id", "session_id", "object_id", "object_content"),
}  # fmt: skip


def called_with(function, names: tuple[str, ...], where: str) -> None:
    """That it can be called with these arguments, and asks for no others."""
    parameters = {n: p for n, p in inspect.signature(function).parameters.items() if n != "self"}
    missing = [name for name in names if name not in parameters]
    assert not missing, f"{where} has no argument {missing} any more: {inspect.signature(function)}"
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [n for n, p in parameters.items() if p.default is p.empty and p.kind not in kinds]
    assert set(needed) <= set(names), f"{where} needs more arguments now: {inspect.signature(function)}"


@pytest.mark.parametrize("path", FUNCTIONS)
def test_functions_take_what_they_are_given(path):
    module, _, name = path.rpartition(".")
    try:
        owner = importlib.import_module(module)
    except ImportError:
        module, _, owner_name = module.rpartition(".")
        owner = getattr(importlib.import_module(module), owner_name)
    called_with(getattr(owner, name), FUNCTIONS[path], path)


@pytest.fixture(scope="module")
def opened():
    return link.Link({})


@pytest.mark.parametrize("name", STATE)
def test_the_link_state_takes_what_it_is_given(opened, name):
    called_with(getattr(opened.state, name), STATE[name], f"LinkState.{name}")


def test_the_object_store_takes_what_it_is_given(opened):
    called_with(opened.state.object_store.get_object_tree, ("object_id",), "ObjectStore.get_object_tree")
    called_with(opened.state.object_store.delete, ("object_id",), "ObjectStore.delete")
    from flwr.supercore.object_store import NoObjectInStoreError

    with pytest.raises(NoObjectInStoreError):
        opened.state.object_store.get_object_tree("0" * 64)


def test_the_state_is_in_memory(opened):
    """Masked vectors touch no disk."""
    assert type(opened.state).__name__ == "InMemoryLinkState"
    assert type(opened.state.object_store).__name__ == "InMemoryObjectStore"


@pytest.mark.parametrize("name", CLIENT)
def test_the_fleets_client_has_the_calls(name):
    from flwr.supernode.fleet_http_client import FleetHttpClient

    called_with(getattr(FleetHttpClient, name), ("request",), f"FleetHttpClient.{name}")


CONSTANTS = {
    "flwr.common.constant": {
        "HEARTBEAT_MIN_INTERVAL": 10,
        "SUPERLINK_NODE_ID": 1,
        "NOOP_FLWR_AID": "<id:none>",
        "NOOP_ACCOUNT_NAME": "none",
        "TIMESTAMP_HEADER": "flwr-timestamp",
    },
    "flwr.supercore.constant": {
        "FLEET_HTTP_PUBLIC_KEY_HEADER": "flwr-public-key",
        "FLEET_HTTP_SIGNATURE_HEADER": "flwr-signature",
        "FLWR_IN_MEMORY_DB_NAME": ":flwr-in-memory:",
        "NOOP_FEDERATION_ID": "@none/default",
    },
}


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module, names in CONSTANTS.items() for name in names]
)
def test_constants_are_what_they_were(module, name):
    assert getattr(importlib.import_module(module), name) == CONSTANTS[module][name]


def test_error_codes_are_what_they_were():
    from flwr.common.constant import ErrorCode

    assert ErrorCode.NODE_UNAVAILABLE == 5


FIELDS = {
    "fleet_pb2.ActivateNodeRequest": {"public_key", "heartbeat_interval"},
    "fleet_pb2.ActivateNodeResponse": {"node_id"},
    "fleet_pb2.DeactivateNodeRequest": {"node_id"},
    "fleet_pb2.PullMessagesRequest": {"node"},
    "fleet_pb2.PullMessagesResponse": {"messages_list", "message_object_trees"},
    "fleet_pb2.PushMessagesRequest": {"node", "messages_list", "message_object_trees"},
    "fleet_pb2.PushMessagesResponse": {"objects_to_push", "session_id"},
    "heartbeat_pb2.SendNodeHeartbeatRequest": {"node", "heartbeat_interval"},
    "heartbeat_pb2.SendNodeHeartbeatResponse": {"success"},
    "message_pb2.ConfirmMessageReceivedRequest": {"node", "run_id", "message_object_id"},
    "message_pb2.Metadata": {"run_id", "message_id", "src_node_id", "dst_node_id", "reply_to_message_id"},
    "message_pb2.ObjectTree": {"object_id", "children"},
    "message_pb2.PullObjectRequest": {"node", "run_id", "object_id"},
    "message_pb2.PullObjectResponse": {"object_available", "object_content"},
    "message_pb2.PushObjectRequest": {"node", "run_id", "session_id", "object_id", "object_content"},
    "node_pb2.Node": {"node_id"},
    "run_pb2.GetRunRequest": {"node", "run_id"},
    "run_pb2.GetRunResponse": {"run"},
    "run_pb2.Run": {"fab_hash"},
}


@pytest.mark.parametrize("name", FIELDS)
def test_messages_have_the_fields(name):
    module, _, kind = name.rpartition(".")
    found = getattr(importlib.import_module(f"flwr.proto.{module}"), kind).DESCRIPTOR.fields_by_name
    assert FIELDS[name] <= set(found), f"flwr.proto.{name} lost fields; it has {sorted(found)}"


def test_a_messages_metadata_is_set_by_these_names():
    """Flower has no setters for ids: they are written under the names that its properties read."""
    local.local_run(1)  # messages are made in a run
    first = Message(pack(b"x"), 7, "query.catalog")
    ids = {"_message_id": "m", "_run_id": 3, "_src_node_id": 4, "_reply_to_message_id": "r"}
    assert set(ids) <= set(first.metadata.__dict__), sorted(first.metadata.__dict__)
    first.metadata.__dict__.update(ids)
    assert {name: getattr(first.metadata, name[1:]) for name in ids} == ids
    assert re.fullmatch(r"[0-9a-f]{64}", first.object_id), "a message is named by the SHA-256 of its content"


def test_the_task_identity_is_a_global_with_these_names():
    from flwr.supercore.task_identity import TaskIdentity

    for name in ("task_id", "run_id", "node_id"):
        found = getattr(type(TaskIdentity), name, None)
        assert isinstance(found, property), f"TaskIdentity.{name} is no property any more"
        assert found.fset is not None, f"TaskIdentity.{name} cannot be set any more"


def test_the_fleets_routes_are_known_one_by_one():
    """A new route of Flower's is outside the gateway's list until somebody has read what it does."""
    from flwr.superlink.routers.fleet.router import router

    kept_out = {"/v1/fleet/register-node", "/v1/fleet/unregister-node", "/v1/fleet/get-fab"}
    assert {route.path for route in router.routes} == PATHS | kept_out
    assert set(answering.CALLS) == PATHS


@pytest.mark.parametrize("path", sorted(answering.CALLS))
def test_calls_are_what_flower_takes_them_for_and_its_handlers_take_them(path):
    from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES

    kind, handler = answering.CALLS[path]
    assert PROTOBUF_REQUEST_TYPES["POST", path] is kind
    given = ("request", "state", "store") if handler in answering.OF_STORE else ("request", "state")
    called_with(handler, given, path)


def test_a_node_signs_as_flowers_own_nodes_do():
    """The same headers, which say the same: only the time and the signature differ from call to call."""
    from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

    key = ec.generate_private_key(ec.SECP384R1())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    signed = []
    for signer in (NodeAuthHttpInterceptor(key, key.public_key()), fleet._Signed(key, public)):
        call = SimpleNamespace(request=httpx.Request("POST", "https://link"))
        signer.intercept(call, lambda call: call)
        headers = dict(call.request.headers)
        time, signature = headers.pop(TIMESTAMP_HEADER), headers.pop(FLEET_HTTP_SIGNATURE_HEADER)
        assert verify_signature(key.public_key(), time.encode(), base64.b64decode(signature))
        signed.append(headers)
    assert signed[0] == signed[1]
