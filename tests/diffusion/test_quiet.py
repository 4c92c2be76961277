import warnings

from diffusers.utils import logging as diffusers_logging
from huggingface_hub import utils as hub
from transformers.utils import logging as transformers_logging

from mcts_ray.diffusion.quiet import quiet


def state():
    libraries = (diffusers_logging, transformers_logging)
    return (
        [library.get_verbosity() for library in (*libraries, hub.logging)],
        [library.is_progress_bar_enabled() for library in libraries],
        hub.are_progress_bars_disabled(),
    )


def test_silence_within_and_everything_restored(capfd):
    before = state()
    with quiet():
        for library in (diffusers_logging, transformers_logging, hub.logging):
            library.get_logger(library.__name__.split(".")[0]).warning("a note")
        warnings.warn("another", stacklevel=1)
        list(diffusers_logging.tqdm(range(3)))
        assert state() != before
    assert state() == before and capfd.readouterr() == ("", "")
