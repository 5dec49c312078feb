"""Upload checkpoint folders to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def check_pushable(repository: str) -> Any:
    """The huggingface_hub module; `ValueError` or `ImportError` before hours of training."""
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise ValueError(f"push_to_hub is {repository!r}: give a repository as user/name")
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError(
            "huggingface_hub is not installed: pip install 'sat-captioning[hf]', or leave "
            "--push_to_hub out"
        ) from error
    return huggingface_hub


def push(folder: str | Path, repository: str) -> str:
    """Upload a checkpoint without trainer.pt, and return the address of the repository.

    The repository is created if it does not exist.
    """
    api = check_pushable(repository).HfApi()
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
