from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from tunewright.errors import SettingsError
from tunewright.models.chosen_tokens import next_token_logits
from tunewright.models.files.architecture import CAUSAL_LM
from tunewright.models.files.loading import load_library_model
from tunewright.models.generating.generation import Generation
from tunewright.models.generating.writing import check_generation, cut_at_stop, write
from tunewright.models.heads import choose_route
from tunewright.models.layers.attention import PACKED
from tunewright.models.text.tokenizers import load_tokenizer

PROMPTS = [[40, 41, 42, 43, 44, 45, 46], [90, 91, 92], [60], [70, 71, 72, 73, 74]]
ROWS = [3, 8, 1, 0]
LIMIT = 128


@pytest.fixture(params=["llama", "gpt2"])
def folder(request, tiny_folder):
    return tiny_folder(request.param)


@pytest.fixture
def tokenizer(folder):
    return load_tokenizer(folder)


@pytest.fixture
def model(folder):
    model = load_library_model(folder, CAUSAL_LM, pad_token_id=0).model
    model.generation_config.eos_token_id = [0]
    choose_route(model, next_token_logits)
    return model


def written(model, tokenizer, settings, prompts=PROMPTS, rows=ROWS, limit=LIMIT):
    return write(model, prompts, rows, settings, tokenizer, limit)


def stock(model, prompt, **settings):
    """What the library's own generate writes after one prompt."""
    model.set_attn_implementation("sdpa")
    with torch.no_grad():
        found = model.generate(
            input_ids=torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            pad_token_id=0,
            eos_token_id=[0],
            **settings,
        )
    model.set_attn_implementation(PACKED)
    return [[t for t in row[len(prompt) :].tolist() if t != 0] for row in found]


def test_greedy_texts_are_the_library_s_own(model, tokenizer):
    found = written(model, tokenizer, Generation(max_new_tokens=9))
    for prompt, (text,) in zip(PROMPTS, found, strict=True):
        (expected,) = stock(model, prompt, max_new_tokens=9, do_sample=False)
        assert list(text.ids) == expected
        assert text.stopped == (len(expected) < 9)


def test_beams_are_the_library_s_own(model, tokenizer):
    settings = Generation(max_new_tokens=7, num_beams=3, num_return_sequences=2, length_penalty=0.5)
    found = written(model, tokenizer, settings)
    for prompt, texts in zip(PROMPTS, found, strict=True):
        expected = stock(
            model,
            prompt,
            max_new_tokens=7,
            num_beams=3,
            num_return_sequences=2,
            length_penalty=0.5,
            do_sample=False,
        )
        assert [list(text.ids) for text in texts] == expected


def test_no_run_of_tokens_is_written_twice(model, tokenizer):
    settings = Generation(max_new_tokens=40, no_repeat_ngram_size=2)
    for prompt, (text,) in zip(PROMPTS, written(model, tokenizer, settings), strict=True):
        whole = [*prompt, *text.ids]
        pairs = list(pairwise(whole))
        assert len(set(pairs)) == len(pairs)


@pytest.mark.parametrize(
    "settings",
    [
        Generation(max_new_tokens=6),
        Generation(max_new_tokens=6, num_beams=2),
        Generation(max_new_tokens=6, do_sample=True, temperature=2.0, top_k=0, seed=5),
        Generation(max_new_tokens=6, do_sample=True, num_return_sequences=3, top_p=0.9),
    ],
    ids=["greedy", "beams", "sampled", "several"],
)
def test_a_row_s_text_does_not_depend_on_its_neighbours(model, tokenizer, settings):
    together = written(model, tokenizer, settings)
    for place, prompt in enumerate(PROMPTS):
        (alone,) = written(model, tokenizer, settings, [prompt], [ROWS[place]])
        assert [text.ids for text in alone] == [text.ids for text in together[place]]
        for ours, theirs in zip(alone, together[place], strict=True):
            assert ours.score == pytest.approx(theirs.score, abs=1e-5)


def test_a_score_is_the_mean_probability_of_the_tokens(model, tokenizer):
    for settings in (Generation(max_new_tokens=5), Generation(max_new_tokens=5, num_beams=3)):
        ((text, *_),) = written(model, tokenizer, settings, PROMPTS[:1], ROWS[:1])
        whole = [*PROMPTS[0], *text.ids, *([0] if text.stopped else [])]
        model.set_attn_implementation("sdpa")
        with torch.no_grad():
            logs = model(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
        model.set_attn_implementation(PACKED)
        start = len(PROMPTS[0])
        each = [float(logs[i - 1, whole[i]]) for i in range(start, len(whole))]
        assert text.score == pytest.approx(math.exp(sum(each) / len(each)), rel=1e-4)


def test_seeds_give_other_texts_and_each_its_own_again(model, tokenizer):
    def texts(seed):
        settings = Generation(max_new_tokens=12, do_sample=True, seed=seed)
        return [text.ids for (text,) in written(model, tokenizer, settings)]

    assert texts(1) == texts(1)
    assert texts(1) != texts(2)


def test_a_token_is_drawn_as_often_as_its_probability_says(model, tokenizer):
    settings = Generation(max_new_tokens=1, do_sample=True, top_k=3, temperature=2.0)
    rows = list(range(400))
    found = written(model, tokenizer, settings, [PROMPTS[0]] * 400, rows)
    model.set_attn_implementation("sdpa")
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([PROMPTS[0]])).logits[0, -1]
    values, ids = logits.topk(3)
    expected = (values / 2.0).softmax(-1).tolist()
    drawn = [(*text.ids, 0)[0] for (text,) in found]  # the end token is 0
    assert set(drawn) <= set(ids.tolist())
    for token, probability in zip(ids.tolist(), expected, strict=True):
        deviation = math.sqrt(probability * (1 - probability) / 400)
        assert abs(drawn.count(token) / 400 - probability) < 5 * deviation


def test_a_text_never_goes_past_what_the_model_reads(model, tokenizer):
    settings = Generation(max_new_tokens=50)
    found = written(model, tokenizer, settings, limit=12)
    for prompt, (text,) in zip(PROMPTS, found, strict=True):
        assert len(prompt) + len(text.ids) + text.stopped <= 12


def test_a_text_ends_at_a_stop_sequence(model, tokenizer):
    ((whole,),) = written(model, tokenizer, Generation(max_new_tokens=20), PROMPTS[:1], [0])
    text = tokenizer.decode(whole.ids)
    mark = text[len(text) // 2 : len(text) // 2 + 2]
    settings = Generation(max_new_tokens=20, stop=mark)
    ((ended,),) = written(model, tokenizer, settings, PROMPTS[:1], [0])
    assert len(ended.ids) < len(whole.ids)
    cut, found = cut_at_stop(tokenizer.decode(ended.ids), settings.stop)
    assert found
    assert cut == text[: text.find(mark)]


def test_writing_leaves_the_model_as_it_was(model, tokenizer):
    before = dict(model.generation_config.to_dict())
    written(model, tokenizer, Generation(max_new_tokens=2, num_beams=2))
    assert model.config._attn_implementation == PACKED
    assert model.generation_config.to_dict() == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"do_sample": True, "num_beams": 2},
            "generation.do_sample: sampling is asked for, and 2 beams. One of the two is needed. "
            "Use num_beams=1 to sample.",
        ),
        (
            {"num_return_sequences": 3},
            "generation.num_return_sequences: it is 3, and num_beams is 1. There are as many "
            "texts as beams, unless they are sampled. Use num_beams=3, or do_sample=true.",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, message):
    with pytest.raises(SettingsError) as caught:
        check_generation(Generation(**settings))
    assert str(caught.value) == message
