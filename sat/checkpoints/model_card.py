"""The README.md of a checkpoint, as the Hugging Face Hub shows it."""

from __future__ import annotations

from sat.config.model import Preprocessing


def model_card(
    title: str, words: int, preprocessing: Preprocessing, scores: dict[str, float]
) -> str:
    """Markdown with the title, the size of the vocabulary, the preprocessing and the scores."""
    rows = "".join(f"| {name} | {value:.4f} |\n" for name, value in scores.items())
    return (
        "---\nlibrary_name: sat\npipeline_tag: image-to-text\n---\n\n"
        f"# {title}\n\n"
        f"{words} words; {preprocessing.size} px images ({preprocessing.resize}). "
        "Load it with `sat.load(folder)`.\n"
        + (f"\n| validation | |\n| --- | --- |\n{rows}" if rows else "")
    )
