"""Train a captioner on prepared files: python train.py --config configs/flickr8k.yaml"""

from sat.__main__ import run

if __name__ == "__main__":
    run("train")
