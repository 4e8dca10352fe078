"""The scheduler alone, against a cache that is simulated as the token that each place of each block holds."""

from hypothesis import given, settings
from hypothesis import strategies as st

from openqwq.inference.cache.block_manager import BlockPool
from openqwq.inference.scheduler import Scheduler
from openqwq.inference.sequence import NO_ROW, Request, noise_key
from openqwq.types import SamplingParams

SIZE = 4


def make_request(name, prompt_ids, n, number=0):
    return Request(
        id=name,
        prompt_ids=tuple(prompt_ids),
        params=SamplingParams(n=n),
        seed=0,
        stop_token_ids=frozenset(),
        max_new_tokens=10_000,
        number=number,
    )


class World:
    """A scheduler with a simulated cache, batch tensors and sampler."""

    def __init__(self, *, num_blocks=40, max_num_seqs=4, budget=100, prefix_caching=True):
        self.pool = BlockPool(num_blocks, SIZE, prefix_caching=prefix_caching)
        self.scheduler = Scheduler(self.pool, max_num_seqs=max_num_seqs, max_num_batched_tokens=budget)
        self.cache = [[None] * SIZE for _ in range(num_blocks)]
        self.tables = [[] for _ in range(max_num_seqs)]
        self.number = 0

    def add(self, name, prompt_ids, n=1):
        self.scheduler.add(make_request(name, prompt_ids, n, self.number))
        self.number += 1

    def write(self, blocks, position, token):
        self.cache[blocks[position // SIZE]][position % SIZE] = token

    def read(self, blocks, length):
        return [self.cache[blocks[i // SIZE]][i % SIZE] for i in range(length)]

    def execute(self, plan):
        """Do what the runner does, and check that every token sees exactly the tokens before it."""
        for source, target in plan.copies:
            self.cache[target] = list(self.cache[source])
        for source, target in plan.moves:
            self.tables[target] = self.tables[source]
        for sequence in plan.arrivals:
            self.tables[sequence.row] = list(sequence.table.blocks)
        for row, column, block in plan.entries:
            assert column == len(self.tables[row])
            self.tables[row].append(block)
        assert [s.row for s in plan.running] == list(range(len(plan.running)))
        work = [(c.sequence.table.blocks, c.sequence, c.start, c.end) for c in plan.chunks]
        work += [(self.tables[s.row], s, s.num_tokens - 1, s.num_tokens) for s in plan.running]
        for blocks, sequence, start, end in work:
            for position in range(start, end):
                self.write(blocks, position, sequence.known_ids(position, position + 1)[0])
        for blocks, sequence, _, end in work:
            assert self.read(blocks, end) == list(sequence.known_ids(0, end))

    def step(self, lengths):
        """One step; samples end when they have as many tokens as `lengths` says. The plan and completed ids."""
        plan = self.scheduler.schedule()
        running = list(plan.running)
        self.execute(plan)
        for sequence in running:
            sequence.append(7 + len(sequence.token_ids) + 10 * sequence.index, -1.0, 0)
            if len(sequence.token_ids) >= lengths[sequence.request.id][sequence.index]:
                sequence.finish("stop")
        return plan, [request.id for request in self.scheduler.settle()]


request_shapes = st.lists(
    st.tuples(
        st.integers(0, 12),  # step of arrival
        st.integers(1, 19),  # prompt length
        st.lists(st.integers(1, 15), min_size=1, max_size=5),  # completion length of each sample
        st.one_of(st.none(), st.integers(0, 20)),  # step of its abort
        st.integers(0, 2),  # which beginning the prompt has
    ),
    max_size=9,
)


@settings(max_examples=150, deadline=None)
@given(request_shapes, st.integers(1, 6), st.integers(1, 20), st.integers(9, 30), st.booleans())
def test_every_request_ends_once_and_no_block_leaks(shapes, max_num_seqs, budget, num_blocks, prefix_caching):
    """A pool of 9 blocks holds the longest sequence (34 tokens) and hardly more: preemption is common."""
    world = World(num_blocks=num_blocks, max_num_seqs=max_num_seqs, budget=budget, prefix_caching=prefix_caching)
    scheduler, ended = world.scheduler, []
    lengths = {f"r{i}": shape[2] for i, shape in enumerate(shapes)}
    work = sum((1 + shape[1]) * len(shape[2]) + sum(shape[2]) for shape in shapes)
    for step in range(14 + 20 * work):
        for i, (arrival, prompt_length, sample_lengths, _, beginning) in enumerate(shapes):
            if arrival == step:
                world.add(f"r{i}", [100 * beginning + j for j in range(prompt_length)], len(sample_lengths))
        for i, shape in enumerate(shapes):
            if shape[3] == step and (aborted := scheduler.abort(f"r{i}")):
                assert all(s.finish_reason for s in aborted.sequences)
                ended.append(f"r{i}")
        plan, completed = world.step(lengths)
        ended += completed
        assert sum(c.end - c.start for c in plan.chunks) <= max(budget, SIZE)
        assert len(plan.running) <= max_num_seqs
        if step > 21 and not scheduler.requests:
            break
    assert sorted(ended) == sorted(lengths)
    assert not scheduler.waiting and not scheduler.requests and not scheduler.filling
    assert world.pool.num_free == num_blocks and scheduler.num_running == 0


def test_a_groups_prompt_is_computed_once_and_its_blocks_are_shared():
    world = World()
    world.add("a", range(10), 4)
    first, _ = world.step({"a": [9] * 4})
    assert [(c.start, c.end) for c in first.chunks] == [(0, 9)] and len(first.running) == 1
    second, _ = world.step({"a": [9] * 4})
    assert not second.chunks and len(second.copies) == 3 and len(second.running) == 4
    tables = [s.table.blocks for s in second.running]
    assert all(table[:2] == tables[0][:2] for table in tables)
    assert len({table[2] for table in tables}) == 4


def test_a_late_sample_shares_with_one_that_still_runs():
    world = World(max_num_seqs=2)
    world.add("a", range(6), 3)
    lengths = {"a": [3, 9, 9]}
    plans = [world.step(lengths)[0] for _ in range(4)]
    assert [len(plan.chunks) for plan in plans] == [1, 0, 0, 0]
    assert [s.index for s in plans[3].running] == [2, 1]


def test_a_late_sample_finds_the_prompt_in_the_cache_when_none_runs():
    world = World(max_num_seqs=1)
    world.add("a", range(11), 2)
    chunks = [world.step({"a": [1, 1]})[0].chunks for _ in range(2)]
    assert [[(c.start, c.end) for c in step] for step in chunks] == [[(0, 10)], [(8, 10)]]


def test_a_prompt_that_begins_alike_computes_the_rest_only():
    world = World()
    world.add("a", [*range(8), 50, 51])
    world.step({"a": [1]})
    world.add("b", [*range(8), 60, 61, 62])
    plan, _ = world.step({"b": [5]})
    assert [(c.start, c.end) for c in plan.chunks] == [(8, 10)]
    assert plan.running[0].num_cached == 8
    world.pool.reset()
    world.add("c", [*range(8), 70])
    plan, _ = world.step({"b": [5], "c": [5]})
    assert [(c.start, c.end) for c in plan.chunks] == [(0, 8)]


def test_prompts_of_one_step_share_what_the_first_computes():
    world = World()
    for name in "ab":
        world.add(name, range(9))
    plan, _ = world.step({"a": [1], "b": [1]})
    assert [(c.start, c.end) for c in plan.chunks] == [(0, 8)] and len(plan.running) == 2


def test_long_prompts_go_in_chunks_beside_decoding_rows():
    world = World(budget=6)
    world.add("a", range(3))
    lengths = {"a": [20], "long": [2]}
    world.step(lengths)
    world.add("long", range(100, 114))
    plans = [world.step(lengths)[0] for _ in range(3)]
    assert [[(c.start, c.end) for c in plan.chunks] for plan in plans] == [[(0, 5)], [(5, 10)], [(10, 13)]]
    assert [len(plan.running) for plan in plans] == [1, 1, 2]


def test_the_latest_arrival_is_preempted_and_comes_back():
    world = World(num_blocks=6)
    for name in "abc":
        world.add(name, [ord(name)] * 4)
    lengths = {name: [14] for name in "abc"}
    order, preempted_at = [], None
    for _ in range(80):
        plan, completed = world.step(lengths)
        order += completed
        if preempted_at is None and world.scheduler.num_preempted:
            preempted_at = [s.request.id for s in plan.running]
    assert preempted_at is not None and "a" in preempted_at and "c" not in preempted_at
    assert sorted(order) == ["a", "b", "c"] and order[0] == "a"


def test_a_freed_row_is_refilled_in_the_very_next_step():
    world = World(max_num_seqs=2)
    lengths = {"a": [1], "b": [5], "c": [5]}
    for i, name in enumerate(lengths):
        world.add(name, range(10 * i, 10 * i + 3))
    world.step(lengths)
    plan, _ = world.step(lengths)
    assert [s.request.id for s in plan.running] == ["c", "b"] and not plan.moves


def test_the_last_row_moves_into_a_hole_when_nothing_waits():
    world = World(max_num_seqs=3)
    lengths = {"a": [1], "b": [5], "c": [5]}
    for i, name in enumerate(lengths):
        world.add(name, range(10 * i, 10 * i + 3))
    world.step(lengths)
    plan, _ = world.step(lengths)
    assert plan.moves == [(2, 0)]
    assert [s.request.id for s in plan.running] == ["c", "b"]


def test_abort_of_a_waiting_request_gives_back_its_samples_untouched():
    world = World(max_num_seqs=1)
    world.add("a", range(3))
    world.add("b", range(3), 2)
    world.step({"a": [9]})
    aborted = world.scheduler.abort("b")
    assert [s.finish_reason for s in aborted.sequences] == ["abort", "abort"]
    assert all(s.row == NO_ROW and not s.table.blocks for s in aborted.sequences)
    assert not world.scheduler.waiting and list(world.scheduler.requests) == ["a"]


def test_the_least_recently_used_prefix_makes_room():
    pool = BlockPool(3, SIZE)
    for first in (10, 20):
        table = pool.match(())
        assert pool.extend(table, SIZE, 0, SIZE - 1)
        pool.register(table, [first] * SIZE, SIZE)
        pool.release(table)
    pool.release(pool.match([10] * SIZE))  # used again: the other one is older now
    table = pool.match(())
    assert pool.extend(table, 2 * SIZE, 0, 0) and not pool.extend(table, 4 * SIZE, 0, 0)
    assert len(pool.match([10] * SIZE).blocks) == 1 and not pool.match([20] * SIZE).blocks


def test_policy_versions_follow_the_marks():
    sequence = make_request("a", range(3), 1).sequences[0]
    for version in (4, 4, 5, 5, 5, 9):
        sequence.append(1, -0.5, version)
    assert sequence.policy_versions() == (4, 4, 5, 5, 5, 9)
    assert sequence.marks == [(0, 4), (2, 5), (5, 9)]


def test_noise_keys_differ_by_seed_sample_and_prompt_only():
    keys = {noise_key(seed, index, prompt) for seed in (0, 1) for index in (0, 1) for prompt in ((1,), (1, 2))}
    assert len(keys) == 8
    assert noise_key(3, 1, (5, 6)) == noise_key(3, 1, (5, 6))
    assert all(-(2**63) <= key < 2**63 for key in keys)
