"""The prompt box: a text, the tokens that may follow it, and the sampling that chooses one of them."""

from __future__ import annotations

import random

import numpy as np
import psycopg
import traitlets

from pg_llm.errors import KitError
from pg_llm.widgets import words
from pg_llm.widgets.base import CSS, Database, Widget, script
from pg_llm.widgets.picture import LETTER, Picture, percent, shown
from pg_llm.widgets.sampling import sampled

BARS = 10


class PromptBox(Widget):
    """The widget that pg_llm.prompt_box returns; its controls are attributes, e.g. box.temperature = 0.5."""

    _esm = script("prompt")
    _css = CSS

    prompt = traitlets.Unicode().tag(sync=True)
    model = traitlets.Unicode().tag(sync=True)
    temperature = traitlets.Float(1.0, min=0, max=10).tag(sync=True)
    top_k = traitlets.Int(0, min=0).tag(sync=True)  # 0: every token
    top_p = traitlets.Float(1.0, min=0.01, max=1).tag(sync=True)

    controls = ("prompt", "model", "temperature", "top_k", "top_p")

    def look(self, db: Database) -> dict:
        """The prompt's pieces and the most probable next tokens, before and after the sampling's limits."""
        tokenizer = words.tokenizer_of(db, self.model)
        self._next = db.rows(
            "SELECT token_id, token, probability FROM {0}.llm_next_tokens(%(t)s, NULL, %(m)s) ORDER BY rank",
            t=self.prompt, m=self.model,
        )  # fmt: skip
        before = np.array([row[2] for row in self._next])
        self._after = after = sampled(before, self.temperature, self.top_k, self.top_p)
        bars = [
            {"id": token_id, "token": token, "before": float(p), "after": float(q)}
            for (token_id, token, p), q in zip(self._next[:BARS], after, strict=False)
        ]
        return {
            "pieces": words.pieces(db, self.prompt, tokenizer),
            "bars": bars,
            "kept": int((after > 0).sum()),
            "all": len(after),
            "rest": {"before": float(before[BARS:].sum()), "after": float(after[BARS:].sum())},
            "chips": words.prompts(db, tokenizer),
            "closed": len(words.story_words(db)) if tokenizer == words.CLOSED else 0,
        }

    def append(self, token: str) -> None:
        """Appends a token to the prompt, as a click on its bar does."""
        self.prompt += token

    def told(self, content: dict) -> None:
        """The button that draws a token from the distribution shown."""
        if content.get("kind") == "draw":
            self.append(self.draw_token())

    def draw_token(self, seed: int | None = None) -> str:
        """A token drawn from the distribution that the bars show; the same one for the same seed."""
        drawn = random.Random(seed).choices(range(len(self._after)), weights=list(self._after))[0]
        return self._next[drawn][1]

    # -- the static picture ----

    def describe(self) -> str:
        """The prompt, its unknown words, the next tokens and the sampling in words."""
        bars = ", ".join(
            f"“{shown(b['token'])}” {percent(b['after'])}" for b in self.view["bars"] if b["after"]
        )
        unknown = [p["unknown"] for p in self.view["pieces"] if p["unknown"]]
        return (
            f"Prompt box. After “{self.prompt}” the model {self.model} draws the next token from: {bars}. "
            f"{self._sampling()}" + "".join(f" {text}." for text in unknown)
        )

    def _sampling(self) -> str:
        top_k = str(self.top_k) if self.top_k else "off"
        kept = f"{self.view['kept']:,} of {self.view['all']:,} tokens can be drawn."
        return f"Temperature {self.temperature:g}, top-k {top_k}, top-p {self.top_p:g}: {kept}"

    def draw(self) -> str:
        """The prompt with its unknown words underlined, and a bar for each of the next tokens."""
        p = Picture(660)
        p.text(18, 26, f"Prompt for {self.model}", bold=True)
        x, y, size = 18.0, 54.0, 14
        notes = []
        for piece in self.view["pieces"]:
            width = len(piece["text"]) * LETTER * size
            if x + width > 640:
                x, y = 18, y + 24
            p.text(x, y, piece["text"], size=size, mono=True)
            if piece["unknown"]:
                space = (len(piece["text"]) - len(piece["text"].lstrip())) * LETTER * size
                p.wave(x + space, y + 4, width - space)
                notes.append(piece["unknown"])
            x += width
        for note in notes:
            for line in wrapped(note, 100):
                y += 18
                p.text(18, y + 6, line, size=12, colour="orange")
        p.text(18, y + 32, self._sampling(), size=12, colour="muted")
        y += 44
        most = max((max(b["before"], b["after"]) for b in self.view["bars"]), default=1) or 1
        for bar in self.view["bars"]:
            left, room = 158, 380
            p.text(left - 8, y + 15, shown(bar["token"]), mono=True, anchor="end",
                   colour="ink" if bar["after"] else "line")  # fmt: skip
            p.rect(left, y + 3, max(1, room * bar["before"] / most), 16, fill="paper", line="line", round=2)
            if bar["after"]:
                p.rect(left, y + 5, max(1, room * bar["after"] / most), 12, fill="blue", round=2)
            widest = max(bar["before"], bar["after"])
            text = percent(bar["after"]) if bar["after"] else f"left out (was {percent(bar['before'])})"
            p.text(left + room * widest / most + 8, y + 16, text, size=12, colour="muted")
            y += 24
        return p.svg(self.describe())


def wrapped(text: str, width: int) -> list[str]:
    """A text in lines of at most so many letters."""
    import textwrap

    return textwrap.wrap(text, width)


def prompt_box(
    prompt: str = "It was",
    model: str = "classroom",
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    conn: psycopg.Connection | None = None,
) -> PromptBox:
    """A text box with the tokens that may come next as bars, and sliders for the sampling.

    The bars show the distribution that sampling uses: the model's, changed by temperature, top-k and top-p.
    A click on a bar appends its token; words that the model does not know are underlined, with the reason.
    top_k, top_p: None keeps every token. conn: None is the notebook's connection.
    Errors: KitError, psycopg.Error.
    """
    if not prompt:
        raise KitError("prompt_box needs a prompt, such as 'It was'")
    return PromptBox(
        conn,
        prompt=prompt,
        model=model,
        temperature=float(temperature),
        top_k=top_k or 0,
        top_p=float(top_p or 1),
    )
