"""The one table of losses, held against the recipe's union of them."""

from __future__ import annotations

from typing import get_args

import pytest
from pydantic import TypeAdapter

from edgedistill.distillation.objective.table import TERMS, signals
from edgedistill.models.signals import LOGITS, Signal
from edgedistill.recipe.terms import Term

UNION, _CHOSEN_BY = get_args(Term)
WORDS = [word for section in get_args(UNION) for word in get_args(section.model_fields["loss"].annotation)]
ANSWERS = {"member", "pairs", "projection", "tap", "taught"}


def term(**keys: object) -> Term:
    """A term as a recipe's keys make it."""
    made: Term = TypeAdapter[Term](Term).validate_python(keys)
    return made


def test_every_loss_of_the_recipe_has_one_builder_and_no_builder_is_left_over() -> None:
    assert len(WORDS) == len(set(WORDS))
    assert sorted(TERMS) == sorted(WORDS)


@pytest.mark.parametrize("section", get_args(UNION))
def test_what_a_term_answers_stands_in_no_recipe_and_no_schema(section: type) -> None:
    """Artifacts hold a digest of the recipe as it is dumped."""
    schema = TypeAdapter(section).json_schema()
    assert set(dir(section)) >= ANSWERS
    assert not ANSWERS & set(schema["properties"])


def test_a_term_listens_to_what_it_names() -> None:
    layers = {"student_layers": ["a", "b"], "teacher_layers": ["x", "y"], "capture": "input"}
    own, theirs = signals(term(loss="hint", teacher="one", **layers))
    assert own == [Signal("a", "input"), Signal("b", "input")]
    assert theirs == [Signal("x", "input", "one"), Signal("y", "input", "one")]


@pytest.mark.parametrize(
    ("keys", "theirs"),
    [
        ({"loss": "cross_entropy"}, []),
        ({"loss": "dkd"}, [LOGITS]),
        ({"loss": "dkd", "teacher": "one"}, [Signal(member="one")]),
        ({"loss": "pkt", "teacher": "one"}, [Signal(member="one")]),
    ],
)
def test_a_term_without_layers_listens_to_logits(keys: dict[str, object], theirs: list[Signal]) -> None:
    assert signals(term(**keys)) == ([LOGITS], theirs)
