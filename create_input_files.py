"""Prepare images and captions for training: see python create_input_files.py --help"""

from sat.commands.prepare import main

if __name__ == "__main__":
    main()
