"""Every task with every adapter: it learns, it is saved with its head, and it answers the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from tests.tasks.examples import ARCHITECTURES, EXAMPLES, SETTINGS, rows_of
from tests.training.loops import CPU
from tunewright.errors import SettingsError
from tunewright.models.adapting.adapter_config import ADAPTERS, PROMPTS, AdapterConfig
from tunewright.models.adapting.adapters import adapters_of, is_adapter
from tunewright.models.adapting.bases import Base
from tunewright.models.adapting.sharing import attach_to_all
from tunewright.models.batch import pack
from tunewright.models.files.folder import check_model_folder, save_model
from tunewright.models.generating.generation import Generation
from tunewright.models.generating.writing import write
from tunewright.models.layers.dropout import replace_dropout
from tunewright.models.text.tokenizers import load_tokenizer
from tunewright.run.judging.parity import compare_with_stock, task_outputs
from tunewright.tasks import TASKS, find_task
from tunewright.training.budget import keep_budget
from tunewright.training.loop import Loop
from tunewright.training.optimizer import build_optimizer
from tunewright.training.schedule import Schedule

# peft has no prompts for these kinds of models.
WITHOUT_PROMPTS = (
    "image-captioning",
    "multiple-choice",
    "masked-language-modelling",
    "summarization",
    "translation",
)
PAIRS = [
    (task, name)
    for task in sorted(TASKS)
    for name in ADAPTERS
    if not (task in WITHOUT_PROMPTS and name in PROMPTS)
]


def test_every_task_meets_every_adapter_that_it_can_have():
    assert len(PAIRS) >= 10 * 8 - 2 * 3


HEADED = {
    "masked-language-modelling": AutoModelForMaskedLM,
    "text-generation": AutoModelForCausalLM,
}


@pytest.fixture(scope="session")
def headed_folder(tiny_folder, tmp_path_factory):
    """Returns a function (task) -> tiny model with a head as large as its vocabulary.

    A new one is not learned beside an adapter.
    """
    made: dict[str, Path] = {}

    def build(task):
        if task not in made:
            source = tiny_folder(ARCHITECTURES.get(task, "bert"))
            folder = made[task] = tmp_path_factory.mktemp("headed") / task
            folder.mkdir()
            for name in ("tokenizer.json", "tokenizer_config.json"):
                (folder / name).write_bytes((source / name).read_bytes())
            torch.manual_seed(0)
            HEADED[task].from_pretrained(source).save_pretrained(folder)
        return made[task]

    return build


@pytest.fixture
def source(tiny_folder, headed_folder):
    """Returns a function (name of a task) -> folder of the model that it starts from."""

    def choose(task):
        if task in HEADED:
            return headed_folder(task)
        return tiny_folder(ARCHITECTURES.get(task, "bert"))

    return choose


def adapted(name, adapter, folder):
    """The task, its tokenizer, and its model with the adapter, on its route."""
    task = find_task(name)(**SETTINGS.get(name, {})).within(64).learn(rows_of(EXAMPLES[name]))
    tokenizer = load_tokenizer(folder)
    model, _ = task.build(folder, tokenizer, dropout=0.0, seed=0)
    parts = [(own.kind, part) for own, part in task.models(model).values()]
    config = AdapterConfig(name=adapter, num_virtual_tokens=4)
    attach_to_all(parts, config, 0, Base.of(str(folder), folder))
    task.route(model)
    return task, tokenizer, model


def trained(task, tokenizer, model, rows, epochs=12):
    """Trains the adapter on eight rows; returns the losses, those of an epoch added up."""
    encoded = task.units([task.encode(row, tokenizer) for row in rows])
    size = task.update_size(len(encoded), len(encoded))
    updates = -(-len(encoded) // size)  # one, or one for each part
    optimizer = build_optimizer(model, learning_rate=0.02)
    keep_budget(model, optimizer, epochs * updates)
    schedule, dropout = Schedule("constant", epochs * updates, 0), replace_dropout(model)
    loop = Loop(model, task, encoded, optimizer, schedule, CPU, size, 4096, 0, 1.0,
                dropout=dropout)  # fmt: skip
    losses = [event.loss for event in loop.run()]
    return [sum(losses[start : start + updates]) for start in range(0, len(losses), updates)]


@pytest.mark.parametrize(("name", "adapter"), PAIRS)
def test_it_learns_and_its_folder_answers_as_it_does(name, adapter, source, tmp_path):
    rows, base = rows_of(EXAMPLES[name]), source(name)
    task, tokenizer, model = adapted(name, adapter, base)
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    losses = trained(task, tokenizer, model, rows)
    assert min(losses[-3:]) < losses[0]
    assert all(torch.equal(p, frozen[n]) for n, p in model.named_parameters() if n in frozen)

    task, folder = task.settle(model), tmp_path / "model"
    parts = {place: part for place, (_, part) in task.models(model).items()}
    files = {
        f"{place}/{file}".lstrip("/"): content
        for place, (own, part) in task.models(model).items()
        for file, content in own.extra_files(part).items()
    }
    save_model(parts.pop(""), tokenizer, folder, parts=parts, extra_files=files)
    check_model_folder(folder, task.kind)
    probe = [item for row in rows for item in task.encode(row, tokenizer)]
    parity = compare_with_stock(task, model, folder, probe)
    parity.check(str(folder))
    assert parity.against == ("its folder, read again" if adapter == "bottleneck" else "stock peft")

    again, _ = task.build(folder, load_tokenizer(folder), dropout=None, seed=1)
    assert task.route(again) == task.route(model)
    ours, theirs = (task_outputs(task, each, probe) for each in (model, again))
    assert ours.keys() == theirs.keys()
    for key, values in ours.items():
        torch.testing.assert_close(
            torch.tensor(theirs[key]), torch.tensor(values), atol=1e-5, rtol=1e-5, msg=key
        )


@pytest.mark.parametrize("name", WITHOUT_PROMPTS)
@pytest.mark.parametrize("adapter", sorted(PROMPTS))
def test_prompts_that_peft_has_not_are_refused(name, adapter, source):
    with pytest.raises(SettingsError, match=f"adapter {adapter}: peft has none for a [cms]"):
        adapted(name, adapter, source(name))


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "roberta", "xlnet"])
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_answers_do_not_depend_on_the_batch(architecture, adapter, tiny_folder):
    if (architecture, adapter) == ("xlnet", "prefix"):
        pytest.skip("its attention takes no keys from outside")
    task, tokenizer, model = adapted("text-classification", adapter, tiny_folder(architecture))
    model.eval()
    with torch.no_grad():
        for parameter in adapters_of(model).parameters:
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        items = [i for row in rows_of(EXAMPLES[task.name]) for i in task.encode(row, tokenizer)]
        together = task.forward(model, pack(items))["logits"]
        alone = torch.cat([task.forward(model, pack([item]))["logits"] for item in items])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    assert any(is_adapter(n) for n, _ in model.named_parameters())


@pytest.mark.filterwarnings("ignore:Position ids are not supported")  # peft's
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_what_is_written_does_not_depend_on_the_batch_and_is_what_stock_writes(
    adapter, source, tmp_path
):
    task, tokenizer, model = adapted("text-generation", adapter, source("text-generation"))
    model.eval()
    for parameter in adapters_of(model).parameters:
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(0))
    prompts = [[40, 41, 42], [50, 51, 52, 53, 54, 55, 56, 57], [60]]
    settings = Generation(max_new_tokens=12)
    together = write(model, prompts, [0, 1, 2], settings, tokenizer, 100)
    alone = [write(model, [each], [0], settings, tokenizer, 100)[0] for each in prompts]
    assert [each[0].ids for each in together] == [each[0].ids for each in alone]
    if adapter == "bottleneck":
        return
    save_model(model, tokenizer, tmp_path / "model")
    stock = task.stock(tmp_path / "model")
    for prompt, (writing,) in zip(prompts, together, strict=True):
        found = stock.generate(
            input_ids=torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=12,
            do_sample=False,
        )[0].tolist()
        written = found[len(prompt) :] if found[: len(prompt)] == prompt else found
        ends = {tokenizer.eos_token_id, tokenizer.pad_token_id}
        assert [token for token in written if token not in ends] == list(writing.ids)
