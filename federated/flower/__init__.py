"""The only place with imports that Flower 1.41 does not publish.

    local       message bytes, runs and contexts without a SuperLink, for the grid in one process
    link        the coordinator's side: Flower's link state, in memory, and a `Grid` straight onto that state
    answering   the Fleet API over that state: who calls is authenticated, and Flower's handlers answer
    fleet       a node's side of the Fleet API: pull a message, push its reply, heartbeat

Flower's telemetry and update check stay off: nothing here calls anybody else.
"""

import hashlib
import logging
import os

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
logging.getLogger("flwr").setLevel(logging.ERROR)

PROTOCOL = hashlib.sha256(b"joint-sandbox protocol 1").hexdigest()
