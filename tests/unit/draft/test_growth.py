"""What every growing draft shares."""

import math

import pytest
import torch

from foretoken.draft.growth import Growth
from foretoken.types import Budget

ROW = torch.tensor([0.5, 0.3, 0.2, 0.0]).log()


class Widest(Growth):
    """As many fixed children as the room allows, in the order of the frontier."""

    kind = "point"

    def grow(self, logprobs):
        fresh = len(self.tokens)
        for node, choices in zip(self.frontier, self.likeliest(logprobs, 9), strict=True):
            self.take(node, choices[: self.room])
        self.advance(range(fresh, len(self.tokens)))


def grown(nodes, depth, least=0.0, eos=()):
    growth = Widest(Budget(nodes, depth, least), torch.Generator(), True, eos)
    while growth.frontier:
        growth.grow(ROW.expand(len(growth.frontier), -1))
    return growth


@pytest.mark.parametrize(("nodes", "depth"), [(0, 3), (3, 0)])
def test_no_budget_no_frontier(nodes, depth):
    assert grown(nodes, depth).frontier == []
    assert len(grown(nodes, depth).tree()) == 0


def test_room_and_depth_end_the_growth():
    assert len(grown(7, 9).tree()) == 7
    assert grown(99, 2).tree().depth == 2
    assert len(grown(99, 2).tree()) == 3 + 9, "what the row rules out is no child"


def test_nothing_hangs_below_the_end_of_the_text():
    tree = grown(99, 3, eos={1}).tree()
    assert tree.tokens.count(1) == 1 + 2 + 4
    assert all(not tree.children[i + 1] for i in range(len(tree)) if tree.tokens[i] == 1)


def test_improbable_paths_end():
    tree = grown(99, 3, least=0.12).tree()
    assert sorted(tree.joint) == pytest.approx(
        sorted([0.5, 0.3, 0.2, 0.25, 0.15, 0.15, 0.125])
    )  # fmt: skip


def test_joint_is_the_log_of_the_path():
    growth = grown(20, 3)
    assert [math.exp(x) for x in growth.joint] == pytest.approx(growth.tree().joint)
    assert growth.above(-1) == 0.0


def test_rows_and_draws_are_passed_on():
    growth = Widest(Budget(9, 9), torch.Generator(), False)
    growth.kind = "sampled"
    row = growth.keep(ROW.exp()[None])
    node = growth.add(-1, 0, 0.5, row)
    second = growth.keep(torch.full((2, 4), 0.25))
    below = growth.add(node, 3, 0.25, second + 1, logprob=-9.0)
    assert growth.joint[below] == math.log(0.5) - 9.0
    growth.draw_nodes, growth.draw_parents = [node, below], [-1, 0]
    tree = growth.tree()
    assert (tree.dist_row, tuple(tree.dist.shape)) == ((0, 2), (3, 4))
    assert tree.draw_nodes == (), "each node is one draw: the tree says it all"
    growth.draw_nodes, growth.draw_parents = [node, node, below], [-1, -1, 0]
    assert growth.tree().draws.children == [[0, 1], [2], [], []]
