"""sketched drafters: files, tables of domains, and a swap in the middle of a text."""

import copy
from pathlib import Path

import pytest
import torch
import transformers as tf
from tests import tiny

from foretoken.draft.lm_model import small_model
from foretoken.draft.sketched import (
    FILE,
    Sketch,
    domains,
    encoded,
    gathered,
    load_sketched,
    load_small,
    packed,
    put,
    read_sketch,
    tables_file,
    unpacked,
)
from foretoken.engine.engine import Engine
from foretoken.errors import ArtifactError, ConfigError
from foretoken.learn.recipes.sketch_layers import fitting
from foretoken.target.linear import PackedLinear, pack_linears
from foretoken.target.narrow import SIDE_FILE, keep_units, layers_of, padded, widths_of

CPU = torch.device("cpu")
IDS = torch.randint(0, tiny.VOCAB, (2, 11), generator=torch.Generator().manual_seed(2))


def random_sketch(model, bits: int = 4, seed: int = 0) -> Sketch:
    """Any codes and tables of the model's block linears."""
    g = torch.Generator().manual_seed(seed)
    sketch = Sketch(bits, {}, {})
    for name, module in model.model.layers.named_modules():
        if isinstance(module, torch.nn.Linear):
            r, n = module.weight.shape
            groups = fitting(n, 4)
            full = f"model.layers.{name}"
            size = (r, groups, n // groups)
            sketch.codes[full] = torch.randint(0, 1 << bits, size, generator=g, dtype=torch.uint8)
            table = 0.2 * torch.randn(r, groups, 1 << bits, generator=g)
            sketch.tables[full] = table.half().float()
    return sketch


def other_tables(sketch: Sketch) -> Sketch:
    return sketch.with_tables({n: (t * 0.7).half().float() for n, t in sketch.tables.items()})


def rest_of(model, sketch: Sketch) -> dict[str, torch.Tensor]:
    skipped = {f"{name}.weight" for name in sketch.codes}
    if model.config.tie_word_embeddings:
        skipped.add("lm_head.weight")
    return {n: t for n, t in model.state_dict().items() if n not in skipped}


def folder_of(path: Path, model, sketch: Sketch) -> Path:
    path.mkdir(exist_ok=True)
    model.config.save_pretrained(path)
    (path / FILE).write_bytes(encoded(sketch, rest_of(model, sketch)))
    return path


def drafter(family: str = "llama", tied: bool = False):
    if family == "llama":
        return tiny.make(tf.LlamaConfig(**tiny._GQA, tie_word_embeddings=tied), seed=7)
    return copy.deepcopy(tiny.model(family))


@torch.inference_mode()
def logits(model):
    model.set_attn_implementation("eager")
    return model(IDS, use_cache=False).logits


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("m", [1, 3, 8])
def test_packing_comes_back(bits: int, m: int) -> None:
    codes = torch.randint(0, 1 << bits, (5, 2, m), dtype=torch.uint8)
    data = packed(codes, bits)
    assert torch.equal(unpacked(data, bits, 2, 2 * m), codes)
    assert data.shape == (5, -(-2 * m // (8 // bits)))


def test_weights_are_looked_up_by_row_and_group() -> None:
    table = torch.arange(2 * 3 * 4.0).view(2, 3, 4)
    codes = torch.randint(0, 4, (2, 3, 5), dtype=torch.uint8)
    made = gathered(table, codes)
    for i in range(2):
        for g in range(3):
            for j in range(5):
                assert made[i, g * 5 + j] == table[i, g, int(codes[i, g, j])]


@pytest.mark.parametrize(
    ("family", "tied"),
    [("llama", False), ("llama", True), ("qwen2", False), ("qwen3", False), ("mistral", False)],
)
def test_a_folder_gives_the_same_model(family: str, tied: bool, tmp_path: Path) -> None:
    model = drafter(family, tied)
    sketch = random_sketch(model)
    folder = folder_of(tmp_path, model, sketch)
    put(model, sketch)
    loaded = load_sketched(folder)
    assert torch.equal(logits(loaded), logits(model))
    assert not loaded.training
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) is tied
    again = read_sketch(folder)
    assert again.identity == sketch.identity
    assert all(torch.equal(again.tables[n], t) for n, t in sketch.tables.items())


def test_bytes_are_those_of_the_formula(tmp_path: Path) -> None:
    model = drafter()
    sketch = random_sketch(model)
    weights = sum(codes.numel() for codes in sketch.codes.values())
    entries = sum(c.shape[0] * c.shape[1] * 16 for c in sketch.codes.values())
    rest = sum(t.numel() * t.element_size() for t in rest_of(model, sketch).values())
    assert sketch.code_bytes == weights // 2
    assert sketch.table_bytes == 2 * entries
    size = (folder_of(tmp_path, model, sketch) / FILE).stat().st_size
    assert 0 <= size - (sketch.code_bytes + sketch.table_bytes + rest) < 6000  # the header


def test_a_domain_is_one_small_file_and_restoring_is_exact(tmp_path: Path) -> None:
    model = drafter()
    base = random_sketch(model)
    maths = other_tables(base)
    folder = folder_of(tmp_path, model, base)
    (folder / tables_file("maths")).write_bytes(encoded(maths))
    assert domains(folder) == ["maths"]
    assert (folder / tables_file("maths")).stat().st_size < base.table_bytes + 4000
    first = load_sketched(folder)
    before = logits(first)
    there = load_sketched(folder, "maths")
    assert not torch.equal(before, logits(there))
    put(first, read_sketch(folder, "maths"))
    assert torch.equal(logits(first), logits(there))
    put(first, read_sketch(folder))
    assert torch.equal(logits(first), before)


def test_tables_can_be_put_into_packed_layers() -> None:
    model = tiny.make(
        tf.LlamaConfig(**{**tiny._GQA, "hidden_size": 256, "intermediate_size": 2304})
    )
    base = random_sketch(model)
    other = other_tables(base)
    plain, fast = copy.deepcopy(model), copy.deepcopy(model)
    assert pack_linears(fast)
    assert any(isinstance(m, PackedLinear) for m in fast.modules())
    for sketch in (base, other, base):
        put(plain, sketch)
        put(fast, sketch)
        assert (logits(plain) - logits(fast)).abs().max() < 1e-3 * logits(plain).abs().max()


def test_a_cut_drafter_can_be_sketched(tmp_path: Path) -> None:
    model = drafter()
    keep_units(layers_of(model)[0], [1], range(12))
    padded(model).config.save_pretrained(tmp_path)
    sketch = random_sketch(model)
    (tmp_path / FILE).write_bytes(encoded(sketch, rest_of(model, sketch)))
    (tmp_path / SIDE_FILE).write_bytes(widths_of(model).encoded())
    put(model, sketch)
    assert torch.equal(logits(load_sketched(tmp_path)), logits(model))


def test_folders_without_a_sketch_load_as_they_are(tmp_path: Path) -> None:
    model = drafter()
    model.save_pretrained(tmp_path)
    loaded = load_small(str(tmp_path), torch.float32, CPU)
    assert (logits(loaded) - logits(model)).abs().max() < 1e-4
    with pytest.raises(ConfigError, match="domain: 'maths' is not accepted; no domain"):
        load_small(str(tmp_path), torch.float32, CPU, "maths")


def test_bad_files_are_refused(tmp_path: Path) -> None:
    model = drafter()
    base = random_sketch(model)
    folder = folder_of(tmp_path, model, base)
    with pytest.raises(ConfigError, match="domain: 'law' is not accepted; none"):
        read_sketch(folder, "law")
    with pytest.raises(ConfigError, match="letters, digits"):
        tables_file("../x")
    (folder / tables_file("law")).write_bytes(encoded(random_sketch(model, seed=1)))
    with pytest.raises(ArtifactError, match="tables of another sketch"):
        read_sketch(folder, "law")
    whole = (folder / FILE).read_bytes()
    for broken in (whole[: len(whole) // 2], b"", b"x" * 100):
        (folder / FILE).write_bytes(broken)
        with pytest.raises(ArtifactError, match="not a readable sketch"):
            read_sketch(folder)
    rest = rest_of(model, base)
    rest.pop("model.norm.weight")
    (folder / FILE).write_bytes(encoded(base, rest))
    with pytest.raises(ArtifactError, match="model.norm.weight is missing"):
        load_sketched(folder)
    tiny.make(tf.LlamaConfig(**{**tiny._GQA, "hidden_size": 64})).config.save_pretrained(folder)
    with pytest.raises(ArtifactError, match="do not fit"):
        load_sketched(folder)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_swapping_tables_mid_stream_keeps_the_text(temperature: float, tmp_path: Path) -> None:
    """Drafts depend on the tables; what is written does not."""
    target = tiny.fresh_target("llama")
    model = copy.deepcopy(tiny.model("llama"))  # at first as good as the target
    base = random_sketch(model)
    folder = folder_of(tmp_path, model, base)
    (folder / tables_file("b")).write_bytes(encoded(other_tables(base)))
    small = small_model(folder, tiny.context(), "lm")
    b = small_model(folder, tiny.context(), "lm", domain="b")
    assert small is small_model(folder, tiny.context(), "lm")
    assert small is not b
    sampling = tiny.Sampling(temperature=temperature, seed=3)
    seen: list[int] = []

    def swap(_, tokens) -> None:
        seen.extend(tokens)
        turn = (len(seen) // 6) % 2
        with small.lock:
            put(small.target.model, read_sketch(folder, "b" if turn else ""))

    engine = Engine(target, method="lm", options={"model": small.target}, verifier="walk")
    prompt = tiny.prompt(1, 12)
    plain = Engine(target, method="plain").run([tiny.request(prompt, 24, sampling)])[0]
    asked = tiny.request(prompt, 24, sampling)
    asked = type(asked)(**{**asked.__dict__, "on_tokens": swap})
    out = engine.run([asked])[0]
    assert out.tokens == plain.tokens == seen
