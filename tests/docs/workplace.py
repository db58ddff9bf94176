"""The folder in which the pages' commands and snippets run: small files and a small model.

`starter` and `smollm2` are packages that tests do not want to wait for: others of the same names,
with tiny random models, stand before them on the import path. The commands themselves run as they
are printed.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from PIL import Image

from tests.tiny import tiny_model
from tests.tiny_gguf import save_gguf, tiny_llama
from tunewright.models.files.folder import SMOLLM2_PACKAGE, STARTER_PACKAGE
from tunewright.models.files.sentence_folder import SentenceSettings

MAX_LENGTH = 512  # as the starter's, so that the lengths in the pages are allowed

GOOD = ("a fine film", "the best plot of all", "great acting and a good story", "I love this movie")
BAD = ("an awful film", "the worst plot of all", "poor acting and a bad story", "I hate this movie")
ENDINGS = ("", " indeed", " again", ", and very slow", ", and not new", " of the old team",
           ", like the book", " in the end", ", at a good price", " to me")  # fmt: skip


def make_files(folder: Path) -> None:
    """Writes every file that the pages name."""
    rows = list(_reviews())
    write_csv(folder / "reviews.csv", rows)
    write_csv(folder / "test.csv", [row | {"review": f"{row['review']}!"} for row in rows[::3]])
    write_csv(folder / "new.csv", [{"review": row["review"]} for row in rows[:6]])
    more = [{"review": f"{row['review']} {n}", "stars": "3"} for n, row in enumerate(rows[:12])]
    write_csv(folder / "more.csv", [*more, *({k: r[k] for k in more[0]} for r in rows[12:40])])
    pairs = [
        {"premise": row["review"], "hypothesis": other["review"], "label": label}
        for label, shift in (("same", 0), ("other", 1))
        for row, other in zip(rows, rows[shift:], strict=False)
    ]
    write_csv(folder / "pairs.csv", pairs[::3])
    (folder / "texts.txt").write_text("a fine film\nan awful film\n", encoding="utf-8")
    chinese = "评论,标签\n" + "".join(
        f"这部电影非常好 {n},好\n很差的酒店，不喜欢 {n},坏\n" for n in range(20)
    )
    (folder / "评论.csv").write_bytes(chinese.encode("gb18030"))
    lines = (json.dumps({"text": row["review"], "label": row["stars"]}) for row in rows)
    (folder / "reviews.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    swapped = [
        {"source": row["review"], "target": " ".join(reversed(row["review"].split()))}
        for row in rows
    ]
    write_lines(folder / "pairs.jsonl", swapped)
    faq = [{"query": row["source"], "positive": row["target"]} for row in swapped]
    write_lines(folder / "faq.jsonl", faq)
    long = [{"document": f"{row['review']}. it was so.", "summary": row["review"]} for row in rows]
    write_lines(folder / "long.jsonl", long)
    write_pictures(folder)
    write_lines(folder / "new_pairs.jsonl", [{"source": row["source"]} for row in swapped[:4]])
    asked = [{"question": "a slow plot"}, {"question": "great acting"}]
    write_lines(folder / "questions.jsonl", asked)
    (folder / "questions.txt").write_text("a fine film?\nan awful film?\n", encoding="utf-8")
    write_lines(folder / "chats.jsonl", [chat_of(row) for row in rows])
    write_judged(folder / "beir", [row["review"] for row in rows[:20]])
    for label in ("1", "5"):
        (folder / "articles" / label).mkdir(parents=True)
        for number, row in enumerate(row for row in rows if row["stars"] == label):
            text = folder / "articles" / label / f"{number:03}.txt"
            text.write_text(row["review"], encoding="utf-8")


def _reviews() -> Iterable[dict[str, str]]:
    for number, ending in enumerate(ENDINGS):
        for stars, texts in (("5", GOOD), ("1", BAD)):
            for place, text in enumerate(texts):
                yield {
                    "review": text + ending,
                    "stars": stars,
                    "product": ("film", "book")[place % 2],
                    "author": f"author {number}",
                    "date": f"2025-{number + 1:02}-{place + 1:02}",
                }


def write_csv(path: Path, rows: Iterable[Mapping[str, str]]) -> None:
    rows = list(rows)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_pictures(folder: Path) -> None:
    """Writes coloured squares, and tables of them with and without what they are."""
    (folder / "pictures").mkdir()
    rows = []
    for number in range(30):
        colour = ("red", "green", "blue")[number % 3]
        image = Image.new("RGB", (20, 20), "white")
        image.paste(colour, (number % 7, number % 5, number % 7 + 9, number % 5 + 9))
        image.save(folder / "pictures" / f"{number}.png")
        rows.append({"image": f"pictures/{number}.png", "caption": f"a {colour} square"})
    write_csv(folder / "captions.csv", rows)
    write_csv(folder / "new_pictures.csv", [{"image": row["image"]} for row in rows[:4]])


def chat_of(row: Mapping[str, str]) -> dict[str, list[dict[str, str]]]:
    answer = "Yes." if row["stars"] == "5" else "No."
    asked = {"role": "user", "content": f"Is this good: {row['review']}?"}
    return {"messages": [asked, {"role": "assistant", "content": answer}]}


def write_lines(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_judged(folder: Path, texts: list[str]) -> None:
    """Writes a corpus, queries and judgements in the form of BEIR."""
    (folder / "qrels").mkdir(parents=True)
    write_lines(folder / "corpus.jsonl", [{"_id": f"d{n}", "text": t} for n, t in enumerate(texts)])
    queries = [{"_id": f"q{n}", "text": t.split(",")[0]} for n, t in enumerate(texts[:5])]
    write_lines(folder / "queries.jsonl", queries)
    judged = "".join(f"q{n}\td{n}\t1\n" for n in range(5))
    (folder / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}")


def make_starter(folder: Path) -> None:
    """Makes a package of the starter's name that carries a tiny random model."""
    package = folder / STARTER_PACKAGE
    model = tiny_model("bert", package / "model", None, {"max_position_embeddings": MAX_LENGTH})
    settings = json.loads((model / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings["model_max_length"] = MAX_LENGTH
    (model / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    for name, text in SentenceSettings("mean", True).files(32).items():
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_text(text, encoding="utf-8")
    (package / "__init__.py").write_text("", encoding="utf-8")


def make_smollm2(folder: Path) -> None:
    """Makes a package of the small chat model's name that carries a tiny random one."""
    package = folder / SMOLLM2_PACKAGE
    package.mkdir(parents=True)
    save_gguf(tiny_llama(MAX_LENGTH), package / "tiny.gguf")
    (package / "__init__.py").write_text("", encoding="utf-8")


def copied(source: Path, target: Path) -> None:
    """Copies the files and runs of one folder into another."""
    shutil.copytree(source, target, dirs_exist_ok=True)
