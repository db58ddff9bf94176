"""The tables of docs/performance.md, from results that are made up."""

from __future__ import annotations

from benchmarks.speed_page import _has_task, _not_compiled, _num_texts, _tasks, _tuning


def side(speed, mfu=0.1):
    return {"tokens_per_second": speed, "range": [speed - 1, speed + 1], "mfu": mfu}


def entry(device, sides, **more):
    return {"device": device, "roof": 2e12, "threads": 2, "rounds": 3, "sides": sides, **more}


def rows(table):
    """Returns the cells of a table's rows, by its columns; those of one name are numbered."""
    lines = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("|")]
    names = [f"{name} {lines[0][:n].count(name)}" for n, name in enumerate(lines[0])]
    return [dict(zip(names, line, strict=True)) for line in lines[2:]]


def test_a_peer_has_its_share_and_its_memory_beside_ours():
    sides = {"ours": side(300, 0.5), "Trainer, fp32": side(100, 0.2), "Trainer, bf16": side(50)}
    found = entry("a CPU", sides, memory={"ours": 2e9, "Trainer, fp32": 4.44e9})
    (row,) = rows(_tuning("a CPU", {"news (a CPU)": found}))
    assert row["MFU 0"] == "50.0%"
    assert row["GB 0"] == "2.0"
    assert row["fastest peer, tokens/s 0"] == "100 [99, 101] (Trainer, fp32)"
    assert row["MFU 1"] == "20.0%"
    assert row["GB 1"] == "4.4"
    assert row["times faster 0"] == "3.00"


def test_what_nobody_measured_is_a_dash():
    sides = {"ours": side(300), "Trainer, grouped": side(100)}
    (row,) = rows(_tuning("a CPU", {"news (a CPU)": entry("a CPU", sides)}))
    assert row["GB 0"] == row["GB 1"] == row["than Trainer, fp32 0"] == row["as installed 0"] == "-"


def test_trainer_as_it_is_installed_has_a_column_of_its_own():
    sides = {"ours": side(300), "Trainer, fp32": side(100), "Trainer, as installed": side(60)}
    (row,) = rows(_tuning("a CPU", {"news (a CPU)": entry("a CPU", sides)}))
    assert (row["than Trainer, fp32 0"], row["as installed 0"]) == ("3.00", "5.00")


def test_a_table_says_how_many_rounds_it_has():
    sides = {"ours": side(300), "Trainer, fp32": side(100)}
    known = {
        f"{name} (a CPU)": entry("a CPU", sides, rounds=number)
        for name, number in (("news", 5), ("sentences", 2))
    }
    assert "2.00 TFLOP/s, 2 or 5 rounds:" in _tuning("a CPU", known)


def test_any_gpu_is_compared_with_bf16_and_a_cpu_with_fp32():
    sides = {"ours": side(300), "Trainer, fp32": side(100), "Trainer, bf16": side(150)}
    of = {
        name: rows(_tuning(name, {f"news ({name})": entry(name, sides, **more)}))[0]
        for name, more in (
            ("NVIDIA H100 80GB HBM3", {}),
            ("NVIDIA H200", {"kind": "cuda"}),
            ("x86_64 CPU with avx2", {}),
            ("another processor", {"kind": "cpu"}),
        )
    }
    usual = [
        row.get("than Trainer, bf16 0", row.get("than Trainer, fp32 0")) for row in of.values()
    ]
    assert usual == ["2.00", "2.00", "3.00", "3.00"]


def test_shares_are_of_the_highest_peak_that_a_machine_has_shown():
    known = {
        f"{name} (a CPU)": entry("a CPU", {"ours": side(3, 0.5), "Trainer, fp32": side(1, 0.4)})
        for name in ("news", "sentences")
    }
    known["news (a CPU)"]["roof"] = 1e12
    shares = [(row["MFU 0"], row["MFU 1"]) for row in rows(_tuning("a CPU", known))]
    assert shares == [("50.0%", "40.0%"), ("25.0%", "20.0%")]


def test_the_first_round_is_told_where_a_peer_compiles():
    sides = {"ours": side(3), "Trainer, fp32": side(1), "Trainer, fp32, compiled": side(2)}
    first = {"ours": 1.4, "Trainer, fp32, compiled": 61.2}
    known = {"news (a CPU)": entry("a CPU", sides, first_round_seconds=first)}
    told = "The first round, which does not count (news): ours 1 s, Trainer, fp32, compiled 61 s."
    assert _tuning("a CPU", known).endswith(told)
    assert _not_compiled(known) == ""
    del sides["Trainer, fp32, compiled"], first["Trainer, fp32, compiled"]
    assert "first round" not in _tuning("a CPU", known)
    assert _not_compiled(known) == " Peers that compile."


def test_the_numbers_of_texts_are_those_that_were_measured():
    known = {
        "vectors (a)": {"device": "a", "texts": 1500},
        "labels (b)": {"device": "b", "texts": 9},
    }
    assert _num_texts(known) == "1,500 on a; 9 on b"


def test_every_machine_has_a_table_of_the_tasks():
    known = {
        f"WNUT17 ({device})": {
            "device": device, "threads": 2, "roof": 1e12, "task": "token-classification",
            "max_length": 128, "batch_rows": 32, "mfu": 0.25,
            "tokens_per_second": {"ours": [30, 10, 20], "as it comes": [5], "at its fastest": [10]},
        }
        for device in ("a CPU", "a CPU (amx_bf16 hidden)")
    }  # fmt: skip
    told = _tasks(known)
    assert [row["rows 0"] for row in rows(told.split("\n\n**a CPU (")[0])] == [
        "WNUT17, 32 of at most 128 tokens"
    ]
    assert told.count("| 20 | 25% | 5 | 10 | 4.00 / 2.00 |") == 2
    assert "**a CPU (amx_bf16 hidden)**, 2 threads" in told
    assert _has_task("token-classification", known)
    assert not _has_task("multi-task", known)
