"""Caption images and see where the model looked: python caption.py --img a.jpg"""

from sat.commands.caption import main

if __name__ == "__main__":
    main()
