"""The table of tasks. Reading it does not import torch.

A task of your own joins through the entry point group `tunewright.tasks`, whose value is the
task's class.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from tunewright.errors import SettingsError, listed, nearest
from tunewright.types import Role

if TYPE_CHECKING:
    from tunewright.tasks.base import Task

ENTRY_POINTS = "tunewright.tasks"

TEXT = Role(
    "text",
    "the text to classify",
    ("sentence", "content", "review", "text_a", "sentence1", "premise"),
)
TEXT_PAIR = Role(
    "text_pair",
    "a second text, read together with the first",
    ("text_b", "sentence2", "hypothesis"),
    required=False,
    beside=True,
)
LABEL = Role(
    "label",
    "the class of the text",
    ("labels", "target", "class", "category"),
    only_training=True,
)

LABELS = Role(
    "labels",
    "the labels of the text: a list, or names joined by a separator",
    ("label", "categories", "topics"),
    required=False,
    only_training=True,
)

SCORE = Role(
    "score",
    "the number to predict",
    ("label", "similarity", "rating", "target", "value"),
    only_training=True,
)

TOKENS = Role("tokens", "the words of the text, a list", ("words",), required=False)
TAGS = Role(
    "tags",
    "the tag of each word, a list",
    ("ner_tags", "pos_tags", "labels"),
    required=False,
    only_training=True,
    labels=True,
    may_hold_none=True,
)
PLAIN_TEXT = Role(
    "text", "the text, where it does not come as words", ("sentence", "content"), required=False
)
ENTITIES = Role(
    "entities",
    "the marked stretches of the text, in characters",
    ("spans", "label", "labels"),
    required=False,
    only_training=True,
    labels=True,
    may_hold_none=True,
)

PASSAGE = Role(
    "text", "the text to learn from", ("content", "document", "passage", "sentence", "review")
)

QUESTION = Role("question", "what is asked", ("query",))
CONTEXT = Role("context", "the text that holds the answer", ("passage", "paragraph", "document"))
ANSWERS = Role(
    "answers",
    "the true answers, each with its text and where it starts",
    ("answer",),
    required=False,
    only_training=True,
    labels=True,
    may_hold_none=True,
)

CHOICE_ROLES = (
    Role(
        "context",
        "a text to answer from",
        ("passage", "paragraph", "document", "article", "sent1"),
        required=False,
    ),
    Role(
        "question",
        "what is asked, or a beginning to go on from",
        ("query", "stem", "prompt", "goal", "sent2"),
    ),
    Role("choices", "what to choose from, a list of texts", ("options", "endings"), required=False),
    Role(
        "label",
        "the right choice: its place, its letter or its text",
        ("answer", "answerKey", "correct", "gold", "target"),
        only_training=True,
    ),
)

ANCHOR = Role(
    "anchor",
    "a text, or the question of a search",
    ("query", "question", "text", "text_a", "sentence1", "sentence", "premise"),
)
POSITIVE = Role(
    "positive",
    "a text that means the same or answers it, or a list of them",
    ("pos", "answer", "text_b", "sentence2", "passage", "document", "text_pair", "hypothesis"),
    required=False,
)
NEGATIVES = (
    Role("negative", "a text that does not, or a list", ("neg", "negatives", "negative_1"), False),
    *(Role(f"negative_{n}", "one more of those", required=False) for n in range(2, 6)),
)
EMBEDDING_ROLES = (
    ANCHOR,
    POSITIVE,
    *NEGATIVES,
    replace(SCORE, help="how alike the two texts are", required=False),
    Role("prompt_name", 'which prompt a text alone gets: "query" or "document"', required=False),
)

RERANKING_ROLES = (
    Role("query", "what is looked for", ("question", "anchor", "text_a", "sentence1")),
    Role(
        "text",
        "a text that may answer it, or a list of them",
        ("passage", "document", "texts", "passages", "documents", "text_b", "sentence2"),
        required=False,
    ),
    Role(
        "label",
        "how relevant the text is: 0 or 1, or a grade",
        ("relevance", "score", "target"),
        required=False,
        only_training=True,
    ),
    Role("positive", "a relevant text, or a list of them", ("pos", "positives"), False),
    *NEGATIVES,
)

TRANSLATION_ROLES = (
    Role(
        "source",
        "the text to translate",
        ("src", "input", "text", "sentence", "source_text", "column_1"),
        required=False,
    ),
    Role(
        "target",
        "its translation, or a list of them",
        ("tgt", "output", "label", "reference", "references", "target_text", "column_2"),
        required=False,
        only_training=True,
        labels=True,
    ),
    Role(
        "translation",
        "both in one column: an object with a text for each language",
        ("translations",),
        required=False,
        labels=True,
    ),
)


CHAT_ROLES = (
    Role(
        "messages",
        "the turns of a conversation: a list of role and content",
        ("conversations", "conversation", "dialogue", "chat"),
        required=False,
    ),
    Role("prompt", "what is asked or told", ("instruction", "question", "query"), required=False),
    Role("input", "what the prompt is about", ("context",), required=False),
    Role(
        "completion",
        "the answer to learn",
        ("output", "response", "answer", "target"),
        required=False,
        only_training=True,
    ),
    Role("system", "what the model is told before the conversation", ("system_prompt",), False),
    Role("text", "plain text to learn from, without a conversation", ("content",), required=False),
)

SUMMARIZATION_ROLES = (
    Role("document", "the text to summarize", ("article", "text", "dialogue", "source", "content")),
    Role(
        "summary",
        "its summary, or a list of them",
        ("highlights", "summaries", "abstract", "title", "headline", "target"),
        only_training=True,
    ),
)

CAPTION_ROLES = (
    Role(
        "image",
        "the picture: a path, or its bytes",
        ("file_name", "image_path", "path", "filename", "file", "picture", "photo", "img"),
    ),
    Role(
        "caption",
        "what the picture shows, or a list of such texts",
        ("captions", "text", "description", "title", "label", "target"),
        only_training=True,
    ),
)


@dataclass(frozen=True)
class TaskEntry:
    """A line of the table: what a task is for, what it reads, and where its class is."""

    name: str
    summary: str
    roles: tuple[Role, ...]
    target: str

    def load(self) -> type[Task]:
        """Imports the task's module and returns its class."""
        module, _, name = self.target.partition(":")
        return getattr(import_module(module), name)


TASKS: dict[str, TaskEntry] = {
    "text-classification": TaskEntry(
        "text-classification",
        "one label for a text or a pair of texts",
        (TEXT, TEXT_PAIR, LABEL),
        "tunewright.tasks.text_classification:TextClassification",
    ),
    "multi-label-classification": TaskEntry(
        "multi-label-classification",
        "any number of labels for a text or a pair of texts",
        (TEXT, TEXT_PAIR, LABELS),
        "tunewright.tasks.multi_label_classification:MultiLabelClassification",
    ),
    "token-classification": TaskEntry(
        "token-classification",
        "a tag for each word: names, terms, parts of speech",
        (TOKENS, TAGS, PLAIN_TEXT, ENTITIES),
        "tunewright.tasks.token_classification:TokenClassification",
    ),
    "question-answering": TaskEntry(
        "question-answering",
        "the stretch of a text that answers a question",
        (QUESTION, CONTEXT, ANSWERS),
        "tunewright.tasks.question_answering:QuestionAnswering",
    ),
    "multiple-choice": TaskEntry(
        "multiple-choice",
        "the right one of several answers to a question",
        CHOICE_ROLES,
        "tunewright.tasks.multiple_choice:MultipleChoice",
    ),
    "regression": TaskEntry(
        "regression",
        "one number for a text or a pair of texts, such as their similarity",
        (TEXT, TEXT_PAIR, SCORE),
        "tunewright.tasks.regression:Regression",
    ),
    "masked-language-modelling": TaskEntry(
        "masked-language-modelling",
        "words that are hidden in plain text: pretraining",
        (PASSAGE,),
        "tunewright.tasks.masked_language_modelling:MaskedLanguageModelling",
    ),
    "text-generation": TaskEntry(
        "text-generation",
        "answers in a conversation, or plain text that goes on: chat models, instructions",
        CHAT_ROLES,
        "tunewright.tasks.text_generation:TextGeneration",
    ),
    "sentence-embedding": TaskEntry(
        "sentence-embedding",
        "a vector for a text: search, similarity, grouping",
        EMBEDDING_ROLES,
        "tunewright.tasks.sentence_embedding:SentenceEmbedding",
    ),
    "reranking": TaskEntry(
        "reranking",
        "how well each text answers a query, and their order",
        RERANKING_ROLES,
        "tunewright.tasks.reranking:Reranking",
    ),
    "translation": TaskEntry(
        "translation",
        "a text in another language",
        TRANSLATION_ROLES,
        "tunewright.tasks.translation:Translation",
    ),
    "summarization": TaskEntry(
        "summarization",
        "a short text for a long one",
        SUMMARIZATION_ROLES,
        "tunewright.tasks.summarization:Summarization",
    ),
    "image-captioning": TaskEntry(
        "image-captioning",
        "a sentence for a picture",
        CAPTION_ROLES,
        "tunewright.tasks.image_captioning:ImageCaptioning",
    ),
}

PART = Role("task", "the name of the part that the row belongs to", ("dataset",))
_OF_PARTS = {
    role.name: role
    for entry in TASKS.values()
    for role in entry.roles
    # decoders that write, and pictures, share no backbone with the others
    if entry.roles not in (CHAT_ROLES, CAPTION_ROLES)
}
MULTI_TASK_ROLES = (
    PART,
    *(  # a column that has the name of one part's role is no other's
        replace(
            role,
            required=False,
            labels=False,
            beside=False,
            accepted=tuple(name for name in role.accepted if name not in _OF_PARTS),
        )
        for role in _OF_PARTS.values()
    ),
)
TASKS["multi-task"] = TaskEntry(
    "multi-task",
    "several of these tasks over one backbone",
    MULTI_TASK_ROLES,
    "tunewright.tasks.multi_task:MultiTask",
)


def find_task(name: str) -> type[Task]:
    """Returns the class of a task by name: from the table, or from an installed entry point.

    Raises SettingsError that names the nearest task.
    """
    if name in TASKS:
        return TASKS[name].load()
    foreign = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if name in foreign:
        return foreign[name].load()
    known = [*TASKS, *foreign]
    hint = nearest(name, known)
    remedy = f'Did you mean "{hint}"?' if hint else ""
    raise SettingsError("task", f'there is no task "{name}"', f"There is {listed(known)}.", remedy)
