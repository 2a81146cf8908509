"""Engines that answer in text: which tokens was it? The audit does not guess, it compares texts.

Several rows of tokens may spell one text, so ids made from a text are not those that an engine
drew. Greedy: the reference spells the engine's text token by token, its own choice first wherever
the text allows it. Sampling: texts of the engine against texts drawn from the reference itself,
both made the same way from n tokens, so that whatever the spelling does, it does to both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch

from foretoken.audit.greedy import Greedy
from foretoken.audit.law import Law
from foretoken.audit.report import Difference

HALF = "\ufffd"  # what stands for the bytes of a character that is not complete
TRIED = 64  # likeliest tokens that may spell what the engine wrote
REFERENCES = 4  # reference samples per sample of the engine


class Speller:
    """Token ids after a prompt as an engine's text would show them.

    A piece is decoded behind its prompt and the prompt's text cut off, because some tokenizers
    write a space before a word only where something stands before it.
    """

    def __init__(self, tokenizer: object, prompt: Sequence[int]) -> None:
        self.tokenizer, self.prompt = tokenizer, list(prompt)
        self._start = len(self._decode([]))

    def _decode(self, tokens: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(  # type: ignore[attr-defined]
            [*self.prompt, *tokens], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def text(self, tokens: Sequence[int]) -> str:
        """The text of some tokens; an incomplete character at its end is left out."""
        return self._decode(tokens)[self._start :].rstrip(HALF)


def compare_greedy(
    greedy: Greedy, index: int, prompt: Sequence[int], text: str, asked: int, speller: Speller
) -> None:
    """Spell the engine's text with the reference's own choices and note where that fails."""
    text = text.rstrip(HALF)
    reference, ids, found = greedy.reference, list[int](), list[Difference]()
    while len(ids) < asked:
        row = reference.logits([*prompt, *ids])[-1]
        order = row.topk(min(TRIED, reference.vocab)).indices.tolist()
        best, done = order[0], speller.text(ids)
        if best in reference.eos and text == done:
            break
        token = next((t for t in order if _spells(speller, [*ids, t], text)), None)
        if token is not None and text == done and token not in reference.eos:
            token = None  # only a piece of a character would fit behind the end of the text
        if token != best:
            gap = None if token is None else float(row[best] - row[token])
            found.append(
                Difference(
                    prompt=index, position=len(ids), before=greedy.before(prompt, ids),
                    expected=best, got=token, expected_text=greedy.decode([best]),
                    got_text=text[len(done) :][:16] or "(the text stops)", gap=gap,
                    near_tie=gap is not None and gap <= reference.tolerance(float(row[best])),
                )
            )  # fmt: skip
        if token is None:
            break
        ids.append(token)
    greedy.note(len(ids), found)


def _spells(speller: Speller, ids: Sequence[int], text: str) -> bool:
    return text.startswith(speller.text(ids))


def draw_texts(law: Law, count: int, seed: int, speller: Speller) -> Counter[str]:
    """Texts of `count` draws from the reference: level by level, one forward a distinct place."""
    generator = torch.Generator().manual_seed(seed)
    groups: Counter[tuple[int, ...]] = Counter({(): count})
    done: Counter[tuple[int, ...]] = Counter()
    while groups:
        longer: Counter[tuple[int, ...]] = Counter()
        for text, rows in law.texts.rows(sorted(groups)):
            p = law.probs(rows[-1], text).cpu()
            drawn = torch.multinomial(p, groups[text], replacement=True, generator=generator)
            for token, n in zip(
                *(x.tolist() for x in drawn.unique(return_counts=True)), strict=True
            ):
                (done if law.final((*text, token)) else longer)[(*text, token)] += n
        groups = longer
    out: Counter[str] = Counter()
    for outcome, n in done.items():
        out[speller.text(outcome)] += n
    return out


def heads(texts: Counter[str]) -> Counter[str]:
    """The same counts by first character ("" for an empty text)."""
    out: Counter[str] = Counter()
    for text, n in texts.items():
        out[text[:1]] += n
    return out
