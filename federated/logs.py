"""Structured logs: one JSON object a line on standard error. Fields are named by the caller; nothing of a request or of data is among them.

A line has the time (UTC), level, part, event, and what the event's call names: departments, digests, counts, seconds, classes of errors.
"""

from __future__ import annotations

import datetime
import json
import logging
import sys
from typing import Any


class Logger:
    """Logs events by name with fields."""

    def __init__(self, part: str):
        self._log = logging.getLogger(f"joint-sandbox.{part}")

    def info(self, event: str, **fields: Any) -> None:
        self._log.info(event, extra={"fields": fields})

    def warning(self, event: str, **fields: Any) -> None:
        self._log.warning(event, extra={"fields": fields})

    def error(self, event: str, **fields: Any) -> None:
        self._log.error(event, extra={"fields": fields})


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(
                timespec="milliseconds"
            ),
            "level": record.levelname.lower(),
            "part": record.name.removeprefix("joint-sandbox."),
        }
        fields = getattr(record, "fields", None)
        if fields is None and not record.name.startswith("joint-sandbox."):
            # Another library's line may hold anything: its place and class are told, its text is not.
            kind = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else ""
            return json.dumps(
                line | {"event": "library", "where": f"{record.module}:{record.lineno}", "error": kind}
            )
        return json.dumps(line | {"event": record.getMessage()} | (fields or {}), default=str)


def logger(part: str) -> Logger:
    return Logger(part)


def configure() -> None:
    """For a process of its own: everything at INFO from here, at ERROR from other libraries."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.ERROR)
    logging.getLogger("joint-sandbox").setLevel(logging.INFO)
