"""Which route decoders of other families take for writing, and that it gives the library's loss."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.tasks.examples import rows_of
from tests.tasks.test_text_generation import ROWS, learned, predictor
from tests.tiny import DECODER, save_tokenizer
from tunewright.models.batch import pack
from tunewright.models.generating.writing import stock_attention

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "eos_token_id": 0,
    "bos_token_id": 0,
    "pad_token_id": 0,
}
WINDOW = {"sliding_window": 8}
EXPERTS = {"num_local_experts": 2}
# What keeps a family off the packed route: scores that are changed after the head (granite, cohere,
# gemma2), or code of its own for attention (bloom, gptj).
ROUTES = {
    "bloom": ({"n_layer": 2, "n_head": 2}, "padded"),
    "cohere": ({}, "padded"),
    "gemma": ({}, "packed"),
    "gemma2": (WINDOW, "padded"),
    "gptj": ({"n_embd": 32, "n_layer": 2, "n_head": 2, "rotary_dim": 8}, "padded"),
    "granite": ({"logits_scaling": 2.0}, "padded"),
    "mistral": (WINDOW, "packed"),
    "mixtral": (EXPERTS, "packed"),
    "olmo2": ({}, "packed"),
    "opt": ({"ffn_dim": 48, "word_embed_proj_dim": 32}, "packed"),
    "phi3": ({}, "packed"),
}


@pytest.fixture(params=sorted(ROUTES))
def family(request, tmp_path):
    """A folder with a tiny random decoder, and the route that it is to take."""
    settings, route = ROUTES[request.param]
    size = save_tokenizer(DECODER, tmp_path)
    config = AutoConfig.for_model(request.param, **{**SIZES, "vocab_size": size, **settings})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    return tmp_path, route


def test_a_decoder_takes_its_route_with_the_library_s_loss(family):
    folder, route = family
    ours = predictor(folder, learned(ROWS))
    model, task = ours.model, ours.task
    assert task.route(model).split(":")[0] == route
    rows = rows_of(ROWS)
    batch = pack([item for row in rows for item in task.encode(row, ours.tokenizer)])
    with torch.no_grad():
        loss = float(task.loss(task.forward(model, batch), batch).sum)
        expected = 0.0
        with stock_attention(model):
            stream = batch.streams["text"]
            for start, end in pairwise(stream.boundaries):
                ids, marks = (x[start:end] for x in (stream.token_ids_N, stream.type_ids_N))
                logs = model(input_ids=ids[None]).logits[0, :-1].float().log_softmax(-1)
                each = -logs[np.arange(len(logs)), ids[1:]]
                expected += float(each[marks[1:] > 0].sum())
    assert loss == pytest.approx(expected, rel=1e-5)


def test_its_answers_do_not_depend_on_their_neighbours(family):
    ours = predictor(family[0], learned(ROWS))
    rows = rows_of(ROWS)
    together = [answer.text for answer in ours.answers(rows)]
    assert together == [next(ours.answers([row])).text for row in rows]
