"""What the hub says of a repository: the commit of a revision, its files, and their sizes and digests.

The hub's own client asks, so `HF_ENDPOINT` names the hub and `HF_TOKEN` the account.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any

from deployments.errors import MotetError, fail
from deployments.hub.files import COMMIT_PATTERN, HubFile, HubListing, is_inside

TIMEOUT_S = 30.0
GATED_REMEDY = (
    "Accept its conditions at {page} with your account, make a token at {endpoint}/settings/tokens, and run the same "
    "command with HF_TOKEN=<token>."
)


def listing(name: str, revision: str | None = None) -> HubListing:
    """A repository at a revision: a commit, a branch or a tag; without one at its main branch.

    Raises `MotetError`: not_found if there is no such repository or revision, forbidden if its conditions were not accepted,
    unavailable if the hub cannot be reached, invalid if it answers what cannot be used.
    """
    from huggingface_hub import HfApi

    with hub_errors(name):
        info = HfApi().model_info(name, revision=revision, files_metadata=True, timeout=TIMEOUT_S)
    commit = _commit(info.sha, name)
    files = tuple(_file(sibling, name) for sibling in info.siblings or ())
    licence = info.card_data.get("license") if info.card_data is not None else None
    task, library = str(info.pipeline_tag or ""), str(info.library_name or "")
    return HubListing(name, commit, files, str(licence or ""), task, library)


def _commit(answered: str | None, name: str) -> str:
    """The commit of the listing, which names the snapshot's folder. Raises `MotetError` (invalid) for anything else."""
    if answered is None or not re.fullmatch(COMMIT_PATTERN, answered):
        cause = f"The hub answers {answered!r} as the commit of {name}, which is not one."
        raise fail("invalid", cause, "Do not use this mirror; check HF_ENDPOINT.", code="unsafe_path")
    return answered


def _file(sibling: Any, name: str) -> HubFile:
    """A file of the listing. Raises `MotetError` (invalid) for a path that leads out of the snapshot's folder."""
    if not is_inside(sibling.rfilename):
        cause = f"The hub lists {sibling.rfilename!r} among the files of {name}, a path outside of the model's folder."
        raise fail("invalid", cause, "Do not use this mirror; check HF_ENDPOINT.", code="unsafe_path")
    sha256 = sibling.lfs.sha256 if sibling.lfs is not None else None
    path, git_sha1 = PurePosixPath(sibling.rfilename), sibling.blob_id if sha256 is None else None
    return HubFile(str(path), int(sibling.size or 0), sha256, git_sha1)


@contextmanager
def hub_errors(name: str) -> Iterator[None]:
    """Turns what the hub's client raises into `MotetError`."""
    import httpx2
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise gated(name) from error
    except errors.RepositoryNotFoundError as error:
        remedy = "Check the name; for a private repository set HF_TOKEN."
        raise fail("not_found", f"The hub has no model {name!r}.", remedy, code="hub_model_not_found") from error
    except errors.RevisionNotFoundError as error:
        raise fail("not_found", f"The hub model {name!r} has no such revision.", "Check it on its page.") from error
    except (errors.HfHubHTTPError, httpx2.HTTPError, errors.OfflineModeIsEnabled, OSError) as error:
        raise unreachable(name, error) from error


def gated(name: str) -> MotetError:
    """The error of a repository whose conditions were not accepted."""
    from huggingface_hub import constants

    page = f"{constants.ENDPOINT}/{name}"
    remedy = GATED_REMEDY.format(page=page, endpoint=constants.ENDPOINT)
    return fail("forbidden", f"The hub model {name!r} is gated.", remedy, code="hub_model_gated")


def unreachable(name: str, error: Exception) -> MotetError:
    """The error of a hub that does not answer."""
    return fail(
        "unavailable",
        f"The hub model {name} could not be downloaded: {str(error).rstrip('.')}.",
        "Check the connection and HF_ENDPOINT, or copy the snapshot to disk and use path:<folder>.",
        code="hub_unreachable",
    )
