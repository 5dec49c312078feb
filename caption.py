"""Caption images and see where the model looked: python caption.py --img a.jpg"""

from sat.__main__ import run

if __name__ == "__main__":
    run("caption")
