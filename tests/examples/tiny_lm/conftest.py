"""A model for the tests, made once a file."""

import pytest

from examples.tiny_lm.llama import CONTEXT, build_model, save_model
from examples.tiny_lm.text import build_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model with random weights: fast, and no test depends on what the bundled one knows."""
    path = tmp_path_factory.mktemp("model")
    tokenizer = build_tokenizer(CONTEXT)
    save_model(build_model(tokenizer, "1M", seed=0), tokenizer, path)
    return path
