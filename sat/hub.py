"""Download folders from the Hugging Face Hub, and upload checkpoint folders to it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
IN_CARD = re.compile(r'sat\.load\(".*?"\)')
CONFIG, CARD, TRAINER = "config.json", "README.md", "trainer.pt"
OWN = (
    *(CONFIG, TRAINER, CARD, "sat.json", "word_map.json", "vocab.*", "merges.txt"),
    *("model*.safetensors*", "pytorch_model*", "tokenizer*", "special_tokens_map.json"),
    *("added_tokens.json", "generation_config.json", "preprocessor_config.json"),
)
"""names of the files of a checkpoint of any family; what else lies in its folder is the user's"""
NOT_DOWNLOADED = [TRAINER, "*.msgpack", "*.h5", "*.onnx", "*.ot", "*.gguf"]
"""weights of other libraries, and the state of a run"""


def local_folder(
    name: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    only: Sequence[str] | None = None,
) -> Path:
    """A path as it is, or the folder of the Hub's cache for the repository "user/name[@revision]".

    What the cache lacks is downloaded, of `only` these patterns of files. HF_HOME, HF_ENDPOINT and
    HF_HUB_OFFLINE count as everywhere. Raises `FileNotFoundError` if it cannot be had.
    """
    path, text = Path(name), str(name)
    if path.exists() or path.parent.is_dir() or not REPOSITORY.fullmatch(text):
        return path
    repository, _, version = text.partition("@")
    try:
        package = _package(f"give a folder that exists ({text} does not)")
        folder = package.snapshot_download(
            repository,
            revision=revision or version or None,
            cache_dir=cache_dir,
            allow_patterns=only,
            ignore_patterns=NOT_DOWNLOADED,
            local_files_only=package.constants.HF_HUB_OFFLINE,  # of a commit, 1.31 asks the Hub
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise FileNotFoundError(
            f"{text} is no folder here, and could not be read from the Hub ({reason}): check the "
            "name and the connection"
        ) from error
    return Path(folder)


def check_pushable(repository: str) -> Any:
    """The huggingface_hub module; `ValueError` or `ImportError` before hours of training."""
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise ValueError(f"push_to_hub is {repository!r}: give a repository as user/name")
    return _package("leave --push_to_hub out")


def push(
    folder: str | Path,
    repository: str,
    *,
    commit_message: str = "Upload a captioner of sat",
    private: bool | None = None,
    token: str | None = None,
) -> str:
    """Upload a checkpoint without trainer.pt, and return the address of the repository.

    What else lies in the folder stays here. The repository is created if it does not exist. The
    model card says how to load it from there; a folder without one gets a short one. Raises
    `FileNotFoundError` for a folder that is no checkpoint, `OSError` if the Hub does not take it.
    """
    api = check_pushable(repository).HfApi(token=token)
    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{folder} is no checkpoint (no {CONFIG}): give a run's best/")
    target = {"repo_id": repository, "repo_type": "model", "commit_message": commit_message}
    names = [path.name for path in folder.iterdir() if path.is_file()]
    files = [name for name in names if any(fnmatch(name, pattern) for pattern in OWN)]
    given = {"allow_patterns": files, "ignore_patterns": [TRAINER, CARD]}
    card = model_card(repository, repository.split("/")[1])
    if (folder / CARD).exists():
        card = (folder / CARD).read_text(encoding="utf-8")
    card = IN_CARD.sub(f'sat.load("{repository}")', card)
    try:
        api.create_repo(repository, repo_type="model", private=private, exist_ok=True)
        address = api.upload_folder(folder_path=str(folder), **given, **target)
        api.upload_file(path_or_fileobj=card.encode(), path_in_repo=CARD, **target)
    except Exception as error:  # its kind differs between versions of huggingface_hub
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise OSError(
            f"{folder} could not be uploaded to the Hub as {repository} ({reason}): check the "
            "connection and the token, then push_to_hub of the captioner that sat.load reads there"
        ) from error
    return str(address)


def model_card(name: str, title: str, about: str = "", table: str = "") -> str:
    """The README.md that the Hub shows: title, description, how to load `name`, and a table."""
    return (
        "---\nlibrary_name: sat\npipeline_tag: image-to-text\n---\n\n"
        f"# {title}\n\n" + (f"{about}\n\n" if about else "") + "```python\nimport sat\n\n"
        f'captioner = sat.load("{name}")\n'
        'result = captioner.caption("photo.jpg")\n'
        "print(result.text)\n```\n" + (f"\n{table}" if table else "")
    )


def _package(otherwise: str) -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError(
            f"huggingface_hub is not installed: pip install 'sat-captioning[hf]', or {otherwise}"
        ) from error
    return huggingface_hub
