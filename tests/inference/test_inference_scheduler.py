"""The scheduler alone, against a cache that is simulated as a list of what each slot holds."""

from hypothesis import given, settings
from hypothesis import strategies as st

from openqwq.inference.scheduler import Scheduler
from openqwq.inference.sequence import NO_SLOT, Request, noise_key
from openqwq.types import SamplingParams


def make_request(name, prompt_length, n):
    return Request(
        id=name,
        prompt_ids=tuple(range(prompt_length)),
        params=SamplingParams(n=n),
        seed=0,
        stop_token_ids=frozenset(),
        max_new_tokens=10_000,
    )


def execute(plan, cache):
    """Do to the simulated cache what the runner does to the real one."""
    for source, target in plan.moves:
        cache[target] = cache[source]
        cache[source] = None
    for sequence in plan.prefills:
        cache[sequence.slot] = (sequence.request.id, sequence.request.num_cached)
    for source, target, length in plan.copies:
        assert cache[source][1] >= length
        cache[target] = (cache[source][0], length)
    for sequence in plan.running:
        name, length = cache[sequence.slot]
        assert name == sequence.request.id
        assert length == sequence.request.num_cached + len(sequence.token_ids)
        cache[sequence.slot] = (name, length + 1)


def run_step(scheduler, cache, lengths):
    """One step; sequences end when they have as many tokens as `lengths` says. Returns plan, completed ids."""
    plan = scheduler.schedule()
    running = list(plan.running)
    assert [sequence.slot for sequence in running] == list(range(len(running)))
    execute(plan, cache)
    for sequence in running:
        sequence.append(7, -1.0, 0)
        if len(sequence.token_ids) >= lengths[sequence.request.id][sequence.index]:
            sequence.finish("stop")
    return plan, [request.id for request in scheduler.settle()]


request_shapes = st.lists(
    st.tuples(
        st.integers(0, 12),  # step of arrival
        st.integers(1, 9),  # prompt length
        st.lists(st.integers(1, 15), min_size=1, max_size=5),  # completion length of each sample
        st.one_of(st.none(), st.integers(0, 20)),  # step of its abort
    ),
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(request_shapes, st.integers(1, 6), st.integers(1, 20))
def test_every_request_ends_once_and_no_slot_leaks(shapes, num_slots, budget):
    scheduler = Scheduler(max_num_seqs=num_slots, max_num_batched_tokens=budget)
    cache, ended = [None] * num_slots, []
    lengths = {f"r{i}": shape[2] for i, shape in enumerate(shapes)}
    work = sum(sum(shape[2]) for shape in shapes)
    for step in range(13 + 21 + work):
        for i, (arrival, prompt_length, sample_lengths, _) in enumerate(shapes):
            if arrival == step:
                scheduler.add(make_request(f"r{i}", prompt_length, len(sample_lengths)))
        for i, shape in enumerate(shapes):
            if shape[3] == step and (aborted := scheduler.abort(f"r{i}")):
                assert all(s.finish_reason for s in aborted.sequences)
                ended.append(f"r{i}")
        plan, completed = run_step(scheduler, cache, lengths)
        ended += completed
        prefilled = sum(s.request.num_cached for s in plan.prefills)
        assert prefilled <= budget or len(plan.prefills) == 1
        assert len(plan.running) <= num_slots
        if scheduler.waiting and not scheduler.slots.holes:
            assert plan.running
    assert sorted(ended) == sorted(lengths)
    assert not scheduler.waiting and not scheduler.requests
    assert scheduler.slots.num_free == num_slots


def test_a_groups_prompt_is_prefilled_once_and_copied():
    scheduler = Scheduler(max_num_seqs=4, max_num_batched_tokens=100)
    scheduler.add(make_request("a", 6, 4))
    plan = scheduler.schedule()
    assert [s.slot for s in plan.prefills] == [0]
    assert plan.copies == [(0, 1, 5), (0, 2, 5), (0, 3, 5)]


def test_a_late_sibling_copies_from_one_that_still_runs():
    scheduler = Scheduler(max_num_seqs=2, max_num_batched_tokens=100)
    scheduler.add(make_request("a", 6, 3))
    cache = [None, None]
    first, _ = run_step(scheduler, cache, {"a": [1, 9, 9]})
    assert len(first.prefills) == 1 and len(first.copies) == 1
    second, _ = run_step(scheduler, cache, {"a": [1, 9, 9]})
    assert not second.prefills and second.copies == [(1, 0, 5)]


def test_a_late_sibling_is_prefilled_again_when_none_runs():
    scheduler = Scheduler(max_num_seqs=1, max_num_batched_tokens=100)
    scheduler.add(make_request("a", 6, 2))
    cache = [None]
    for _ in range(2):
        plan, _ = run_step(scheduler, cache, {"a": [1, 1]})
        assert len(plan.prefills) == 1 and not plan.copies


def test_a_freed_slot_is_refilled_in_the_very_next_step():
    scheduler = Scheduler(max_num_seqs=2, max_num_batched_tokens=100)
    lengths = {"a": [1], "b": [5], "c": [5]}
    for name in lengths:
        scheduler.add(make_request(name, 3, 1))
    cache = [None, None]
    run_step(scheduler, cache, lengths)
    plan, _ = run_step(scheduler, cache, lengths)
    assert [s.request.id for s in plan.running] == ["c", "b"] and not plan.moves


def test_the_last_row_moves_into_a_hole_when_nothing_waits():
    scheduler = Scheduler(max_num_seqs=3, max_num_batched_tokens=100)
    lengths = {"a": [1], "b": [5], "c": [5]}
    for name in lengths:
        scheduler.add(make_request(name, 3, 1))
    cache = [None] * 3
    run_step(scheduler, cache, lengths)
    plan, _ = run_step(scheduler, cache, lengths)
    assert plan.moves == [(2, 0)]
    assert [s.request.id for s in plan.running] == ["c", "b"]


def test_requests_start_in_order_of_arrival_within_the_prefill_budget():
    scheduler = Scheduler(max_num_seqs=8, max_num_batched_tokens=10)
    for name, length in [("a", 6), ("b", 6), ("c", 9), ("d", 2)]:
        scheduler.add(make_request(name, length, 1))
    started = [[s.request.id for s in scheduler.schedule().arrivals] for _ in range(3)]
    assert started == [["a", "b"], ["c", "d"], []]


def test_a_prompt_longer_than_the_budget_still_starts():
    scheduler = Scheduler(max_num_seqs=1, max_num_batched_tokens=2)
    scheduler.add(make_request("long", 50, 1))
    assert len(scheduler.schedule().prefills) == 1


def test_abort_of_a_waiting_request_gives_back_its_samples_untouched():
    scheduler = Scheduler(max_num_seqs=1, max_num_batched_tokens=100)
    scheduler.add(make_request("a", 3, 1))
    scheduler.add(make_request("b", 3, 2))
    scheduler.schedule()
    aborted = scheduler.abort("b")
    assert [s.finish_reason for s in aborted.sequences] == ["abort", "abort"]
    assert all(s.slot == NO_SLOT for s in aborted.sequences)
    assert not scheduler.waiting and list(scheduler.requests) == ["a"]


def test_policy_versions_follow_the_marks():
    sequence = make_request("a", 3, 1).sequences[0]
    for version in (4, 4, 5, 5, 5, 9):
        sequence.append(1, -0.5, version)
    assert sequence.policy_versions() == (4, 4, 5, 5, 5, 9)
    assert sequence.marks == [(0, 4), (2, 5), (5, 9)]


def test_noise_keys_differ_by_seed_sample_and_prompt_only():
    keys = {noise_key(seed, index, prompt) for seed in (0, 1) for index in (0, 1) for prompt in ((1,), (1, 2))}
    assert len(keys) == 8
    assert noise_key(3, 1, (5, 6)) == noise_key(3, 1, (5, 6))
    assert all(-(2**63) <= key < 2**63 for key in keys)
