"""Ways to draw a value, in the words of Hypothesis' strategies, but uniform.

Hypothesis looks for small and odd values and repeats itself; a ledger shows its depths only in long and varied lives. The machine draws a
seed by Hypothesis, so that whole steps are shrunk away, and the content of a step from here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from random import Random

    Chance = Callable[[Random], Any]


def just(value: Any) -> Chance:
    return lambda _: value


def sampled_from(items: Iterable[Any]) -> Chance:
    choices = list(items)
    return lambda random: random.choice(choices)


def integers(least: int, most: int) -> Chance:
    return lambda random: random.randint(least, most)


def booleans() -> Chance:
    return sampled_from([False, True])


def one_of(*chances: Chance) -> Chance:
    return lambda random: random.choice(chances)(random)


def tuples(*chances: Chance) -> Chance:
    return lambda random: tuple(chance(random) for chance in chances)


def lists(chance: Chance, min_size: int = 0, max_size: int = 5) -> Chance:
    return lambda random: [chance(random) for _ in range(random.randint(min_size, max_size))]


def subsets(items: Iterable[Any]) -> Chance:
    """Draw some of the items, at least one, in their order."""
    choices = list(items)

    def draw(random: Random) -> list[Any]:
        kept = random.sample(range(len(choices)), random.randint(1, len(choices)))
        return [choices[place] for place in sorted(kept)]

    return draw
