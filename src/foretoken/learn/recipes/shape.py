"""The shape of a new drafter."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from foretoken.errors import ConfigError


class DrafterShape(BaseModel):
    """A small Llama; its vocabulary is the target's, padded ids included."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layers: int = Field(2, ge=1, description="transformer layers")
    hidden: int = Field(128, ge=4, description="width of the model")
    heads: int = Field(4, ge=1, description="attention heads; must divide hidden")
    kv_heads: int = Field(2, ge=1, description="key-value heads; must divide heads")
    ffn: int = Field(384, ge=1, description="width of the SwiGLU layers")
    tie: bool = Field(True, description="one matrix for embedding and output layer")

    def check(self) -> None:
        """Raises ConfigError that names the field."""
        if self.hidden % (2 * self.heads):
            raise ConfigError("heads", self.heads, "hidden / heads must be even")
        if self.heads % self.kv_heads:
            raise ConfigError("kv_heads", self.kv_heads, "a divisor of heads")
