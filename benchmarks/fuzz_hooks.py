"""What schemathesis loads of `benchmarks.fuzz`: many of the requests that are right ask for something that is there."""

from __future__ import annotations

import os

import schemathesis

from benchmarks.fuzz import IDS, aim


@schemathesis.hook
def before_call(context, case, kwargs):
    """Right before each request, in every phase; one that is to be refused is left as it is."""
    if case.meta is None or case.meta.generation.mode.is_positive:
        aim(case, os.environ[IDS].split(","))
