"""The memory file: what was learned comes back, to whom it belongs, or not at all."""

from __future__ import annotations

import hashlib
import json
import stat
import struct
import threading
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests import tiny

from foretoken.draft.aded import Aded
from foretoken.draft.base import Drafter
from foretoken.engine.engine import Engine
from foretoken.errors import ArtifactError, ConfigError, ForetokenError
from foretoken.learn import memory
from foretoken.learn.memory import PREFIX, check, read, remembering

V = 32


class Counting(Drafter):
    """Learns how many steps it saw; a stand-in whose state is small and easily spoiled."""

    name, summary, source, emits = "counting", "", "", "point"
    loads = 0

    def __init__(self, seen: int = 0) -> None:
        super().__init__(self.Options(), tiny.context(V))
        self.seen = seen

    def propose(self, session: Any, budget: Any) -> Any:
        return tiny.drafter("plain").propose(session, budget)

    def state(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load(self, state: dict[str, Any]) -> None:
        type(self).loads += 1
        self.seen += state["seen"]


def engine(method: Any = "aded", policy: Any = "fixed", **values: Any) -> Engine:
    return Engine(tiny.target("small"), method=method, policy=policy, **values)


def run(made: Engine, *seeds: int, tenant: str = "") -> list[tuple[int, int]]:
    """(drafted, accepted) of each request."""
    asked = [replace(tiny.request(tiny.prompt(s, 10, V), 24), tenant=tenant) for s in seeds]
    return [(c.stats.drafted, c.stats.accepted) for c in made.run(asked)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A small memory file."""
    engine(Counting(7)).remember(tmp_path / "memory")
    return tmp_path / "memory"


class TestRoundTrip:
    def test_drafts_go_on_where_they_were(self, tmp_path: Path) -> None:
        learned, twin, fresh = engine(), engine(), engine()
        run(learned, 1, 2, tenant="a")
        run(learned, 3, tenant="b")
        learned.remember(tmp_path / "m")
        twin.recall(tmp_path / "m")
        assert twin.method.drafter.state() == learned.method.drafter.state() != {}
        for tenant in "ab":
            went_on = run(learned, 1, tenant=tenant)
            assert run(twin, 1, tenant=tenant) == went_on != run(fresh, 1, tenant="other")

    def test_a_method_built_later_takes_up_its_part(self, tmp_path: Path) -> None:
        learned = engine()
        run(learned, 1)
        learned.remember(tmp_path / "m")
        later = engine("plain")
        later.recall(tmp_path / "m")
        assert later.use("aded").drafter.state() == learned.method.drafter.state()

    def test_other_options_start_anew_and_lose_nothing(self, tmp_path: Path) -> None:
        learned, other = engine(), engine(options={"eta": 0.9})
        run(learned, 1)
        learned.remember(tmp_path / "m")
        other.recall(tmp_path / "m")
        assert other.method.drafter.state()["stores"] == {}
        run(other, 2)
        other.remember(tmp_path / "m")
        third = engine("plain")
        third.recall(tmp_path / "m")
        assert third.use("aded").drafter.state() == learned.method.drafter.state()
        again = third.use("aded", options={"eta": 0.9})
        assert again.drafter.state() == other.method.drafter.state()

    def test_nothing_of_texts_that_end_with_their_request(self, tmp_path: Path) -> None:
        private = engine(options={"scope": "request"})
        run(private, 1)
        private.remember(tmp_path / "m")
        assert read(tmp_path / "m").entries == []

    def test_counts_of_a_policy_belong_to_its_drafter_and_model(self, tmp_path: Path) -> None:
        def stateful(made: Engine) -> Engine:
            made.method.policy.state = lambda: {"kept": 1}  # type: ignore[method-assign]
            return made

        def loaded(made: Engine) -> list[dict[str, Any]]:
            got: list[dict[str, Any]] = []
            made.method.policy.load = got.append  # type: ignore[method-assign]
            made.recall(tmp_path / "m")
            return got

        stateful(engine()).remember(tmp_path / "m")
        assert loaded(engine()) == [{"kept": 1}]
        assert loaded(engine("prompt-lookup")) == []
        assert loaded(engine(policy_options={"nodes": 3})) == []
        tight = Engine(tiny.target("tight"), method="aded", policy="fixed")
        assert loaded(tight) == [], "another model of the same tokens"

    def test_of_two_with_one_key_the_fuller_stays(self, tmp_path: Path) -> None:
        both = engine()
        run(both, 1)
        both.use("aded", "fixed", policy_options={"nodes": 2})  # learned nothing yet
        both.remember(tmp_path / "m")
        twin = engine()
        twin.recall(tmp_path / "m")
        assert twin.method.drafter.state() == both.method.drafter.state()

    def test_the_number_of_entries_is_bounded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(memory, "MOST", 3)
        for eta in (0.1, 0.2, 0.3, 0.4, 0.5):
            one = engine(options={"eta": eta})
            if (tmp_path / "m").exists():
                one.recall(tmp_path / "m")
            run(one, 1)
            one.remember(tmp_path / "m")
        assert len(read(tmp_path / "m").entries) == 3
        last = engine("plain")
        last.recall(tmp_path / "m")
        assert last.use("aded", options={"eta": 0.3}).drafter.state()["stores"]
        assert not last.use("aded", options={"eta": 0.2}).drafter.state()["stores"]


def refused(path: Path, words: str) -> None:
    """One line that names the file, and no drafter has seen any of it."""
    Counting.loads, made = 0, engine(Counting())
    with pytest.raises(ArtifactError, match=words) as error:
        made.recall(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert (Counting.loads, made.method.drafter.seen) == (0, 0)  # type: ignore[attr-defined]
    assert error.value.exit_code == 2


class TestRefusal:
    def test_the_file_is_good(self, file: Path) -> None:
        made = engine(Counting())
        made.recall(file)
        assert made.method.drafter.seen == 7  # type: ignore[attr-defined]
        check(file)

    def test_every_truncation(self, file: Path) -> None:
        whole = file.read_bytes()
        for n in range(len(whole)):
            file.write_bytes(whole[:n])
            refused(file, "memory file|truncated")
        file.write_bytes(whole + b"x")
        refused(file, "truncated or corrupt")

    def test_every_spoiled_byte(self, file: Path) -> None:
        whole = bytearray(file.read_bytes())
        for i in range(len(whole)):
            spoiled = whole.copy()
            spoiled[i] ^= 0x10
            file.write_bytes(spoiled)
            refused(file, "not a memory file|version|corrupt")

    def test_newer_foreign_and_none(self, file: Path, tmp_path: Path) -> None:
        whole = file.read_bytes()
        file.write_bytes(whole[:16] + struct.pack("<I", 2) + whole[20:])
        refused(file, "version 2; this foretoken reads 1")
        file.write_bytes(b"PK\x03\x04 something else entirely, and long enough to be a header ...")
        refused(file, "not a memory file of foretoken")
        refused(tmp_path / "none", "No such file")
        refused(tmp_path, "directory")

    @pytest.mark.parametrize(
        "change", [{"tokenizer_hash": "another"}, {"vocab": 33}, {"entries": {}}, {"more": 1},
                   {"entries": [{"role": "drafter", "name": "x", "digest": "", "state": []}]},
                   {"entries": [{"role": "drafter", "name": "x", "digest": "",
                                 "state": {"tokenizer_hash": "another"}}]}],
    )  # fmt: skip
    def test_a_whole_file_of_something_else(self, file: Path, change: dict[str, Any]) -> None:
        self.rewrite(file, change)
        refused(file, "tokenizer|content is not")

    def test_a_state_that_its_method_cannot_read_is_named(self, file: Path) -> None:
        entries = read(file).model_dump()["entries"]
        entries[0]["state"] = {"sen": 7}
        self.rewrite(file, {"entries": entries})
        with pytest.raises(ArtifactError, match=r"memory: 'counting' cannot take up .*'seen'"):
            engine(Counting()).recall(file)

    @staticmethod
    def rewrite(file: Path, change: dict[str, Any]) -> None:
        body = zlib.compress(json.dumps({**read(file).model_dump(), **change}).encode())
        digest = hashlib.sha256(body).digest()
        file.write_bytes(PREFIX.pack(memory.MAGIC, memory.VERSION, len(body), digest) + body)

    def test_places_that_cannot_be_are_refused_before_any_work(
        self, tmp_path: Path, file: Path
    ) -> None:
        for path in (tmp_path, tmp_path / "none" / "m", file / "m"):
            with pytest.raises(ConfigError, match=r"^memory: .*folder that can be written to"):
                check(path)
        file.write_bytes(file.read_bytes()[:-1])
        with pytest.raises(ArtifactError, match="truncated"):
            check(file)
        check(tmp_path / "new")


class TestWriting:
    def test_a_failure_leaves_the_old_file(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = file.read_bytes()

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(memory.os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            engine(Counting(9)).remember(file)
        assert file.read_bytes() == before
        assert list(file.parent.iterdir()) == [file], "the temporary file is gone"

    def test_its_owner_alone_reads_it_and_a_link_stays_one(self, file: Path) -> None:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        link = file.parent / "link"
        link.symlink_to(file)
        engine(Counting(9)).remember(link)
        assert link.is_symlink()
        assert read(file).entries[0].state == {"seen": 9}

    def test_of_two_writers_one_wins_and_no_reader_sees_half(self, file: Path) -> None:
        sizes, stop = (10, 20_000), threading.Event()

        def write(size: int) -> None:
            one = Counting(size)
            one.state = lambda: {"seen": size, "ballast": list(range(size))}  # type: ignore[method-assign]
            made = engine(one)
            while not stop.is_set():
                made.remember(file)

        writers = [threading.Thread(target=write, args=(size,)) for size in sizes]
        for writer in writers:
            writer.start()
        seen = {len(read(file).entries[0].state.get("ballast", ())) for _ in range(150)}
        stop.set()
        for writer in writers:
            writer.join()
        assert seen <= {0, *sizes}
        assert list(file.parent.iterdir()) == [file]

    @pytest.mark.parametrize("end", [None, KeyboardInterrupt, ForetokenError])
    def test_remembering_saves_whatever_ended_it(self, tmp_path: Path, end: Any) -> None:
        path, made = tmp_path / "m", engine(Counting())
        try:
            with remembering(made, path):
                made.method.drafter.seen = 3  # type: ignore[attr-defined]
                if end is not None:
                    raise end
        except (KeyboardInterrupt, ForetokenError):
            assert end is not None
        assert read(path).entries[0].state == {"seen": 3}
        with remembering(made, path):  # the same engine again: it knows already
            assert made.method.drafter.seen == 3  # type: ignore[attr-defined]
        with remembering(made, None):
            pass

    def test_what_was_refused_is_not_overwritten(self, file: Path) -> None:
        file.write_bytes(spoiled := file.read_bytes()[:-3])
        with pytest.raises(ArtifactError), remembering(engine(Counting()), file):
            pytest.fail("never entered")
        assert file.read_bytes() == spoiled


class TestGenerate:
    """`foretoken.generate(..., memory=)`."""

    @staticmethod
    def call(model: Any, path: Path | None, seed: int = 1, **fields: Any) -> tuple[list[int], int]:
        from foretoken import generate

        done: Any = generate(
            model, prompts=tiny.prompt(seed, 10, V), method="aded", policy="fixed", memory=path,
            max_new_tokens=24, **fields,
        )  # fmt: skip
        return done.tokens, done.stats.accepted

    def test_a_later_run_goes_on(self, tmp_path: Path) -> None:
        path = tmp_path / "m"
        text, first = self.call(tiny.make(tiny.SPECIAL["small"]()), path)
        assert self.call(tiny.make(tiny.SPECIAL["small"]()), path)[0] == text
        again, later = self.call(tiny.make(tiny.SPECIAL["small"]()), str(path))  # type: ignore[arg-type]
        assert again == text
        assert later > first

    def test_calls_that_name_no_file_are_not_in_it(self, tmp_path: Path) -> None:
        model, path = tiny.make(tiny.SPECIAL["small"]()), tmp_path / "m"
        self.call(model, None, tenant="silent")
        self.call(model, path, tenant="open")
        self.call(model, None, tenant="silent")
        self.call(model, path, tenant="open")
        (entry,) = read(path).entries
        assert list(entry.state["stores"]) == ["open"]

    def test_a_bad_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "m").write_text("no")
        with pytest.raises(ArtifactError, match="not a memory file"):
            self.call(tiny.target("small"), tmp_path / "m")


def test_the_digest_of_options_is_the_same_in_every_process() -> None:
    model = tiny.small_model(V)
    one, other = ({"table": Path("a"), "model": m} for m in (model, model))
    assert memory._digest(None, "a") != memory._digest(None, "b")
    assert json.dumps(one, default=memory._named) == json.dumps(other, default=memory._named)
    assert "0x" not in json.dumps({**one, "object": object()}, default=memory._named)
    assert memory._digest(Aded.Options()) != memory._digest(Aded.Options(eta=0.5))
