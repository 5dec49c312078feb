"""Prepare images and captions for training: see python create_input_files.py --help"""

from sat.__main__ import run

if __name__ == "__main__":
    run("prepare")
