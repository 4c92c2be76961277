"""Structured logs: one JSON object on each line, with the ids of the job, the search and the unit of work that it is about.

A search is named with its run directory where it begins; the folder above that is named for its job.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime, timezone

IDS = ("job", "search", "run", "work", "epoch", "attempt")
FIELDS = (*IDS, "status", "algorithm", "budget", "jobs", "mode", "cosine", "particles", "reason", "error")


class JsonFormatter(logging.Formatter):
    """A record as JSON: time, level, logger, message, the ids and values given as `extra`, and a traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        line = {"time": when, "level": record.levelname.lower(), "logger": record.name, "message": record.getMessage()}
        line |= {name: value for name in FIELDS if (value := getattr(record, name, None)) is not None}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def set_up(level: int = logging.INFO) -> None:
    """Log this package to stderr in this form, which in an actor is its log file under the session folder of Ray."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("mcts_ray")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(level)
