"""Files of the model hub: from the local cache if they are there, else in one try whose failure is one sentence."""

from __future__ import annotations

import re
from pathlib import Path

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_TIMEOUT = 10  # seconds for the hub to answer


class HubError(ValueError):
    """A file of a hub repository that cannot be had from here, with a sentence for the user."""


class NoSuchFile(HubError):
    """The repository is there and does not hold the file."""


def is_hub_id(name: str) -> bool:
    """Whether a name has the form owner/name."""
    return bool(_HUB_ID.fullmatch(name))


def hub_file(name: str, file: str, kind: str = "diffusers pipeline") -> Path:
    """A file of the repository `name`, downloaded unless it is in the cache. HubError; NoSuchFile if it is not of its `kind`."""
    return _ask(name, file, kind, download=True)


def find_hub_file(name: str, file: str, kind: str) -> None:
    """The same check for a large file, which is left where it is."""
    _ask(name, file, kind, download=False)


def _ask(name: str, file: str, kind: str, download: bool) -> Path:
    import huggingface_hub as hub
    from huggingface_hub import errors

    try:
        cached = hub.try_to_load_from_cache(name, file)
        if isinstance(cached, str):
            return Path(cached)
        page = hub.HfApi().model_info(name, timeout=_TIMEOUT)  # one try, where a download would retry for half a minute
        if download:
            return Path(hub.hf_hub_download(name, file))
        if file not in {sibling.rfilename for sibling in page.siblings or ()}:
            raise NoSuchFile(f"{name} is not a {kind}: it has no {file}")
        return Path(file)
    except HubError:
        raise
    except errors.HFValidationError:
        raise HubError(f"unknown model {name!r}: neither an existing folder nor a valid hub id") from None
    except errors.GatedRepoError:
        raise HubError(f"{name} is gated: accept its terms on its hub page, then log in with `hf auth login`") from None
    except errors.RepositoryNotFoundError:
        raise HubError(f"no model {name} on the hub; if it is private, log in with `hf auth login`") from None
    except errors.RemoteEntryNotFoundError:
        raise NoSuchFile(f"{name} is not a {kind}: it has no {file}") from None
    except errors.HfHubHTTPError as error:
        raise HubError(f"the hub refused {name}: {str(error).splitlines()[0]}") from None
    except Exception as error:  # no connection: the hub library changes its transport, and with it the exception, between releases
        raise HubError(
            f"{name} is not in the local cache and the hub cannot be reached ({type(error).__name__}); "
            "check the connection, or give a local folder"
        ) from None
