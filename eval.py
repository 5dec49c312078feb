"""Caption a split with beam search and score it: python eval.py --model runs/default/best"""

from sat.commands.evaluate import main

if __name__ == "__main__":
    main()
