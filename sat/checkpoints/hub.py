"""Checkpoint folders on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType


def check_pushable(repository: str) -> None:
    """`ValueError` or `ImportError` now rather than after hours of training."""
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise ValueError(f"push_to_hub is {repository!r}: give a repository as user/name")
    _hub()


def push(folder: str | Path, repository: str) -> str:
    """The address of the repository, made if need be, that now holds the checkpoint's files.

    What only resuming needs (trainer.pt) stays here.
    """
    check_pushable(repository)
    api = _hub().HfApi()
    api.create_repo(repository, repo_type="model", exist_ok=True)
    return str(
        api.upload_folder(
            folder_path=str(folder),
            repo_id=repository,
            repo_type="model",
            ignore_patterns=["trainer.pt"],
            commit_message="Upload a captioner of sat",
        )
    )


def _hub() -> ModuleType:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError(
            "huggingface_hub is not installed: pip install 'sat-captioning[hf]', or leave "
            "--push_to_hub out"
        ) from error
    return huggingface_hub
