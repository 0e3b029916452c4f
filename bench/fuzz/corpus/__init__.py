"""Pictures as people and attackers send them, all made here.

picture.py   the picture meant, and how to compare with it
png.py       PNGs that Pillow does not write
jpeg.py      JPEGs taken apart and put together otherwise
odd.py       good and odd files: each shows the picture meant
bad.py       files that are refused, with the code and a word of the reason
"""
