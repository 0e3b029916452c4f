"""Trains the built-in model from nothing: `python -m demo.train --minutes 155 --out demo/model`.

Three stages share the time. First the vision tower and the projector learn to name what lies under
each patch, as LLaVA's own tower comes trained already; without it, questions that search by two
attributes ("where is the red circle") stay hard for hours. Then everything learns conversations.
At last, at a lower rate, conversations in which two shapes are alike and "the other one" is asked
for: the one question that the others hardly teach.

The learning rate follows the clock, not the steps: it is zero when the minutes are over, on any
machine. `--resume` goes on from the last checkpoint with the minutes that were left.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from demo.recipe import Recipe
from demo.trainer import Trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=Recipe.minutes)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--pictures", type=int, default=Recipe.num_pictures)
    parser.add_argument("--out", type=Path, default=Path("demo/model"))
    parser.add_argument("--work", type=Path, default=Path("demo/.work"), help="store, checkpoints")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    recipe = Recipe(minutes=args.minutes, seed=args.seed, num_pictures=args.pictures)
    store = args.work / f"pictures-{args.pictures}.npy"
    trainer = Trainer(recipe, store, args.work, args.out, args.threads)
    if args.resume:
        trainer.resume()
    trainer.run()


if __name__ == "__main__":
    main()
