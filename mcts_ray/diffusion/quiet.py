"""Keeping the model libraries' notes and progress bars off the user's screen."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Only errors of diffusers, transformers and the hub client are shown within; their settings are restored afterwards.

    The progress of a download stays visible on a terminal.
    """
    from diffusers.utils import logging as diffusers_logging
    from huggingface_hub import utils as hub
    from transformers.utils import logging as transformers_logging

    loggers = (diffusers_logging, transformers_logging, hub.logging)
    verbosity = [(logger, logger.get_verbosity()) for logger in loggers]
    bars = [library for library in (diffusers_logging, transformers_logging) if library.is_progress_bar_enabled()]
    hide_downloads = not sys.stderr.isatty() and not hub.are_progress_bars_disabled()
    for logger in loggers:
        logger.set_verbosity_error()
    for library in bars:
        library.disable_progress_bar()
    if hide_downloads:
        hub.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in verbosity:
            logger.set_verbosity(level)
        for library in bars:
            library.enable_progress_bar()
        if hide_downloads:
            hub.enable_progress_bars()
