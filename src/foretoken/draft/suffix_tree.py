"""How often was every short string written, and what followed it? A counted suffix tree.

Source: SuffixDecoding, Oliaro et al., arXiv 2411.04975 (methods/modelfree-extras.md, C). The tree
holds all substrings of at most `depth` tokens of the texts put in, as paths from the root; a node
counts the places where its path occurs. Texts are taken out again, the oldest first. Edges are
compressed and hold no tokens: a node knows one text and one place in it where its path stands. A
text that passes an edge becomes the edge's text, so that what is left never refers to a text that
is gone.

While a text grows, those of its tails that occurred before end inside the tree: the *active*
points, longest first. Tails that are new are leaves, which grow with their text by themselves. So
a token costs as many operations as the longest match has tokens, `depth` at most. An active tail
is counted on the edge that it has entered; `finish` settles what is under way.

Nodes are numbers and their fields lists of numbers, which the garbage collector need not walk.
"""

from __future__ import annotations

ROOT = 0
NOWHERE = -1
SHORT = 8  # tokens of a match that is found sooner from below than by a guess


class SuffixTree:
    """Strings of at most `depth` tokens with their counts."""

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.tokens = 0  # of all finished texts in the tree
        self.growing: list[int] = []  # the text that grows
        self.active: list[int] = []  # nodes on whose edges its tails end, that of n - i tokens at i
        # [nodes]: places where the path occurs; a text with it, where it starts there, its length
        self.count = [0]
        self.text: list[list[int]] = [[]]
        self.start = [0]
        self.end = [0]
        self.parent = [NOWHERE]
        self.below: list[dict[int, int] | None] = [{}]  # first token of an edge -> node
        # child with the largest count, the latest of equals, when a place was last added below
        self.best = [NOWHERE]
        self._free: list[int] = []
        self._leaves: list[int] = []  # made by `growing`, those that may still grow last

    def __len__(self) -> int:
        """Tokens of the texts in it."""
        return self.tokens + len(self.growing)

    @property
    def nodes(self) -> int:
        """Nodes in use, the root included."""
        return len(self.count) - len(self._free)

    def append(self, token: int) -> None:
        """The growing text goes on."""
        growing, active, texts, starts = self.growing, self.active, self.text, self.start
        ends, count, best = self.end, self.count, self.best
        growing.append(token)
        active.append(ROOT)
        at, settled, here = len(active), 0, len(growing) - 1
        for i, node in enumerate(active):  # later entries may change on the way, and are read then
            at -= 1
            if at == ends[node]:
                children = self.below[node]
                child = children.get(token) if children else None
                if child is None:
                    self._leaf(node, token, here - at)
                    settled += 1
                    continue
                count[child] += 1
                if count[child] >= count[best[node]]:
                    best[node] = child
                node = active[i] = child  # noqa: PLW2901
            elif texts[node][starts[node] + at] != token:
                self._leaf(self._split(i, at, here - at), token, here - at)
                settled += 1
                continue
            if at + 1 == ends[node]:  # the edge is passed: its text is this one from now on
                texts[node], starts[node] = growing, here - at
        if settled < len(active) and len(active) - settled == self.depth:
            settled += 1  # as long as the tree is deep
        del active[:settled]

    def finish(self) -> list[int]:
        """The growing text ends; it is returned, for `remove`. Every tail ends at a node now."""
        text, active = self.growing, self.active
        for i in range(len(active)):
            at = len(active) - i
            if at < self.end[active[i]]:
                self._split(i, at, len(text) - at)
        for leaf in self._leaves:
            self.end[leaf] = min(self.depth, len(self.text[leaf]) - self.start[leaf])
        self.tokens += len(text)
        self.growing, self.active, self._leaves = [], [], []
        return text

    def remove(self, text: list[int]) -> None:
        """Take out the oldest text, as `finish` gave it; nothing may be growing."""
        assert not self.growing
        count, below, ends = self.count, self.below, self.end
        for first in range(len(text)):
            node, at, limit = ROOT, 0, min(self.depth, len(text) - first)
            while at < limit:
                child = below[node][text[first + at]]  # type: ignore[index]
                count[child] -= 1
                if not count[child]:
                    self._cut(node, text[first + at], child)
                    break
                node, at = child, ends[child]
            children = below[node]
            if children and len(children) == 1 and node:
                self._join(node)
        self.tokens -= len(text)

    def find(self, tokens: list[int], first: int) -> int:
        """The node on whose edge `tokens[first:]` ends; NOWHERE if it never occurred."""
        node, at, length = ROOT, 0, len(tokens) - first
        while at < length:
            children = self.below[node]
            child = children.get(tokens[first + at]) if children else None
            if child is None:
                return NOWHERE
            upto, start = min(self.end[child], length), self.start[child]
            if self.text[child][start + at : start + upto] != tokens[first + at : first + upto]:
                return NOWHERE
            node, at = child, upto
        return node

    def longest(self, tokens: list[int], guess: int = 0) -> tuple[int, int]:
        """Tokens of the longest tail that occurs in the tree, `depth` - 1 at most, and the node on
        whose edge it ends. guess: tokens that it may well have. All shorter tails occur, too, so
        that doubling and halving find it."""
        length = len(tokens)
        unknown = min(self.depth - 1, length) + 1
        guess = min(guess, unknown - 1)
        known, found, step = 0, ROOT, guess if guess > SHORT else 1
        while known < step < unknown:
            node = self.find(tokens, length - step)
            if node != NOWHERE:
                known, found, step = step, node, step + 1 if step == guess else 2 * step
            else:
                unknown, step = step, 1 if step == guess > SHORT else unknown
        while unknown - known > 1:
            middle = (known + unknown) // 2
            node = self.find(tokens, length - middle)
            if node == NOWHERE:
                unknown = middle
            else:
                known, found = middle, node
        return known, found

    def _leaf(self, node: int, token: int, start: int) -> None:
        leaf = self._node(1, self.growing, start, self.depth, node)
        children = self.below[node]
        if children is None:
            children = self.below[node] = {}
        children[token] = leaf
        if len(children) == 1 or self.count[self.best[node]] <= 1:
            self.best[node] = leaf
        self._leaves.append(leaf)
        if len(self._leaves) > 4 * self.depth:
            del self._leaves[: -self.depth]

    def _split(self, i: int, at: int, start: int) -> int:
        """Cut the edge of tail i after the tail's `at` tokens, which stand at `start` of the
        growing text. Shorter tails that end on that edge are above the cut, too."""
        low = self.active[i]
        above = self.parent[low]
        mid = self._node(self.count[low], self.growing, start, at, above)
        first = self.start[low]
        self.below[above][self.text[low][first + self.end[above]]] = mid  # type: ignore[index]
        self.below[mid] = {self.text[low][first + at]: low}
        if self.best[above] == low:
            self.best[above] = mid
        self.best[mid], self.parent[low] = low, mid
        active = self.active
        for k in range(i, len(active)):
            if active[k] == low:
                active[k] = mid
                self.count[low] -= 1
        return mid

    def _node(self, count: int, text: list[int], start: int, end: int, parent: int) -> int:
        if self._free:
            node = self._free.pop()
            self.count[node], self.text[node], self.start[node] = count, text, start
            self.end[node], self.parent[node] = end, parent
            self.below[node], self.best[node] = None, NOWHERE
            return node
        self.count.append(count)
        self.text.append(text)
        self.start.append(start)
        self.end.append(end)
        self.parent.append(parent)
        self.below.append(None)
        self.best.append(NOWHERE)
        return len(self.count) - 1

    def _cut(self, node: int, token: int, child: int) -> None:
        """Drop an edge and all below it: a single path, since nothing passes it any more."""
        children = self.below[node]
        assert children is not None
        del children[token]
        if self.best[node] == child:
            latest = reversed(children.values())
            self.best[node] = max(latest, key=self.count.__getitem__, default=NOWHERE)
        while True:
            beneath = self.below[child]
            self._drop(child)
            if not beneath:
                return
            (child,) = beneath.values()

    def _drop(self, node: int) -> None:
        self.text[node], self.below[node], self.count[node] = [], None, 0
        self._free.append(node)

    def _join(self, node: int) -> None:
        """A node with one child goes if no tail ends at it: their edges become one."""
        children, above = self.below[node], self.parent[node]
        assert children is not None
        (child,) = children.values()
        if self.count[child] < self.count[node]:
            return
        first = self.text[child][self.start[child] + self.end[above]]
        self.below[above][first] = child  # type: ignore[index]
        if self.best[above] == node:
            self.best[above] = child
        self.parent[child] = above
        self._drop(node)
