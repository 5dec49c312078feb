"""The README.md of a checkpoint, as the Hugging Face Hub shows it."""

from __future__ import annotations

from sat.config.model import Preprocessing


def model_card(
    name: str, title: str, words: int, preprocessing: Preprocessing, scores: dict[str, float]
) -> str:
    """Markdown with the title, how to load the folder `name`, vocabulary, preprocessing, scores."""
    rows = "".join(f"| {metric} | {value:.4f} |\n" for metric, value in scores.items())
    return (
        "---\nlibrary_name: sat\npipeline_tag: image-to-text\n---\n\n"
        f"# {title}\n\n"
        f"{words} words; {preprocessing.size} px images ({preprocessing.resize}).\n\n"
        "```python\nimport sat\n\n"
        f'captioner = sat.load("{name}")\n'
        'result = captioner.caption("photo.jpg")\n'
        "print(result.text)\n```\n" + (f"\n| validation | |\n| --- | --- |\n{rows}" if rows else "")
    )
