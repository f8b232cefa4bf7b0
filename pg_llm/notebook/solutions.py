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
    "07.1": Exercise(
        equals(12),
        "Three paths with slope 4 each; on paper it is 3x².",
        ((equals(4), "that is the gradient of x * x; one factor more."), (equals(8), "that is the value.")),
    ),
    "07.2": Exercise(
        equals(6),
        "5 through the product and 1 directly.",
        (
            (equals(5), "that is the way through the product; there is a second one."),
            (equals(2), "that is the gradient of y; take the row with name = 'x'."),
            (lambda value: isinstance(value, list), "one number: add WHERE name = 'x'."),
        ),
    ),
    "07.3": Exercise(
        close(0.1739887),
        "Stuck: one bend cannot keep two corners of a square apart from the other two.",
        (
            (
                lambda value: float(value) < 0.01,
                "that is the large network; give w1 and w2 their new shapes first.",
            ),
            (lambda value: isinstance(value, list), "one number: the loss of step 200."),
        ),
    ),
    "07.4": Exercise(
        equals(38),
        "Thirty-eight operations, one behind the other: that is why it is called deep.",
        (
            (equals(37), "count the loss itself, too."),
            (lambda value: value < 10, "the shortest way is the tied head; take the max of the depths."),
        ),
    ),
    "08.1": Exercise(
        lambda value: 905_000 < value < 915_000,
        "Nine hundred thousand answers to *what if*, from one walk.",
        (
            (equals(52), "that is the number of tensors; sum up their elements with numel."),
            (lambda value: value > 915_000, "other models count too; keep the rows WHERE model = :model."),
        ),
    ),
    "08.2": Exercise(
        equals(11),
        "The text has 117 tokens: the model has learned nothing about the last 11 positions from it.",
        (
            (equals(117), "those are the positions that were used."),
            (equals(128), "that is every row; keep those whose largest value is 0."),
            (equals(1408), "those are single numbers; group them by i."),
        ),
    ),
    "08.3": Exercise(
        lambda value: abs(float(value)) < 1e-4,
        "Zero: what one token's probability gains, the others lose.",
        ((lambda value: float(value) > 1e-4, "sum along the vocabulary, the last axis, which is 2."),),
    ),
    "08.4": Exercise(
        close(2),
        "Twice: the same text, the same gradient, added. That is how many texts share one step.",
        (
            (close(1), "once: bring both walks home before you look, and begin with llm_zero_grad."),
            (close(3), "thrice: begin with llm_zero_grad."),
            (close(0.5), "the other way round: after two walks, divided by after one."),
        ),
    ),
    "09.1": Exercise(
        close(0.02),
        "Beyond it each step leaps further up the other side.",
        ((close(0.01), "there it lands on the floor in one step; it still shrinks beyond that."),),
    ),
    "09.2": Exercise(
        close(0.05),
        "The learning rate itself: how large a gradient is does not matter, only its sign.",
        ((close(0.000005), "that is gradient descent; Adam divides by the gradient's size."),),
    ),
    "09.3": Exercise(
        lambda value: 276_000 <= float(value) <= 278_500,
        "Decay is patient; without it nothing would ever be forgotten.",
        (
            (
                lambda value: 2500 < float(value) < 3000,
                "the decay is 0.01, and the learning rate comes on top of it.",
            ),
        ),
    ),
    "09.4": Exercise(
        close(0.1331865),
        "All of them by the same number, so that the direction stays what it was.",
        (
            (close(3.7541), "that is the length of all gradients; divide the limit by it."),
            (lambda value: float(value) > 1, "the other way round: the limit divided by the length."),
            (close(0.5 / 2.149361), "that is wte.weight alone; sum over all the rows of my_adam."),
        ),
    ),
    "09.5": Exercise(
        close(-0.1545391),
        "It hardly leaves its place: m cancels, v does not. Adam moves most where gradients agree.",
        (
            (close(-1), "that is the weight whose gradient is always 1; let the sign alternate."),
            (close(0.1545391), "the first gradient is 1, not -1."),
        ),
    ),
    "10.1": Exercise(
        close(math.exp(0.74), 1e-2),
        "Between two and three words: stories are mostly determined, and the rest is luck.",
        ((close(0.74), "that is the loss; raise e to it."),),
    ),
    "10.2": Exercise(
        close(math.log(787), 2e-3),
        "Random weights know nothing, and this is what knowing nothing costs.",
        ((lambda value: float(value) > 100, "that is the number of tokens; take its logarithm."),),
    ),
    "10.3": Exercise(
        lambda value: 20 <= value <= 150,
        "A few dozen steps: grammar is what repeats most, so it is learned first.",
        (
            (lambda value: value > 150, "the first one: take the min of step."),
            (lambda value: value < 2, "that is a loss; the number of the step is asked for."),
        ),
    ),
    "10.4": Exercise(
        equals("choice"),
        "A little at each of nine thousand tokens outweighs all that is missed in songs.",
        (
            (equals("song"), "a song's token misses much, but there are few: multiply by tokens."),
            (equals("syntax"), "there are most of those, but they miss nothing: tokens * (loss - floor)."),
            (lambda value: isinstance(value, list), "return one row with one column: LIMIT 1."),
        ),
    ),
}
