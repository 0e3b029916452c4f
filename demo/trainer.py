"""Three stages, one clock: steps, checkpoints, and which questions need to be asked more."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from demo.attention import FLOAT32_ATTENTION, branch_mask, register_float32_attention
from demo.dialogue import KINDS, OPENS
from demo.heads import PatchHeads
from demo.model import PIXEL_MEAN, PIXEL_STD, build_model, save
from demo.recipe import Recipe
from demo.rows import IGNORE, Conversations, Patches, start_weights
from demo.store import draw_store

Pictures = npt.NDArray[np.uint8]
TakeStep = Callable[[dict[str, Tensor]], str]
REPORT_EVERY, SAVE_EVERY = 60, 240  # seconds


class Trainer:
    """Model, optimizers and clock; `run` brings them to the end of the recipe."""

    def __init__(
        self, recipe: Recipe, store: Path, work: Path, out: Path, num_workers: int
    ) -> None:
        self.recipe = recipe
        self.store, self.work, self.out, self.num_workers = store, work, out, num_workers
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        register_float32_attention()
        self.model = build_model(recipe.seed).to(self.device).train()
        self.model.set_attn_implementation(FLOAT32_ATTENTION)
        self.heads = PatchHeads(self.model.config.text_config.hidden_size).to(self.device)
        self.kind_weights = start_weights()
        self.kind_weights.share_memory_()  # type: ignore[no-untyped-call]  # with the loader
        self.kind_accuracy = torch.full((len(KINDS),), 0.5)
        self.stage, self.step, self.elapsed = 0, 0, 0.0  # elapsed: seconds of this stage
        self.console = Console(width=110)
        self.optimizers = self._optimizers()

    def run(self) -> None:
        """All stages, or what is left of them, and the saved model."""
        with self._progress() as progress:
            task = progress.add_task("drawing", total=self.recipe.num_pictures, note="")
            pictures = draw_store(
                self.store,
                self.recipe.num_pictures,
                self.num_workers,
                lambda number: progress.update(task, advance=number),
            )
        if self.stage == 0:
            self.train_vision(pictures)
        if self.stage == 1:
            self.train_talk(pictures)
        self.train_twins(pictures)
        self.model.set_attn_implementation("sdpa")
        save(self.model, self.out)
        self.console.print(f"saved {self.out}")

    def train_vision(self, pictures: Pictures) -> None:
        self._run_stage(self._vision_step, pictures, self.recipe.vision_share, "vision")
        self._enter_stage(1)

    def train_talk(self, pictures: Pictures) -> None:
        share = 1 - self.recipe.vision_share - self.recipe.twin_share
        self._run_stage(self._talk_step, pictures, share, "conversation")
        self._enter_stage(2)

    def train_twins(self, pictures: Pictures) -> None:
        """Conversations again, at a lower rate, of which many lead to "where is the other one".

        It is the one question that all else hardly teaches: who has a twin is spoken of seldom.
        """
        self._run_stage(self._talk_step, pictures, self.recipe.twin_share, "twins")

    def _enter_stage(self, stage: int) -> None:
        self.stage, self.step, self.elapsed = stage, 0, 0.0
        self.optimizers = self._optimizers()

    # --- the loop

    def _run_stage(self, take_step: TakeStep, pictures: Pictures, share: float, name: str) -> None:
        budget = self.recipe.minutes * 60 * share
        batches = iter(self._batches(pictures))
        start = time.monotonic() - self.elapsed
        saved = reported = time.monotonic()
        with self._progress() as progress:
            task = progress.add_task(name, total=budget, note="")
            while self.elapsed < budget:
                self._set_rate(self.elapsed / budget)
                note = take_step(next(batches))
                self.step += 1
                now = time.monotonic()
                self.elapsed = now - start
                progress.update(task, completed=min(self.elapsed, budget), note=note)
                if now - reported > REPORT_EVERY:
                    reported = now
                    progress.console.print(self._report(name, note))
                if now - saved > SAVE_EVERY:
                    saved = now
                    self.checkpoint()
        self.checkpoint()

    def _vision_step(self, batch: dict[str, Tensor]) -> str:
        with self._autocast():
            features = self.model.get_image_features(self._pixels(batch)).pooler_output
            loss, right = self.heads(torch.stack(list(features)), self._put(batch["patches"]))
        self._update(loss)
        return f"loss {loss.item():.3f} patches {right.item():.3f}"

    def _talk_step(self, batch: dict[str, Tensor]) -> str:
        targets, answers = self._put(batch["targets"]), self._put(batch["answers"])
        with self._autocast():
            out = self.model(
                input_ids=self._put(batch["tokens"]),
                pixel_values=self._pixels(batch),
                attention_mask=branch_mask(self._put(batch["segments"])),
                position_ids=self._put(batch["positions"]),
                use_cache=False,
            )
            features = out.image_hidden_states
            patches = self._put(batch["patches"])
            patch_loss, _ = self.heads(features.view(*patches.shape[:2], -1), patches)
        chosen = targets != IGNORE
        logits, wanted, answer = out.logits[chosen].float(), targets[chosen], answers[chosen]
        losses = cross_entropy(logits, wanted, reduction="none")
        # a description of forty words counts as six answers of one word, not as forty
        lengths = torch.bincount(answer)
        weights = lengths[answer].float().rsqrt()
        loss = (losses * weights).sum() / weights.sum()
        self._update(loss + self.recipe.patch_loss * patch_loss)
        num_wrong = torch.bincount(answer, (logits.argmax(-1) != wanted).float())
        self._learn_weights(batch["kinds"], (num_wrong == 0).float().cpu())
        overall = (num_wrong == 0).float().mean()
        return f"loss {loss.item():.3f} answers {overall.item():.3f} patch {patch_loss.item():.2f}"

    def _update(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]
        parameters = [*self.model.parameters(), *self.heads.parameters()]
        nn.utils.clip_grad_norm_(parameters, self.recipe.clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()

    def _learn_weights(self, kinds: Tensor, right: Tensor) -> None:
        """Asks more often what is answered wrong more often."""
        count = torch.bincount(kinds, minlength=len(KINDS)).float()
        total = torch.bincount(kinds, right, minlength=len(KINDS))
        seen = count > 0
        rate = 1 - 0.99 ** count[seen]
        self.kind_accuracy[seen] += rate * (total[seen] / count[seen] - self.kind_accuracy[seen])
        wrong = 1 - self.kind_accuracy
        weights = start_weights() * (0.25 + 3 * wrong**0.7)
        for kind, opened in OPENS.items():
            first, second = KINDS.index(kind), KINDS.index(opened)
            weights[first] = torch.maximum(weights[first], weights[second])
        self.kind_weights.copy_(weights)

    # --- its parts

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        """Muon for the matrices between hidden states, AdamW for all that is not such a matrix."""
        towers: list[list[nn.Parameter]] = [[], []]
        others: list[list[nn.Parameter]] = [[], [*self.heads.parameters()]]
        for name, parameter in self.model.named_parameters():
            hidden = parameter.ndim == 2 and "embed" not in name and "lm_head" not in name
            (towers if "vision_tower" in name else others)[0 if hidden else 1].append(parameter)
        scale = self.recipe.tower_scale if self.stage else 1.0
        muon, adam = (
            [{"params": tower, "scale": scale}, {"params": other, "scale": 1.0}]
            for tower, other in zip(towers, others, strict=True)
        )
        return [
            torch.optim.Muon(muon, weight_decay=self.recipe.weight_decay),
            torch.optim.AdamW(adam, betas=(0.9, 0.98), weight_decay=0.0),
        ]

    def _set_rate(self, done: float) -> None:
        recipe = self.recipe
        rates = (recipe.vision_rates, recipe.talk_rates, recipe.twin_rates)[self.stage]
        for optimizer, rate in zip(self.optimizers, rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * recipe.rate_factor(done) * group["scale"]

    def _batches(self, pictures: Pictures) -> DataLoader[dict[str, Tensor]]:
        # a resumed run goes on with other questions than it began with
        seed = self.recipe.seed + 1_000_003 * (self.step + 1)
        dataset = (
            Conversations(pictures, self.kind_weights, seed, self._twins_asked())
            if self.stage
            else Patches(pictures, self.recipe.vision_batch, seed)
        )
        return DataLoader(dataset, batch_size=None, num_workers=1, prefetch_factor=8)

    def _twins_asked(self) -> float:
        return self.recipe.twins_asked if self.stage == 2 else 0.0

    def _put(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True)

    def _pixels(self, batch: dict[str, Tensor]) -> Tensor:
        """(n, 96, 96, 3) uint8 -> (n, 3, 96, 96) float32, as the image processor makes them."""
        pixels = self._put(batch["pixels"]).permute(0, 3, 1, 2).float() / 255
        return (pixels - PIXEL_MEAN) / PIXEL_STD

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.device.type == "cpu" and not torch.cpu._is_avx512_bf16_supported():
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def _progress(self) -> Progress:
        columns = (TextColumn("{task.description}"), BarColumn(20), TimeElapsedColumn())
        more = (TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
        return Progress(*columns, *more, console=self.console)

    def _report(self, name: str, note: str) -> str:
        line = f"{name} step {self.step} {self.elapsed / 60:.1f} min {note}"
        if self.stage == 0:
            return line
        pairs = sorted(zip(self.kind_accuracy.tolist(), KINDS, strict=True))
        return line + "\n  " + " ".join(f"{kind} {value:.3f}" for value, kind in pairs)

    # --- checkpoints

    def checkpoint(self) -> None:
        """Writes all that a resumed run needs, in one step: a killed run leaves a whole file."""
        state = {
            "recipe": asdict(self.recipe),
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "kind_accuracy": self.kind_accuracy,
            "kind_weights": self.kind_weights.clone(),
            "clock": (self.stage, self.step, self.elapsed),
        }
        self.work.mkdir(parents=True, exist_ok=True)
        partial = self.work / "checkpoint.partial"
        torch.save(state, partial)
        partial.rename(self.work / "checkpoint.pt")

    def resume(self) -> None:
        state = torch.load(self.work / "checkpoint.pt", map_location=self.device)
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.kind_accuracy = state["kind_accuracy"].cpu()
        self.kind_weights.copy_(state["kind_weights"])
        self.stage, self.step, self.elapsed = state["clock"]
