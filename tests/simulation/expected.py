"""What must come of a prompt: the slow, obvious way, from the whole conversation."""

from __future__ import annotations

from dataclasses import replace

from tests.simulation.pictures import SimulatedProcessor
from tests.simulation.requests import Asking
from tests.simulation.scene import Scene
from vlm_sessions.engine.fake import reference_answer
from vlm_sessions.engine.types import ImageSpan, Sampling, Turn
from vlm_sessions.processing import Segment
from vlm_sessions.service.stops import num_tokens_within
from vlm_sessions.service.window import turns_given
from vlm_sessions.service.work import to_places, to_spans
from vlm_sessions.sessions.session import Session, SessionTurn

NOTHING = Segment(())


class Oracle:
    """Knows every answer."""

    def __init__(self, scene: Scene) -> None:
        shape = self._shape = scene.shape
        self._pictures = scene.pictures
        self._drops_oldest = scene.settings.context_overflow == "drop_oldest"
        self._processor = SimulatedProcessor()
        self._max_context = min(
            self._processor.max_context, shape.max_context, shape.num_blocks * shape.block_size
        )

    def turn(self, session: Session, request: Asking) -> SessionTurn:
        """What is to be recorded after a prompt on ``session``."""
        pending = tuple(self._pictures[image.digest] for image in session.pending_images)
        segment = self._processor.encode_turn(
            first=not session.turns,
            system=session.system,
            text=request.text,
            images=tuple(one.ref for one in (*pending, *request.pictures)),
        )
        given = session
        if self._drops_oldest:
            turns = turns_given(
                session.turns,
                num_new=len(segment.tokens),
                num_wanted=request.max_new_tokens,
                max_context=self._max_context,
            )
            given = replace(session, turns=turns)
        earlier = Segment(given.tokens, to_spans(given.places))
        text, tokens, reason = self.answer(request, earlier, segment)
        return SessionTurn(
            prompt=request.text,
            images=to_places(segment),
            prompt_tokens=segment.tokens,
            answer_tokens=tokens,
            answer=text,
            finish_reason=reason,
        )

    def alone(self, request: Asking) -> str:
        """The answer to a prompt without a session."""
        segment = self._processor.encode_turn(
            first=True,
            system=request.system,
            text=request.text,
            images=tuple(one.ref for one in request.pictures),
        )
        return self.answer(request, NOTHING, segment)[0]

    def answer(
        self, request: Asking, earlier: Segment, segment: Segment
    ) -> tuple[str, tuple[int, ...], str]:
        """Text and tokens of an answer, and why it ends."""
        start = len(earlier.tokens)
        moved = (ImageSpan(s.digest, s.start + start, s.length) for s in segment.images)
        prompt = (*earlier.tokens, *segment.tokens)
        turn = Turn(
            "expected",
            prompt,
            (*earlier.images, *moved),
            Sampling(
                max_new_tokens=min(request.max_new_tokens, self._max_context - len(prompt)),
                temperature=request.temperature,
                seed=request.seed,
                ignore_eos=request.ignore_eos,
            ),
        )
        said = reference_answer(
            turn,
            {digest: picture.pixels for digest, picture in self._pictures.items()},
            eos_every=self._shape.eos_every,
            max_context=self._shape.max_context,
        )
        text = self._processor.decode(said)
        found = [at for stop in request.stop if (at := text.find(stop)) >= 0]
        if found:
            text = text[: min(found)]
            num_tokens = num_tokens_within(said, text, self._processor.decode)
            return text, tuple(said[:num_tokens]), "stop"
        is_full = len(said) == turn.sampling.max_new_tokens
        return text, tuple(said), "length" if is_full else "stop"
