"""Caption a split with beam search and score it: python eval.py --model runs/default/best"""

from sat.__main__ import run

if __name__ == "__main__":
    run("eval")
