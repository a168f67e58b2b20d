"""What a step draws is a function of (seed, step, rank); each epoch visits each item once."""

from collections import Counter
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.training.loader import Plan, train_loader
from core.training.randomness import batch_indices, derive, generator
from tests.training.toy import Pictures


def test_equal_arguments_give_equal_draws_and_any_other_argument_gives_others() -> None:
    def draw(*arguments):
        return torch.rand(4, generator=generator(*arguments)).tolist()

    assert draw(1, 2, 3, "noise") == draw(1, 2, 3, "noise")
    draws = {tuple(draw(*key)) for key in product((0, 1), (0, 1), (0, 1), ("noise", "drop"))}
    assert len(draws) == 16


def test_seeds_are_the_same_in_every_process_and_version() -> None:
    assert derive(7, 100, 1, "noise") == 5144836238201760649


def test_parts_do_not_run_into_each_other() -> None:
    assert len({derive(1, 23), derive(12, 3), derive("1", 23), derive("1,23"), derive(123)}) == 5


@settings(max_examples=40, deadline=None)
@given(
    num_items=st.integers(1, 30), world_size=st.integers(1, 4), batch_size=st.integers(1, 7), seed=st.integers(0, 99)
)
def test_each_item_comes_once_per_epoch_for_any_number_of_ranks(
    num_items: int, world_size: int, batch_size: int, seed: int
) -> None:
    epochs = 3
    visited: list[int] = []
    for step in range(-(-epochs * num_items // (world_size * batch_size))):
        for rank in range(world_size):
            visited += batch_indices(seed, step, rank, world_size, batch_size, num_items)
    for epoch in range(epochs):
        once = visited[epoch * num_items : (epoch + 1) * num_items]
        assert Counter(once) == Counter(range(num_items))


def test_two_processes_read_what_one_with_twice_the_batch_reads() -> None:
    for step in range(5):
        apart = batch_indices(0, step, 0, 2, 3, 10) + batch_indices(0, step, 1, 2, 3, 10)
        assert apart == batch_indices(0, step, 0, 1, 6, 10)


def test_epochs_have_different_orders() -> None:
    assert batch_indices(0, 0, 0, 1, 20, 20) != batch_indices(0, 1, 0, 1, 20, 20)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_started_at_a_step_yields_what_an_earlier_one_yields_there(workers: int) -> None:
    plan = Plan(seed=5, rank=0, world_size=1, batch_size=2, accumulate=2)
    early = list(train_loader(Pictures(), plan, 0, 5, 0, 0.0))[3:]
    late = list(train_loader(Pictures(), plan, 3, 5, workers, 60.0))
    for (ours, _), (theirs, _) in zip(late, early, strict=True):
        assert len(ours) == 2
        for one, other in zip(ours, theirs, strict=True):
            assert torch.equal(one["picture"], other["picture"])
            assert torch.equal(one["index"], other["index"])


def test_a_broken_sample_is_replaced_by_the_same_other_one_every_time() -> None:
    plan = Plan(seed=5, rank=0, world_size=1, batch_size=12, accumulate=1)
    once, again = (next(iter(train_loader(Pictures(broken=[4]), plan, 0, 1, 0, 0.0))) for _ in range(2))
    ((batch,), broken), ((same,), _) = once, again
    assert torch.equal(batch["picture"], same["picture"])
    assert 4 not in batch["index"]
    assert broken == [(4, "BadImage: picture 4 is broken")]


def test_the_state_of_the_global_generator_does_not_matter() -> None:
    plan = Plan(seed=5, rank=0, world_size=1, batch_size=4, accumulate=1)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    list(train_loader(Pictures(), plan, 0, 2, 0, 0.0))
    assert torch.equal(torch.get_rng_state(), before)
