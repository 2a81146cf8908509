"""A stand-in for a peer: it writes what it was told to, or fails as it was told to."""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, os.environ["ECHO_PROTOCOL"])
from protocol import Engine, Texts, ended, serve


class Echo(Engine):
    def __init__(self, asked):
        if asked.mode == "broken":
            raise ImportError("libecho.so: cannot open\nshared object file")
        self.mode, self.versions, self.notes = asked.mode, {"echo": "1.0"}, [asked.dtype]
        self.written = 0
        self.texts = json.loads(Path(asked.target).read_text())
        print("loading ... done")  # engines talk: it must not reach the pipe

    def generate(self, prompts, limits, sampling):
        if self.mode == "dies":
            print("Fatal: out of memory", file=sys.stderr)
            os._exit(3)
        out = Texts([])
        for prompt, limit in zip(prompts, limits, strict=True):
            text = list(self.texts.get(json.dumps(list(prompt)), [0]))  # a warm-up is no prompt
            self.written += 1
            if self.mode == "wrong":
                text[-1] += 1
            out.tokens.append(ended(text, sampling.eos, limit))
            out.first.append(0.001 * (self.written if self.mode == "keeps" else 1))
        return out


serve(Echo)
