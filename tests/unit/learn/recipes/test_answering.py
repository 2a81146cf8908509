import json
import signal
from pathlib import Path

import pytest
import torch
from tests import letters, talking

from foretoken.errors import ArtifactError, ConfigError, ForetokenError
from foretoken.learn.recipes import answering, answers, data
from foretoken.learn.recipes.answering import Answering, Settings, seed_of
from foretoken.learn.recipes.answers import read_answers, read_examples
from foretoken.learn.recipes.data import StoppedError, write_data
from foretoken.learn.recipes.talks import Talk, read_talks
from foretoken.learn.recipes.turns import prompt_of
from foretoken.types import Limits, Request, Sampling, Scores

END = letters.EOS
QUICK = Settings(temperatures=(0.0, 1.0), samples=2, max_new_tokens=24, shard=3, loops="keep")
PROMPTS = ["abc", "Hello", "What is it?", "two words", "5 + 5", "z", "def f(x):"]


def user(text):
    return {"role": "user", "content": text}


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    path.write_text("".join(json.dumps({"question": p}) + "\n" for p in PROMPTS))
    return read_talks([path], tokenizer=talking.tokenizer())


@pytest.fixture(scope="module")
def folder(asked, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "answers"
    write_data(talking.engine(), asked, QUICK, out, command="foretoken train draft data")
    return out


def files(folder: Path):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_every_answer_is_what_the_target_writes_alone(folder):
    """Prompt, temperature and seed of a row are enough to write it again."""
    found = read_answers(folder)
    assert len(found.rows) == len(PROMPTS) * 3
    engine = talking.engine(batch=1)
    for row in found.rows:
        prompt = list(map(int, row.input_ids[: row.n_prompt]))
        sampling = Sampling(temperature=row.temperature, seed=row.seed)
        request = Request(prompt, sampling, Limits(max_new_tokens=24))
        (alone,) = engine.run([request])
        assert list(row.input_ids[row.n_prompt :]) == alone.tokens
        assert row.finish_reason == alone.finish_reason
        assert list(row.loss_mask) == [False] * row.n_prompt + [True] * len(alone.tokens)
    ended = [row for row in found.rows if row.finish_reason == "stop"]
    assert 0 < len(ended) < len(found.rows)
    assert all(row.input_ids[-1] == END and row.loss_mask[-1] for row in ended)


def test_prompts_go_through_the_template_and_answers_have_seeds_of_their_own(folder):
    rows = read_answers(folder).rows
    tokenizer = talking.tokenizer()
    assert list(rows[0].input_ids[: rows[0].n_prompt]) == prompt_of(tokenizer, [user("abc")])
    assert [row.id for row in rows[:3]] == [f"prompts.jsonl:1#{i}" for i in range(3)]
    assert [row.temperature for row in rows[:3]] == [0.0, 1.0, 1.0]
    assert len({row.seed for row in rows}) == len(rows)
    assert list(rows[1].input_ids) != list(rows[2].input_ids)


@pytest.mark.parametrize("method", ["prompt-lookup", "plain"])
def test_what_drafts_and_who_rides_along_change_nothing(asked, folder, tmp_path, method):
    out = tmp_path / "other"
    write_data(talking.engine(method, batch=2), asked, QUICK, out)
    for ours, theirs in zip(read_answers(out).rows, read_answers(folder).rows, strict=True):
        assert ours.id == theirs.id
        assert list(ours.input_ids) == list(theirs.input_ids)


def test_interrupted_and_gone_on_gives_the_same_bytes(asked, folder, tmp_path, monkeypatch):
    out = tmp_path / "answers"
    write = answers.AnswerFolder.write

    def interrupted(self, index, rows, counts):
        if index == 1:
            signal.raise_signal(signal.SIGINT)
        write(self, index, rows, counts)

    monkeypatch.setattr(answers.AnswerFolder, "write", interrupted)
    command = "foretoken train draft data"
    with pytest.raises(StoppedError, match="stopped with 1 of 3 shards") as stopped:
        write_data(talking.engine(), asked, QUICK, out, command=command)
    assert stopped.value.exit_code == 130
    with pytest.raises(ArtifactError, match="unfinished, 1 of 3 shards"):
        read_answers(out)
    monkeypatch.setattr(answers.AnswerFolder, "write", write)
    kept = (out / "data" / "train-00000-of-00003.parquet").stat()
    made = write_data(talking.engine(), asked, QUICK, out, command=command)
    assert (out / "data" / "train-00000-of-00003.parquet").stat().st_mtime_ns == kept.st_mtime_ns
    assert made.complete
    assert files(out) == files(folder)


def test_an_interrupt_in_the_middle_of_a_shard_leaves_the_engine_empty(asked, tmp_path):
    engine = talking.engine()

    def watch(turns, tokens, done):
        if turns == 2:
            raise KeyboardInterrupt

    with pytest.raises(StoppedError, match="0 of 3"):
        write_data(engine, asked, QUICK, tmp_path / "out", watch=watch)
    assert not engine.sessions
    assert engine.step() == []


def test_a_damaged_shard_is_refused_and_mended(asked, folder, tmp_path):
    out = tmp_path / "answers"
    write_data(talking.engine(), asked, QUICK, out, command="foretoken train draft data")
    shard = out / "data" / "train-00001-of-00003.parquet"
    shard.write_bytes(shard.read_bytes()[:-20])
    with pytest.raises(ArtifactError, match=r"00001.*missing or damaged"):
        read_answers(out)
    write_data(talking.engine(), asked, QUICK, out, command="foretoken train draft data")
    assert files(out) == files(folder)


@pytest.mark.parametrize(
    ("change", "field"),
    [({"max_new_tokens": 25}, "max-new-tokens"), ({"temperatures": (0.0, 0.9)}, "temperatures"),
     ({"seed": 1}, "seed")],
)  # fmt: skip
def test_another_run_does_not_mix_with_it(asked, folder, change, field):
    with pytest.raises(ConfigError, match=f"^{field}: .*no-resume"):
        write_data(talking.engine(), asked, QUICK.model_copy(update=change), folder)


def test_no_resume_replaces_and_foreign_folders_are_refused(asked, tmp_path):
    out = tmp_path / "answers"
    write_data(talking.engine(), asked, QUICK, out)
    wider = QUICK.model_copy(update={"shard": 7, "max_new_tokens": 4})
    made = write_data(talking.engine(), asked, wider, out, resume=False)
    assert sorted(p.name for p in (out / "data").iterdir()) == ["train-00000-of-00001.parquet"]
    assert made.counts["rows"] == len(read_examples(out)) == 21
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="out: .*new or empty"):
        write_data(talking.engine(), asked, QUICK, tmp_path / "full")


def test_a_full_disk_is_one_line_and_keeps_what_was_written(asked, tmp_path, monkeypatch):
    out, calls = tmp_path / "answers", []
    written = answers._write

    def full(path, rows):
        calls.append(path)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return written(path, rows)

    monkeypatch.setattr(answers, "_write", full)
    with pytest.raises(ForetokenError, match=r"No space left.*1 of 3 shards are kept") as error:
        write_data(talking.engine(), asked, QUICK, out)
    assert "\n" not in str(error.value)
    monkeypatch.undo()
    write_data(talking.engine(), asked, QUICK, out)
    assert len(read_examples(out)) == 21


def test_datasets_loads_the_folder_as_it_is(folder, tmp_path):
    import datasets

    datasets.disable_progress_bars()
    loaded = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path))
    rows = read_answers(folder).rows
    assert loaded.column_names == ["id", "input_ids", "loss_mask", "n_prompt", "temperature",
                                   "seed", "finish_reason"]  # fmt: skip
    assert loaded["id"] == [row.id for row in rows]
    assert loaded[5]["input_ids"] == list(rows[5].input_ids)
    assert loaded[5]["loss_mask"] == list(rows[5].loss_mask)
    assert loaded[5]["n_prompt"] == rows[5].n_prompt


def test_the_manifest_says_who_what_how_and_how_much(folder, asked):
    made = read_answers(folder).manifest
    assert made.model == "tiny-0"
    assert made.tokenizer_hash
    assert made.vocab == 97
    assert made.sources[0]["sha256"] == asked.sources[0].sha256
    assert made.settings["temperatures"] == [0.0, 1.0]
    assert made.settings["dtype"] == "float32"
    counts = made.counts
    assert counts["asked"] == counts["turns"] == counts["rows"] == 21
    assert counts["stop"] + counts["length"] == 21
    assert counts["learned"] == counts["tokens"]
    assert made.versions["torch"]
    assert str(folder.parent) not in (folder / "manifest.json").read_text()


def test_another_models_answers_are_refused(folder):
    key = talking.engine().context.tokenizer_hash
    assert read_answers(folder, key, 97).rows
    with pytest.raises(ArtifactError, match="vocabulary of 97 tokens; this model has 98"):
        read_answers(folder, key, 98)
    with pytest.raises(ArtifactError, match="another meaning"):
        read_answers(folder, "f" * 64, 97)
    with pytest.raises(ArtifactError, match=r"manifest\.json is missing"):
        read_answers(folder / "data")


def test_prompts_without_an_answer_are_one_line(tmp_path, monkeypatch):
    """Every text is cut down to nothing: nothing is left to learn."""
    monkeypatch.setattr(answering, "loop_start", lambda text: 0 if len(text) > 2 else None)
    asked = read_talks([saved(tmp_path, {"prompt": "ab"})], tokenizer=talking.tokenizer())
    with pytest.raises(ForetokenError, match=r"no prompt got an answer.*3 looping") as error:
        write_data(talking.engine(), asked, QUICK.model_copy(update={"loops": "cut"}),
                   tmp_path / "out")  # fmt: skip
    assert "\n" not in str(error.value)
    with pytest.raises(ArtifactError, match="there is no answer in it"):
        read_answers(tmp_path / "out")


def saved(folder, *rows):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_conversation_is_written_against_the_models_own_answers(tmp_path):
    turns = ["Hello", "And you?", "Bye"]
    talk = Talk("x", tuple(map(user, turns)))
    settings = Settings(temperatures=(1.0,), samples=5, max_new_tokens=120, loops="keep")
    engine = talking.engine(batch=8)
    rows, counts = Answering(engine, settings).write([talk])
    by = {}
    for row in rows:
        by.setdefault(row.id.partition(".")[0], []).append(row)
    assert counts["turns"] > 5  # some answers ended by themselves, and the talk went on
    again = talking.engine(batch=1)
    for sample in range(5):
        said, want = [], []
        for turn in turns:
            said.append(user(turn))
            prompt = prompt_of(engine.tokenizer, said)
            sampling = Sampling(temperature=1.0, seed=seed_of(0, talk.key, sample))
            (done,) = again.run([Request(prompt, sampling, Limits(max_new_tokens=120))])
            want.append((prompt, done.tokens))
            if done.finish_reason != "stop":
                break
            said.append({"role": "assistant", "content": done.text.strip()})
        got = by[f"x#{sample}"]
        learned = [t for row in got for t, m in zip(row.input_ids, row.loss_mask, strict=True) if m]
        assert learned == [token for _, answer in want for token in answer]
        last = [*want[-1][0], *want[-1][1]]
        assert list(got[-1].input_ids) == last  # the last row is all that the model read and wrote
    assert any(_answers_in(row) > 1 for row in rows)


def _answers_in(row):
    mask = list(row.loss_mask)
    return sum(now and not before for before, now in zip([False, *mask], mask, strict=False))


def test_a_talk_ends_where_an_answer_was_cut_short():
    talk = Talk("x", (user("Hello"), user("Bye")))
    engine = talking.engine()
    rows, counts = Answering(engine, QUICK.model_copy(update={"max_new_tokens": 2})).write([talk])
    assert counts["turns"] == counts["length"] == len(rows) == 3
    assert all(sum(row.loss_mask) == 2 for row in rows)


def test_loops_are_cut_after_their_first_cycle_dropped_or_kept(monkeypatch):
    talk = Talk("x", ids=tuple(letters.tokenizer().encode("abc")))
    engine = talking.engine()
    greedy = Settings(temperatures=(0.0,), max_new_tokens=240)
    # the model's greedy text is replaced by one that begins to loop after 20 letters
    text = [*range(1, 21), *[30, 31, 32, 33] * 60]
    step = engine.target.score

    def score(jobs):
        at = [job.cache.length + len(job.fresh) - 3 for job in jobs]
        step(jobs)
        return [Scores(torch.eye(97)[[text[i]]]) for i in at]

    monkeypatch.setattr(engine.target, "score", score)
    answering_ = Answering(engine, greedy)
    (row,), counts = answering_.write([talk])
    assert list(row.input_ids[3:]) == text[:24]
    assert row.finish_reason == "loop"
    assert counts["tokens"] == 64  # it is not written to its end
    rows, counts = Answering(engine, greedy.model_copy(update={"loops": "drop"})).write([talk])
    assert (rows, counts["looping"]) == ([], 1)
    (row,), _ = Answering(engine, greedy.model_copy(update={"loops": "keep"})).write([talk])
    assert len(row.input_ids) == 243


def test_given_answers_and_ready_rows_give_the_same_tensors(tmp_path):
    said = [user("Hello"), {"role": "assistant", "content": "Hi."}, user("Bye"),
            {"role": "assistant", "content": "So long!"}]  # fmt: skip
    keep = QUICK.model_copy(update={"keep_answers": True})
    engine = talking.engine()
    (row,), _ = Answering(engine, keep).write([Talk("x", tuple(said))])
    ready = {"input_ids": list(row.input_ids), "loss_mask": [int(m) for m in row.loss_mask]}
    path = saved(tmp_path, {"conversations": said}, ready)
    asked = read_talks([path], tokenizer=engine.tokenizer, keep=True)
    write_data(engine, asked, keep, tmp_path / "out")
    one, two = read_examples(tmp_path / "out")
    assert one.ids.tolist() == two.ids.tolist()
    assert one.mask.tolist() == two.mask.tolist()
    assert one.mask.sum() == len("Hi.|So long!|")
    assert read_answers(tmp_path / "out").manifest.counts["given"] == 2


def test_prompts_too_long_or_of_foreign_tokens(tmp_path):
    long = Talk("long", ids=(1,) * 256)
    rows, counts = Answering(talking.engine(), QUICK).write([long, Talk("x", ids=(1, 2))])
    assert counts["too-long"] == 3
    assert len(rows) + counts["empty"] == 3
    with pytest.raises(ConfigError, match="bad: 97"):
        Answering(talking.engine(), QUICK).write([Talk("bad", ids=(1, 97))])
    with pytest.raises(ConfigError, match=r"^prompts: 'two'.*single prompt"):
        Answering(talking.engine(template=None), QUICK).write(
            [Talk("two", ({"role": "system", "content": "s"}, user("a")))]
        )


def test_seeds_follow_the_prompt_and_not_its_place():
    settings = QUICK.model_copy(update={"temperatures": (1.0,)})
    talks = [Talk(str(i), (user(p),)) for i, p in enumerate(PROMPTS)]
    forth, _ = Answering(talking.engine(batch=7), settings).write(talks)
    back, _ = Answering(talking.engine(batch=2), settings).write(talks[::-1])
    assert {r.id: list(r.input_ids) for r in forth} == {r.id: list(r.input_ids) for r in back}
    assert 0 <= seed_of(3, "x", 1) < 2**63


def test_bad_settings_are_named():
    for change, field in (({"loops": "maybe"}, "loops"), ({"temperatures": (-1.0,)}, "temper")):
        with pytest.raises(ConfigError, match=f"^{field}"):
            Answering(talking.engine(), QUICK.model_copy(update=change))
    assert data.StoppedError.exit_code == 130


def test_parts_made_apart_are_the_folder_of_one_run(asked, folder, tmp_path):
    """Merged in any order; what is missing, foreign or damaged is refused."""
    parts = [tmp_path / f"part-{k}" for k in range(2)]
    for k, part in enumerate(parts):
        write_data(
            talking.engine(), asked, QUICK, part, part=(k, 2), command="foretoken train draft data"
        )
    with pytest.raises(ConfigError, match="merge: 'part-0' .* all 3 shards .* have 2"):
        data.merge(parts[:1], tmp_path / "some")
    data.merge(parts[::-1], tmp_path / "all")
    assert files(tmp_path / "all") == files(folder)
    other = tmp_path / "other"
    slower = QUICK.model_copy(update={"samples": 1})
    write_data(talking.engine(), asked, slower, other, part=(1, 2))
    with pytest.raises(ConfigError, match="samples"):
        data.merge([parts[0], other], tmp_path / "mixed")
    next(parts[1].rglob("*.parquet")).write_bytes(b"")
    with pytest.raises(ArtifactError, match="damaged"):
        data.merge(parts, tmp_path / "broken")
    with pytest.raises(ConfigError, match="out"):
        data.merge([folder], parts[0] / "data")
