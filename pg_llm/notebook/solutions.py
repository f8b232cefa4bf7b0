"""The solutions of the notebooks' exercises: EXERCISES["01.2"] is the second exercise of notebook 01."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Exercise:
    """right(answer) is the test; near contains (test, hint) pairs for informative wrong answers."""

    right: Callable
    praise: str
    near: tuple = ()
    hint: str = "Open the hint under the exercise, change one thing, and run the cell again."


def close(expected: float, tolerance: float = 1e-3) -> Callable:
    """A test for a number, with a tolerance for rounding."""
    return lambda value: math.isclose(float(value), expected, rel_tol=tolerance, abs_tol=tolerance)


def equals(expected) -> Callable:
    """A test for a value; text is compared without surrounding spaces."""
    return lambda value: (value.strip() if isinstance(value, str) else value) == expected


def tensor(expected) -> Callable:
    """A test for a tensor, as an array or as the text that %%sql shows; a wrong shape is a wrong answer."""

    def test(value):
        array = np.asarray(json.loads(value) if isinstance(value, str) else value, float)
        return array.shape == np.shape(expected) and np.allclose(array, expected, atol=1e-4)

    return test


EXERCISES: dict[str, Exercise] = {
    "00.1": Exercise(
        equals("I am a database"),
        "So it is.",
        (
            (
                lambda value: isinstance(value, list),
                "llm_decode turns numbers into text, llm_encode the opposite.",
            ),
        ),
    ),
    "00.2": Exercise(
        equals(3324736),
        "Nearly all of them are in wte.weight: 50,257 tokens with 64 numbers each.",
        (
            (lambda value: value > 3324736, "other models count too; keep the rows WHERE model = 'my_gpt'."),
            (equals(3216448), "that is wte.weight alone; sum over all the rows of my_gpt."),
        ),
    ),
    "00.3": Exercise(
        equals("Hellocuttingcuttingcutting"),
        "Greedy and random at once: an untrained model likes one token and sticks to it.",
        (
            (lambda value: not value.startswith("Hello"), "the prompt is Hello, without a space."),
            (lambda value: value.count("cutting") > 3, "ask for three tokens: max_tokens => 3."),
            (lambda value: "cutting" not in value, "that was drawn at random; set temperature => 0."),
        ),
    ),
    "01.1": Exercise(
        lambda value: list(value) == [5, 7],
        "The 1 grew to 7, and the missing axis to 5.",
        (
            (lambda value: list(value) == [7, 5], "the axes keep their order: 5 stands left of 1."),
            (lambda value: len(value) != 2, "the result has as many axes as the longer of the two shapes."),
        ),
    ),
    "01.2": Exercise(
        tensor([[2, 1], [4, 3], [6, 5]]),
        "A matrix of zeros and ones can move columns about: it is called a permutation.",
        (
            (tensor([[1, 2], [3, 4], [5, 6]]), "that is x unchanged: your w has its ones on the diagonal."),
            (
                lambda value: not tensor([[2, 1], [4, 3], [6, 5]])(value),
                "x @ w should be [[2,1],[4,3],[6,5]].",
            ),
        ),
    ),
    "01.3": Exercise(
        equals("milkshake"),
        "Sweet, milky and cold: there is no mistaking it.",
        (
            (equals("espresso"), "that is the drink least like the wish: ORDER BY … DESC."),
            (equals("cocoa"), "cocoa would win by the product alone; divide by both lengths."),
            (lambda value: isinstance(value, list), "return one row with one column: LIMIT 1."),
        ),
    ),
    "01.4": Exercise(
        lambda value: 0 <= float(value) < 1e-5,
        "Not exactly 0 for every drink, perhaps, but within the seven digits that float32 has.",
        (
            (
                lambda value: abs(float(value) - 1) < 0.5,
                "subtract 1 from each sum before you take abs and max.",
            ),
        ),
    ),
    "01.5": Exercise(
        tensor([2.5, -0.5, 0]),
        "The same numbers as in SQL: a tensor is a value, wherever it goes.",
        (
            (tensor([3, -1, 1]), "add the bias b."),
            (lambda value: np.size(value) != 3, "three scores are asked for, as an array of shape (3)."),
        ),
    ),
    "02.1": Exercise(
        equals(33135),
        "Two of three tokens begin a new word.",
        ((lambda value: value in (0, 50257), "write the letter Ġ, then the wildcard: LIKE 'Ġ%'."),),
    ),
    "02.2": Exercise(
        equals(3541),
        "Cats came after 3,541 more frequent pairs; there are 50,000 in all.",
        ((equals(3797), "that is the token's id; the rank of its merge is asked for."),),
    ),
    "02.3": Exercise(
        equals("onomatopoeia"),
        "Six pieces, while all the others have one or two.",
        ((lambda value: isinstance(value, list), "return one row with one column: LIMIT 1."),),
    ),
    "02.4": Exercise(
        equals(19),
        "Most of a text is made of very common tokens; its meaning comes from the rare ones.",
        (
            (equals(55), "that counts every token; keep those with rank < 1000."),
            (lambda value: isinstance(value, list), "count(*) makes one number of the rows."),
        ),
    ),
    "03.1": Exercise(
        equals("morning"),
        "A phrase beats every single place: the lakes, trees and hills share what is left.",
        (
            (equals("The"), "that is what follows a line feed; take before = ' the', with its space."),
            (lambda value: isinstance(value, list), "return one row with one column: LIMIT 1."),
        ),
    ),
    "03.2": Exercise(
        close(8),
        "As unsure as if eight tokens were equally likely.",
        (
            (close(math.log(8)), "that is the loss; perplexity is exp of it."),
            (
                close(1 / 8),
                "that is the probability; the perplexity of a sure guess would be 1, not more sure.",
            ),
        ),
    ),
    "03.3": Exercise(
        equals("bird"),
        "Both fly and sing, and so they have the same followers.",
        (
            (equals("eagle"), "an eagle is most like itself; leave it out: other.i <> mine.i."),
            (lambda value: isinstance(value, list), "return one row with one column: LIMIT 1."),
        ),
    ),
    "03.4": Exercise(
        lambda value: 65 <= float(value) <= 66,
        "And it looks at more than one token back, too: but that is for the layers in between.",
        (
            (
                lambda value: 32 < float(value) < 33,
                "wte and head are one and the same matrix: count it once.",
            ),
            (lambda value: 0 < float(value) < 1, "the other way round: the table divided by the matrix."),
        ),
    ),
    "04.1": Exercise(
        equals(378),
        "27 * 28 / 2: nearly half of the work never has to be done.",
        ((equals(729), "that is every pair; a token sees itself and earlier ones only: j <= i."),),
    ),
    "04.2": Exercise(
        close(math.exp(2) / (math.exp(2) + math.e + 1)),
        "Two thirds: each point of score is worth a factor of e.",
        (
            (close(2 / 3, 1e-4), "not the share of the score: softmax raises e to each score first."),
            (lambda value: len(str(value)) > 12, "one number: the first element alone."),
        ),
    ),
    "04.3": Exercise(
        lambda value: list(value) == [19, 22, 43, 50],
        "Every layer of a model is this join, done fast.",
        (
            (
                lambda value: list(value) == [23, 31, 34, 46],
                "the columns of a meet the rows of b: a.j = b.i.",
            ),
            (lambda value: len(value) != 4, "four rows: GROUP BY a.i, b.j."),
            (lambda value: sorted(value) == [19, 22, 43, 50], "in the order of a.i and b.j."),
        ),
    ),
    "04.4": Exercise(
        equals(True),
        "The same: to attention, what came before is a bag of tokens. Positions must be told in another way.",
        ((equals(False), "compare the last token alone, and with ~=: the sums are added in another order."),),
    ),
}
