"""Train a captioner on prepared files: python train.py --config configs/flickr8k.yaml"""

from sat.commands.train import main

if __name__ == "__main__":
    main()
