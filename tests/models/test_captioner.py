"""Our captioner: packed as padded, written as the library writes, saved as the library saves."""

from __future__ import annotations

from itertools import accumulate

import pytest
import torch
from torch import nn
from transformers import AutoModelForImageTextToText

from tunewright.models.batch import PackedPictures, PackedStream, lengthened
from tunewright.models.generating.beams import search
from tunewright.models.generating.generation import Generation
from tunewright.models.transformer import POSITIONS, Captioner, CaptionerConfig, sinusoids
from tunewright.models.transformer.captioner import waves

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "image_size": 16,
    "patch_size": 4,
    "dropout": 0.0,
}


def model_of(**settings):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Captioner(CaptionerConfig(**SIZES | settings)).eval()


def pictures_of(number, side=16):
    return torch.randn(number, 3, side, side, generator=torch.Generator().manual_seed(0))


def captions_of(lengths):
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, 40, (length,), generator=generator) for length in lengths]


def stream_of(texts):
    lengths = [len(text) for text in texts]
    positions = torch.cat([torch.arange(length) for length in lengths])
    return PackedStream(torch.cat(texts), positions, tuple(accumulate(lengths, initial=0)))


def run_padded(model, pictures, texts):
    ids = nn.utils.rnn.pad_sequence(texts, batch_first=True)
    found = model(pixel_values=pictures, decoder_input_ids=ids).logits
    return torch.cat([row[: len(text)] for row, text in zip(found, texts, strict=True)])


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("lengths", [[5, 9, 3], [32, 32], [1]])
def test_packed_is_padded_forward_and_backward(positions, lengths):
    model = model_of(positions=positions)
    pictures, texts = pictures_of(len(lengths)), captions_of(lengths)
    packed = model.packed(PackedPictures(pictures, 16), stream_of(texts))
    expected = run_padded(model, pictures, texts)
    torch.testing.assert_close(packed, expected, atol=2e-5, rtol=1e-4)
    weights = torch.randn(packed.shape, generator=torch.Generator().manual_seed(5))
    gradients = []
    for logits in (packed, expected):
        model.zero_grad()
        (logits * weights).sum().backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters()})
    largest = max(float(gradient.abs().max()) for gradient in gradients[0].values())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(
            gradient, gradients[1][name], atol=1e-5 * largest, rtol=1e-4, msg=name
        )


def test_a_stream_is_lengthened_within_its_last_text():
    stream = lengthened(stream_of(captions_of([3, 2])))
    assert stream.boundaries == (0, 3, 64)
    assert stream.token_ids_N[5:].tolist() == [0] * 59
    whole = stream_of(captions_of([61, 3]))
    assert lengthened(whole).boundaries == whole.boundaries


def test_every_patch_reaches_the_caption_and_no_other_picture_does():
    model = model_of()
    pictures, texts = pictures_of(2), captions_of([4, 4])
    before = model.packed(PackedPictures(pictures, 16), stream_of(texts))
    for row, column in ((0, 0), (0, 12), (12, 0), (8, 4)):
        changed = pictures.clone()
        changed[1, :, row : row + 4, column : column + 4] += 1
        after = model.packed(PackedPictures(changed, 16), stream_of(texts))
        torch.testing.assert_close(after[:4], before[:4])
        assert (after[4:] - before[4:]).abs().max() > 1e-4


def test_where_a_patch_lies_matters():
    model = model_of()
    (picture,) = pictures_of(1)
    moved = picture.roll(4, 2)
    first, second = (model.encode(each[None]) for each in (picture, moved))
    assert (first - second).abs().max() > 1e-2


def test_waves_say_row_and_column():
    made = waves(2, 3, 8, torch.device("cpu"))
    each = sinusoids(3, 4, torch.device("cpu"))
    assert made.shape == (6, 8)
    assert torch.equal(made[4], torch.cat([each[1], each[1]]))  # row 1, column 1
    assert torch.equal(made[2], torch.cat([each[0], each[2]]))  # row 0, column 2


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("num_beams", [1, 3])
def test_our_search_writes_what_the_librarys_writes(positions, num_beams):
    model, pictures = model_of(positions=positions), pictures_of(5)
    settings = Generation(num_beams=num_beams, max_new_tokens=9)
    found = search(model, pictures, None, [1], settings, {2})
    stock = model.generate(pixel_values=pictures, num_beams=num_beams, max_new_tokens=9)
    for texts, row in zip(found, stock[:, 1:].tolist(), strict=True):
        written = list(texts[0].token_ids)
        assert row[: len(written)] == written


def test_rows_that_are_done_leave_the_batch_of_pictures():
    model, pictures = model_of(), pictures_of(6)
    settings = Generation(max_new_tokens=9)
    plain = search(model, pictures, None, [1], settings, set())
    ends = {plain[0][0].token_ids[0]}
    found = search(model, pictures, None, [1], settings, ends)
    for whole, cut in zip(plain, found, strict=True):
        tokens = cut[0].token_ids
        assert whole[0].token_ids[: len(tokens)] == tokens


def test_a_saved_folder_is_read_by_stock_transformers(tmp_path):
    model = model_of()
    model.save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    assert type(again) is Captioner
    pictures, texts = pictures_of(2), captions_of([5, 3])
    assert torch.equal(run_padded(again, pictures, texts), run_padded(model, pictures, texts))


def test_labels_give_the_mean_cross_entropy():
    model, pictures = model_of(), pictures_of(2)
    labels = torch.tensor([[7, 8, 2], [9, 2, -100]])
    found = model(pixel_values=pictures, labels=labels)
    logits = model(pixel_values=pictures, decoder_input_ids=torch.tensor([[1, 7, 8], [1, 9, 2]]))
    logs = logits.logits.log_softmax(-1)
    each = [logs[0, 0, 7], logs[0, 1, 8], logs[0, 2, 2], logs[1, 0, 9], logs[1, 1, 2]]
    torch.testing.assert_close(found.loss, -torch.stack(each).mean())


@pytest.mark.parametrize(
    "wrong",
    [
        {"patch_size": 6},
        {"patch_size": 1},
        {"patch_size": 32},
        {"image_size": 18},
        {"positions": "learned", "max_position_embeddings": 15},
        {"hidden_size": 4},
    ],
)
def test_sizes_that_make_no_model_are_refused(wrong):
    with pytest.raises(Exception, match=r"patch_size|hidden_size|max_position_embeddings"):
        CaptionerConfig(**SIZES | wrong)
