"""Options of the language-model trainer: shape of the model, schedule, data."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from foretoken.errors import ConfigError

# A resumed run may change these: none of them alters the steps that were already made.
FREE_TO_CHANGE = frozenset({"steps", "decay", "checkpoint_every", "eval_every", "compile"})


class LmConfig(BaseModel):
    """Options of `foretoken train lm`: the model, the schedule and the data."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    vocab: int = Field(4096, ge=258, le=65536, description="tokens in the vocabulary")
    hidden: int = Field(256, ge=8, description="width of the model")
    layers: int = Field(4, ge=1, description="transformer layers")
    heads: int = Field(4, ge=1, description="attention heads; must divide hidden")
    kv_heads: int = Field(2, ge=1, description="key-value heads; must divide heads")
    ffn: int = Field(704, ge=1, description="width of the SwiGLU layers")
    positions: int = Field(1024, ge=8, description="longest context of the model, tokens")
    steps: int = Field(4500, ge=1, description="optimiser steps in all, decay included")
    warmup: int = Field(100, ge=0, description="steps of rising learning rate")
    decay: float = Field(0.25, gt=0, le=1, description="fraction of steps of falling rate")
    batch: int = Field(2048, ge=1, description="tokens per step; a multiple of micro * seq")
    micro: int = Field(2, ge=1, description="rows per forward pass (gradients are summed)")
    seq: int = Field(512, ge=8, description="tokens per row")
    double_every: int = Field(4, ge=0, description="each n-th step has rows twice as long; 0: none")
    lr: float = Field(4e-3, gt=0, description="peak learning rate")
    weight_decay: float = Field(0.1, ge=0, description="decoupled decay of the matrices")
    clip: float = Field(1.0, gt=0, description="largest gradient norm")
    seed: int = Field(0, ge=0, description="seed of weights and data order")
    qa_repeats: int = Field(2, ge=1, description="times a question is seen per epoch")
    held_out: float = Field(0.01, ge=0, lt=1, description="fraction of documents never trained on")
    held_out_rows: int = Field(64, ge=1, description="most rows evaluated per kind of document")
    eval_every: int = Field(250, ge=1, description="steps between evaluations")
    checkpoint_every: int = Field(50, ge=1, description="steps between checkpoints")
    compile: bool = Field(True, description="compile the loss with torch.compile")

    @classmethod
    def checked(cls, **values: object) -> "LmConfig":
        """Build a config; raises ConfigError that names the first field that is wrong."""
        try:
            config = cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            raise ConfigError(name, first["input"], first["msg"]) from error
        long = config.seq * (2 if config.double_every else 1)
        even = config.double_every == 0 or config.micro % 2 == 0
        rules = (
            ("heads", config.hidden % (2 * config.heads) == 0, "hidden / heads must be even"),
            ("kv_heads", config.heads % config.kv_heads == 0, "a divisor of heads"),
            ("seq", long <= config.positions, "rows must fit into positions"),
            ("batch", config.batch % (config.micro * config.seq) == 0, "a multiple of micro * seq"),
            ("micro", even, "an even number, or double_every 0"),
        )
        for name, holds, accepted in rules:
            if not holds:
                raise ConfigError(name, getattr(config, name), accepted)
        return config

    def fixed(self) -> dict[str, Any]:
        """Fields that a checkpoint and its continuation must share."""
        return self.model_dump(exclude=set(FREE_TO_CHANGE))
