"""from_pretrained, save_pretrained and push_to_hub, as huggingface_hub's PyTorchModelHubMixin."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from sat import hub
from sat.checkpoints import native
from sat.config.model import ModelConfig
from sat.models.base import CaptionModel


class HubMixin:
    """Save, load and upload a captioner as a checkpoint folder."""

    def __init__(self, model: CaptionModel, vocabulary: Any, config: ModelConfig) -> None:
        self.model: CaptionModel = model.eval()
        self.vocabulary = vocabulary
        self.config = config

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
    ) -> Any:
        """The captioner in a folder, or of the repository user/name of the Hugging Face Hub."""
        name = pretrained_model_name_or_path
        return cls(*native.load(hub.local_folder(name, revision=revision, cache_dir=cache_dir)))

    def save_pretrained(
        self, save_directory: str | Path, *, repo_id: str | None = None, push_to_hub: bool = False
    ) -> None:
        """Write a checkpoint folder; with `push_to_hub`, upload it as `repo_id` (user/name) too."""
        native.save(save_directory, self.model, self.vocabulary, self.config)
        if push_to_hub:
            hub.push(save_directory, repo_id or "")

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the captioner as user/name and return the address; `options` of `hub.push`."""
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(Path(folder) / "captioner")
            return hub.push(Path(folder) / "captioner", repo_id, **options)
